"""Measuring a model: benchmarks through lm-evaluation-harness, and the loss on held-out human-written answers.

`job` is an array of one task a benchmark with a merge behind it (`table`); `process/` is what a benchmark's own
process runs.
"""
