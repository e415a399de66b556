"""What is read from outside: seeds and benchmarks."""
