"""The HDF5 file: what `docs/format.md` specifies, and nothing that a model knows."""
