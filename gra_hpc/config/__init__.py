"""Settings of a run: the dataclasses, their rules, presets, and what of them is frozen."""
