"""gra-hpc: reviewed instruction data from a committee of small LLMs, as batch jobs on Slurm."""

__version__ = "0.1.0"
