"""Published data sets: their photos, queries and ground truth, read as they are published on disk."""
