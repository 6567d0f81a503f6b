"""PrivateLoRA's study: what crosses the network, and what it leaves of a cloud's throughput."""
