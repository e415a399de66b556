"""The merge: published shards of a round -> the next pool (deduplicated, decontaminated, best first)."""
