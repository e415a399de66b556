"""The run directory: where everything of a run lies. Files are the truth; this module only names them.

RUN/run.yaml  plan.json  seeds.parquet  seeds.rejects.jsonl  gold.jsonl
    rounds/00/...                                   round 0: the seeds described
    rounds/01/round.json                            how many candidates the round makes; of later rounds: see below
    rounds/01/shards/00000/attempts/ID/{journal.log, heartbeat.json}
    rounds/01/shards/00000/{samples-ID.parquet, calls-ID.parquet, signatures-ID.parquet, manifest.json}
    rounds/01/merged/{pool,kept,dropped}.parquet, manifest.json     the merge of the round, renamed into place
    rounds/01/merging/attempts/ID/heartbeat.json    a merge beside a worker's engines, while it is under way
    rounds/01/merged/next.json                      how many candidates round 2 makes; beside it signatures.parquet
    rounds/01/embeddings/00000-DIGEST.parquet       what the merge embedded itself; of seeds: seeds.embeddings/
    release/                                        the dataset
    audit.json                                      what people said of a sample of it, in figures
    logs/  submissions/
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import ClassVar, Self

from gra_hpc.errors import GraError
from gra_hpc.terminal import word
from gra_hpc.whereabouts import is_run, not_a_run


def is_vacant(path: Path) -> bool:
    """Whether nothing is there, or a directory with nothing but empty ones, as is left of a run that was removed while
    something of it ran."""
    return not os.path.lexists(path) or (
        path.is_dir() and all(p.is_dir() and not p.is_symlink() for p in path.rglob("*"))
    )


def clear_vacant(path: Path) -> None:
    """Remove a directory that holds nothing but empty ones.

    Raises:
        OSError: it holds something by now; that stays.
    """
    if path.exists():
        for directory in sorted(path.rglob("*"), reverse=True):  # the innermost first
            directory.rmdir()
        path.rmdir()


@dataclass(frozen=True)
class OutputDir:
    """Paths of a directory that jobs work on: a run, a fine-tuning, an evaluation."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def submissions(self) -> Path:
        return self.path / "submissions"


@dataclass(frozen=True)
class JobDir(OutputDir):
    """Paths of a directory that one kind of job works on, with the settings it was begun with."""

    KIND: ClassVar[str]
    """For people."""
    COMMAND: ClassVar[str]
    """What begins one: `gra COMMAND DIR --preset paper`."""

    @classmethod
    def existing(cls, path: Path | str) -> Self:
        """One that was submitted.

        Raises:
            GraError: it holds no configuration.
        """
        out = cls(Path(path).absolute())
        if not out.config.is_file():
            raise GraError(f"{path}: not {cls.KIND} (no config.yaml)", f"gra {cls.COMMAND} {word(path)} --preset paper")
        return out

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def done(self) -> Path:
        """Written last."""
        return self.path / "done.json"


@dataclass(frozen=True)
class RunDir(OutputDir):
    """Paths of one run."""

    @classmethod
    def existing(cls, path: Path | str) -> RunDir:
        """A planned run's directory.

        Raises:
            GraError: it holds no plan; with what it is instead, and what to type about that.
        """
        run = RunDir(Path(path).absolute())
        if not is_run(run.path):
            raise not_a_run(Path(path))
        return run

    def check_there(self) -> None:
        """Ask for this where a file of the run is missing: all of them may be.

        Raises:
            GraError: the plan is gone too.
        """
        if not self.plan_file.is_file():
            raise GraError(
                f"{self.path}: the run's directory was removed, or moved (no plan.json)",
                f"bring it back, or gra plan {word(self.path)} --preset, with the one that it was planned by",
            )

    @property
    def config_file(self) -> Path:
        return self.path / "run.yaml"

    def anew(self, *words: str) -> str:
        """What plans a run beside it with its settings, and with others.

        Args:
            words: `key=value`.
        """
        number = next(n for n in count(2) if not Path(f"{self.path}-{n}").exists())
        return shlex.join(["gra", "plan", f"{self.path}-{number}", "--preset", str(self.config_file), *words])

    @property
    def plan_file(self) -> Path:
        return self.path / "plan.json"

    @property
    def seeds(self) -> Path:
        return self.path / "seeds.parquet"

    @property
    def seed_rejects(self) -> Path:
        return self.path / "seeds.rejects.jsonl"

    @property
    def gold(self) -> Path:
        """The gold questions, where there are any (`run/gold.py`)."""
        return self.path / "gold.jsonl"

    @property
    def release(self) -> Path:
        return self.path / "release"

    @property
    def audit(self) -> Path:
        """What people said of a sample of it, in figures (`judging/labels.py`)."""
        return self.path / "audit.json"

    def round(self, number: int) -> RoundDir:
        return RoundDir(self.path / "rounds" / f"{number:02d}", number)


def round_name(number: int) -> str:
    """As people are told: round 0 is another kind of round."""
    return "round 0 (describe)" if number == 0 else f"round {number}"


@dataclass(frozen=True)
class RoundDir:
    """Paths of one round; round 0 describes the seeds."""

    path: Path
    number: int

    @property
    def plan_file(self) -> Path:
        """Made with the run's plan, or with the merge of the round before: in one step, so that none is without it."""
        if self.number < 2:
            return self.path / "round.json"
        return self.path.with_name(f"{self.number - 1:02d}") / "merged" / "next.json"

    @property
    def merged(self) -> Path:
        """Directory that the merge renames into place, whole."""
        return self.path / "merged"

    @property
    def merging(self) -> ShardDir:
        """Workers that merge it beside their engines: their attempts, as at a shard."""
        return ShardDir(self.path / "merging", -1)

    @property
    def pool(self) -> Path:
        """Seeds and all samples accepted so far (`records.record_schema`): what the next round draws examples from."""
        return self.merged / "pool.parquet"

    @property
    def kept(self) -> Path:
        """This round's samples that survived, best first, with their whole history (`records.sample_schema`)."""
        return self.merged / "kept.parquet"

    @property
    def dropped(self) -> Path:
        """This round's accepted samples that the merge dropped: id, step, winner, similarity, detail."""
        return self.merged / "dropped.parquet"

    @property
    def signatures(self) -> Path:
        """What the next round's merge needs of the pool's texts (`signatures/`)."""
        return self.merged / "signatures.parquet"

    @property
    def manifest(self) -> Path:
        """What was merged: counts, ledger, coverage, digests."""
        return self.merged / "manifest.json"

    @property
    def shards(self) -> Path:
        return self.path / "shards"

    def shard(self, number: int) -> ShardDir:
        return ShardDir(self.path.joinpath("shards", self.shard_name(number)), number)

    @staticmethod
    def shard_name(number: int) -> str:
        """Of its directory in `shards`."""
        return f"{number:05d}"


@dataclass(frozen=True)
class ShardDir:
    """Paths of one shard. Tables carry the attempt's id in their name; the manifest says which count."""

    path: Path
    number: int

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def attempts(self) -> Path:
        return self.path / "attempts"

    def attempt(self, attempt_id: str) -> AttemptDir:
        return AttemptDir(self.attempts / attempt_id, attempt_id)

    def samples(self, attempt_id: str) -> Path:
        return self.path / f"samples-{attempt_id}.parquet"

    def calls(self, attempt_id: str) -> Path:
        return self.path / f"calls-{attempt_id}.parquet"

    def signatures(self, attempt_id: str) -> Path:
        """What the merge needs of its accepted samples' texts (`signatures/`)."""
        return self.path / f"signatures-{attempt_id}.parquet"

    def tables(self, attempt_id: str) -> tuple[Path, Path, Path]:
        """All that an attempt publishes."""
        return self.samples(attempt_id), self.calls(attempt_id), self.signatures(attempt_id)


ATTEMPT_NAME = re.compile(r"[\w.+-]{1,200}", re.ASCII)
"""What an attempt's name is made of. A directory of another name beside attempts is nobody's attempt."""


@dataclass(frozen=True)
class AttemptDir:
    """Paths of one attempt at a shard: one writer, ever."""

    path: Path
    id: str

    @property
    def journal(self) -> Path:
        return self.path / "journal.log"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat.json"
