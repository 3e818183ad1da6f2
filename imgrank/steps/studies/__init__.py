"""Studies: what a parameter of retrieval does to its quality, as in the figures of arXiv:2604.13268."""
