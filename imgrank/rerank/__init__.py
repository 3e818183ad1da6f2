"""The second stage: scores of (query, candidate) pairs, and the order that follows from them."""
