"""A flow whose rows are compared by columns of other names: `flow.py`."""
