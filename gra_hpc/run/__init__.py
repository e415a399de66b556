"""A run on disk. Files are the truth: what is done is what has been published.

`directory` names everything; `run.Run` opens it once. `planning` makes it, `plan` says what is frozen, `rounds` what
is left. `shard` is one slice of the seeds on one node, from its `slices` over its `journal` to what it `publish`es,
with a `ledger` that balances.
"""
