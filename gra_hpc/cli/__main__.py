"""`python -m gra_hpc.cli`: the same as `gra`."""

from gra_hpc.cli import main

main()
