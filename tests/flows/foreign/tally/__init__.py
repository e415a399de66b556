"""A flow whose second round asks nobody: `flow.py`."""
