"""A run, opened at the door: its directory, settings and plan, read once, and handed down from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from gra_hpc.run.directory import RunDir
from gra_hpc.run.plan import Plan, RoundPlan
from gra_hpc.storage import OWN, write_atomic

if TYPE_CHECKING:
    from gra_hpc.config.settings import RunConfig


@dataclass(frozen=True, eq=False)
class Run(RunDir):
    """A planned run. Commands, jobs and tasks open it once; nothing below them opens it again."""

    plan: Plan
    settings: Callable[[], RunConfig]
    """What reads its settings."""

    @cached_property
    def config(self) -> RunConfig:
        """Its settings, read when they are first asked for: who only looks at its files does without."""
        return self.settings()

    @classmethod
    def open(cls, path: Path | str, overrides: Sequence[str] = ()) -> Run:
        """A run to work on: its settings are those that were planned, and nobody else's to change.

        Args:
            path: the run's directory.
            overrides: `key=value` settings outside the fingerprint, for this process.

        Raises:
            GraError: not a run, or a damaged one.
            OwnershipError: another user's run, or one whose settings others may write.
            FingerprintError: a frozen setting, the prompts or the code are not those of the plan, with the keys.
        """
        run = cls._existing(path, overrides, own=True)
        run.plan.verify(run.config, run)
        return run

    @classmethod
    def to_look_at(cls, path: Path | str, overrides: Sequence[str] = ()) -> Run:
        """A run that is only looked at or cleaned up: also one that was planned with other code.

        Raises:
            GraError: not a run, or a damaged one.
        """
        return cls._existing(path, overrides, own=False)

    @classmethod
    def _existing(cls, path: Path | str, overrides: Sequence[str], own: bool) -> Run:
        directory = RunDir.existing(path)
        return cls(directory.path, Plan.load(directory, own), partial(_settings, directory.config_file, overrides, own))

    @property
    def rounds(self) -> list[int]:
        """Numbers of its rounds; 0 only if there are seeds to describe."""
        return [*([0] if self.plan.undescribed else []), *range(1, self.plan.rounds + 1)]

    def shards_of(self, number: int) -> int:
        """Shards of a round."""
        return RoundPlan.load(self.round(0)).shards if number == 0 else self.plan.shards

    def save(self) -> None:
        """Write its settings: those outside the fingerprint may have changed."""
        from gra_hpc.config import presets

        write_atomic(self.config_file, presets.dump(self.config).encode(), mode=OWN)


def _settings(file: Path, overrides: Sequence[str], own: bool) -> RunConfig:
    """Loading them takes as long as all else that `gra status` does."""
    from gra_hpc.config import presets
    from gra_hpc.config.site import SiteConfig

    last = f"site.{fields(SiteConfig)[-1].name}"  # behind it are a flow's own settings, which are frozen
    return presets.load(file, overrides, own, last)
