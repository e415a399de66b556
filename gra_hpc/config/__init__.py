"""Settings of a run: dataclasses with a docstring and bounds per field, presets, and what of them is frozen.

Read `settings` first: every key, with its meaning. `presets` composes YAML files and `key=value` words into one
`RunConfig`; `rules` refuses what cannot be; `frozen` says what a run's fingerprint covers. A field marked `unfrozen`
decides where and how work runs, and may change between two attempts.
"""
