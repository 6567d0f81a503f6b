"""DFTSP (arXiv 2405.07140): batches of requests with deadlines, by the paper's model of a wireless
edge and on this project's own server."""
