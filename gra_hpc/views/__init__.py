"""What people are shown of a run: `plan` and `estimate` before it, `status` and `logs` while it goes on, `sample` of
what it made.

A view reads files and, at most once, Slurm's queue. It writes nothing.
"""
