"""What a merge needs of a text, made where the text is made: in the shard that publishes it, and beside a pool.

`signing` is what is made, of some rows, by a rule that is pinned by digest; `table` keeps it; `signer` is a worker's.
`minhash` and `decontaminate` are what near-duplicates and benchmarks are found by. A merge makes only what is missing.
"""
