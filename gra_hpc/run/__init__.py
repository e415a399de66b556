"""A run on disk: its plan, rounds, shards, attempts and journals."""
