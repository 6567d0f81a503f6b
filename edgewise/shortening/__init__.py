"""Models of fewer blocks: a span that changes hidden states little is dropped, or one block learns
to do what it did (LLM-Streamline, arXiv 2403.19135)."""
