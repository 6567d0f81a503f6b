"""Which size, which compression, adapter or retrieval or neither: rules from facts to advice.

After "Empirical Guidelines for Deploying LLMs onto Resource-constrained Edge Devices" (arXiv
2406.03777), of which the abstract was read and what reviews quote; thresholds are ours.
"""
