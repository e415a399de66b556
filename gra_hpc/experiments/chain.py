"""From an experiment's rows to jobs: data, fine-tuning, evaluation, each waiting for what it needs.

What rows share is made once. What is done, runs or waits is left as it is: to run an experiment again is to go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from gra_hpc.config.settings import RunConfig
from gra_hpc.config.site import Executor
from gra_hpc.errors import GraError, IncompleteError, LaunchError
from gra_hpc.experiments import directory
from gra_hpc.experiments.config import ExperimentConfig, Row, rows_of
from gra_hpc.experiments.directory import ExperimentDir, seeds_of
from gra_hpc.run import planning
from gra_hpc.run.run import Run
from gra_hpc.terminal import word

log = logging.getLogger(__name__)

Say = Callable[[str], None]


@dataclass
class Chain:
    """An experiment on its way to the jobs."""

    made: ExperimentDir
    config: ExperimentConfig
    rows: list[Row]
    say: Say
    problems: dict[str, str] = field(default_factory=dict)
    """What failed, by its name; the rest goes on."""
    merges: dict[str, str] = field(default_factory=dict)
    """Job that makes the release, by the data's name; empty: it is there."""

    def plan(self) -> dict[str, RunConfig]:
        """Plan the data runs, all of them before anything is submitted.

        Raises:
            GraError: seeds, models or settings that cannot be planned with.
        """
        self.made.save(self.config, self.rows)
        configs: dict[str, RunConfig] = {}
        for row in self.rows:
            for seed in seeds_of(self.config, row):
                directory.evaluate_config(self.made, self.config, row, seed)
                if self.config.data[row.data].trained:
                    directory.finetune_config(self.made, self.config, row, seed)
            if not self.config.data[row.data].trained or row.made in configs:
                continue
            configs[row.made] = config = directory.run_config(self.made, self.config, row)
            planning.make(self.made.data(row).path, config)
        return configs

    def run(self) -> None:
        """Submit everything, or do it here.

        Raises:
            IncompleteError: what failed; everything that does not need it was done.
        """
        configs = self.plan()
        for row in self.rows:
            self._row(row, configs.get(row.made))
        if self.problems:
            first = next(iter(self.problems.values()))
            raise IncompleteError(
                f"{self.made.path}: failed: {', '.join(self.problems)}; the first: {first}",
                f"gra experiment status {self.made.name} --dir {word(self.made.path)}",
            )

    def _row(self, row: Row, config: RunConfig | None) -> None:
        after: list[str] = []
        if config is not None:
            if row.made not in self.merges and not self._try(f"data {row.made}", lambda: self._data(row, config)):
                return
            after = [self.merges[row.made]]
        for seed in seeds_of(self.config, row):
            self._try(f"{row} seed {seed}", partial(self._model, row, seed, after))

    def _try(self, what: str, act: Callable[[], None]) -> bool:
        if what in self.problems:
            return False
        try:
            act()
        except GraError as e:
            if stopped(e):
                raise
            log.error("%s: %s", what, e)
            self.problems[what] = str(e)
            return False
        return True

    def _data(self, row: Row, config: RunConfig) -> None:
        run = self.made.data(row)
        job = ""
        if not (run.release / "manifest.json").is_file():
            self.say(f"{row.made}: data")
            job = make_data(Run.open(run.path), config)
        self.merges[row.made] = job

    def _model(self, row: Row, seed: int, after: Sequence[str]) -> None:
        """Fine-tuning and evaluation with one training seed."""
        from gra_hpc.evaluation.job import submit_evaluate
        from gra_hpc.training.job import submit_finetune

        jobs = list(after)
        result = self.made.result(row, seed)
        if (result / "done.json").is_file():
            return
        if self.config.data[row.data].trained:
            self.say(f"{row}: fine-tuning, seed {seed}")
            out = self.made.model(row, seed)
            job = submit_finetune(out, directory.finetune_config(self.made, self.config, row, seed), after)
            jobs = [job] if job else []
            if job:
                self.say(f"  job {job}{_after(after)}")
        self.say(f"{row}: evaluation, seed {seed}")
        config = directory.evaluate_config(self.made, self.config, row, seed)
        job = submit_evaluate(result, config, jobs)
        if job:
            self.say(f"  job {job}{_after(jobs)}")


def stopped(e: GraError) -> bool:
    """Whether a part that ran here was stopped by a person: then nothing else is begun."""
    from gra_hpc.training.job import End

    return isinstance(e, LaunchError) and (End.stopped.value in e.what or "interrupted" in e.what)


def _after(jobs: Sequence[str]) -> str:
    known = [j for j in jobs if j]
    return f" after {', '.join(known)}" if known else ""


def make_data(run: Run, config: RunConfig) -> str:
    """Submit what is left of a data run, or do it here.

    Returns:
        Slurm's id of the job that makes the release; empty when it is there.

    Raises:
        GraError: a shard or a merge failed (here), or Slurm refused.
    """
    from gra_hpc.launch.submissions import live, load_all
    from gra_hpc.launch.submit import submit
    from gra_hpc.views.progress import progress

    submit(run, resume=True, progress=progress)
    if config.site.executor is not Executor.slurm:
        return ""
    last = config.method.rounds
    waiting = [str(task.job) for job, task in live(run) if job.kind == "merge" and job.through == last]
    if waiting:
        return waiting[-1]
    if (run.release / "manifest.json").is_file():
        return ""
    submitted = [j.id for s in load_all(run).values() for j in s.jobs if j.kind == "merge" and j.through == last]
    return submitted[-1] if submitted else ""


def run(made: ExperimentDir, config: ExperimentConfig, patterns: Sequence[str], say: Say) -> Chain:
    """Run the rows of an experiment that match; returns what was done.

    Raises:
        GraError: what cannot be planned, before anything is submitted; or what failed, after everything else.
    """
    chain = Chain(made, config, rows_of(config, patterns), say)
    chain.run()
    return chain


def preview(made: ExperimentDir, config: ExperimentConfig, patterns: Sequence[str]) -> Iterator[str]:
    """Plan the data runs of some rows and show what each comes to.

    Raises:
        GraError: what cannot be planned.
    """
    from gra_hpc.views.plan import engines_of
    from gra_hpc.views.plan import preview as preview_run

    chain = Chain(made, config, rows_of(config, patterns), log.info)
    for name in chain.plan():
        run = Run.open(chain.made.path / "data" / name)
        yield from preview_run(run, engines_of(run.config, run.plan))
        yield ""
    yield f"{len(chain.rows)} rows plan cleanly"
