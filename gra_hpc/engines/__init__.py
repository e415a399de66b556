"""Engines: processes that host models, behind one narrow door (`flows.calls.Engine`)."""
