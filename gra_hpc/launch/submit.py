"""`gra submit` and `gra resume`: hand what is left of a run to its executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from gra_hpc.config import presets
from gra_hpc.config.settings import RunConfig
from gra_hpc.config.site import Executor
from gra_hpc.errors import LaunchError
from gra_hpc.launch import local
from gra_hpc.launch.submissions import alone
from gra_hpc.run.directory import RunDir
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.plan import Plan
from gra_hpc.run.rounds import remaining
from gra_hpc.run.signal_lead import sized, slowest_call
from gra_hpc.storage import read_json, write_atomic

Progress = Callable[[RunDir], AbstractContextManager[Callable[[], None]]]
"""Opens what shows how a local run goes on; inside, a function to call often."""


def submit(run: RunDir, again: bool, progress: Progress = lambda _: nullcontext(lambda: None)) -> None:
    """Submit a run that was not started (`again=False`), or what is left of one.

    Args:
        progress: what shows how a local run goes on (`views.status_table.progress`); by default nothing does.

    Raises:
        LaunchError: the run was started before, and `again` is off; or another process submits it.
    """
    with alone(run):
        _submit(run, again, progress)


def _submit(run: RunDir, again: bool, progress: Progress) -> None:
    config = presets.load(run.config)
    Plan.load(run).verify(config, run)
    if not again and started(run):
        raise LaunchError(f"{run.path}: was started before", f"gra resume {run.path}")
    steps = remaining(run)
    if not steps and (run.release / "manifest.json").is_file():
        print(f"nothing left to do; release in {run.release}")
        return
    if config.site.executor is Executor.slurm:
        from gra_hpc.launch.arrays import submit_steps

        if "%" in str(run.path):
            raise LaunchError(f"{run.path}: Slurm reads % in the names of logs", "plan it in a directory without one")
        for line in size_lead(run, config):
            print(line)
        for line in submit_steps(run, config, steps):
            print(line)
        print(f"next: gra status {run.path}")
        return
    with progress(run) as watch:
        local.run_all(run, watch)
    finish(run)


def size_lead(run: RunDir, config: RunConfig) -> Iterator[str]:
    """Leave enough time before the limit for the calls that this run makes; `config` and the saved one change.

    Yields:
        What was changed, or cannot be, for people.
    """
    lead, said = sized(config, slowest_call(run))
    if lead != config.site.signal_lead_s:
        config.site.signal_lead_s = lead
        write_atomic(run.config, presets.dump(config).encode())
    if said:
        yield said


def started(run: RunDir) -> bool:
    """Whether any job of the run was submitted or has left a trace."""
    return any(run.submissions.glob("*.json")) or any(run.path.glob("rounds/*/shards/*"))


def reconfigure(run: RunDir, overrides: Sequence[str]) -> None:
    """Change settings outside the fingerprint.

    Raises:
        FingerprintError: a setting that is frozen, with the keys that differ.
    """
    config = presets.load(run.config, overrides)
    Plan.load(run).verify(config, run)
    write_atomic(run.config, presets.dump(config).encode())


def finish(run: RunDir) -> None:
    """Say what a finished run has made."""
    manifest = read_json(run.release / "manifest.json")
    print(f"\nrelease: {run.release}")
    print(f"open it: datasets.load_dataset({str(run.release)!r})")
    print(f"ledger:  {Ledger.from_dict(manifest['ledger']).line()}")
    rows = sum(split["rows"] for split in manifest["splits"].values())
    print(f"rows:    {rows} after deduplication")
