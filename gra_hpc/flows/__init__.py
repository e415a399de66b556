"""The methods: short async functions that ask roles. `gra/synthesize.py` reads like the paper: begin there.

A method is one folder: its functions, its questions, its prompts. What all methods share lies beside the folders:
`ask` (from a question to an answered, journalled call, with bounded retries), `calls` (the door to the engines),
`parsing`, `render`. A flow knows nothing of GPUs, Slurm, files or retries.
"""
