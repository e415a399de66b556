"""A flow without questions whose rows are records: `flow.py`."""
