"""Pixels to global descriptors: one protocol (`base`), a table of names (`registry`), one module per library."""
