"""Photos to pixels: find the files, read them within limits, decode them, and bring them to a size."""
