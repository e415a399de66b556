"""Near-duplicates by words."""
