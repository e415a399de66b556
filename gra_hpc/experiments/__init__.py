"""Experiments: a grid of seed datasets, ways to make data and base models, each row a chain of jobs and a figure."""
