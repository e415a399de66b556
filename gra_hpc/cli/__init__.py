"""`gra`: the commands. Each imports what it needs when it runs, so that `gra --help` is instant on a login node."""

from __future__ import annotations

import sys

from gra_hpc.cli import configuration, releases, runs, sites
from gra_hpc.cli.application import app
from gra_hpc.errors import GraError

__all__ = ["app", "configuration", "main", "releases", "runs", "sites"]


def main() -> None:
    """Run a command; a `GraError` becomes one line and its exit code."""
    try:
        app()
    except GraError as e:
        print(f"gra: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        print("gra: interrupted; what was answered is kept -> gra resume RUN", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
