"""The merge: published shards of a round -> the next pool (decontaminated, without duplicates, best first).

`round` builds `merged/` whole or not at all: `collect` reads the shards, `steps` drops rows in a fixed order,
`manifest` writes down what came of it. One rule per folder: `near` (by words), `semantic` (by embeddings);
`gra_hpc.text` says when two texts are the same. Bounded in memory, and the same for the same shards in any order.
"""
