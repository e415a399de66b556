"""What a benchmark's own process runs."""
