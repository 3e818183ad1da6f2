"""The studies, each in a file of its own."""
