"""A flow of many turns: `flow.py`."""
