"""Engines: processes that host models, behind one narrow door (`door.py`)."""
