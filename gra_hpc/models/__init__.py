"""Models on disk: files, facts, the Hub, the sentence embedder."""
