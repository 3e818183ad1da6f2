"""Visual tokens to a small cache: which tokens to keep, and how to store them."""
