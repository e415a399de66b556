"""From a plan to jobs: arrays, resume, status; Slurm and the local executor."""
