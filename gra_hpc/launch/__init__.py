"""Slurm and the local executor, and nothing else: from what is left of a run to jobs.

`submit` is the door; `queue_gap` compares what is left with Slurm's queue; `arrays` submits, `submissions` writes down
what was submitted, `tasks` is what a job runs, `round_end` what follows a round. Only `slurm` runs Slurm's commands.
`cancel` and `clean` end and tidy.
"""
