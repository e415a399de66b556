"""The method: short async functions that ask roles. Read `synthesize.py` first; it reads like the paper."""
