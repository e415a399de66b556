"""`gra doctor SITE --prove`: the acceptance test of a cluster, and of us on a GPU.

One job on one node does, with small models and the product's own parts, what a login node cannot look up: engines that
share a device, one that is split over two, one that sleeps and wakes, one that is killed, thoughts before guided JSON,
vectors, two steps of training. Read `job.py` (here, or under Slurm), then `run.py` (the pieces in their order).
"""
