"""The verbs: the one layer where models meet the file. Each module is one verb; none knows a terminal."""
