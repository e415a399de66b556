"""Diagnostics of released data without training: difficulty, diversity, coverage of the seeds, overlap with them."""
