"""Measuring a model: benchmarks through lm-evaluation-harness, and the loss on held-out human-written answers."""
