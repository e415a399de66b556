"""Duplicates in meaning, by embeddings."""
