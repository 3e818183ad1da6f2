"""Descriptors to neighbours: exact search, and search in an HNSW graph."""
