"""A cluster: what Slurm says of it, what was measured there, models and data on its disks."""
