"""A cluster: what Slurm says of it (`cluster`, `detect`), what was measured there (`calibrate`), and models and data
put on its disks where there is a network (`stage`).
"""
