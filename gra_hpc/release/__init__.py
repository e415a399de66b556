"""The release: merged rounds -> a dataset directory with card, manifest, rejects and report, that can be checked.

`build` puts it together beside its place and renames it there; `inputs` is what it is made from, `schema` what its
tables hold. `report/` is the offline page, `verify/` compares a release with its manifest, `diagnostics/` measures
rows without training.
"""
