"""Adapting a model: gradients through frozen matrices, windows of blocks, exits, and votes."""
