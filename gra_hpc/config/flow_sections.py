"""What a flow adds to the configuration: its name, its own section, its rules.

Flows stand above this room, and a user's package may bring one: they are found as data, by their folders in
`gra_hpc/flows/` or by entry points, and imported when a configuration is read. `flows/registry.py` says what a flow is.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gra_hpc.config.fields import setting
from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import ConfigError, nearest

if TYPE_CHECKING:
    from gra_hpc.config.fields import Need

FOLDER = Path(__file__).parent.parent / "flows"
GROUP = "gra_hpc.flows"
"""Of entry points: `NAME = "package.flow:FLOW"`."""


class Section(Protocol):
    """What the configuration asks of a flow."""

    @property
    def name(self) -> str:
        """As `method.flow` has it."""

    @property
    def settings(self) -> type | None:
        """Dataclass of its own section, which has its name; none: it has no section."""

    @property
    def gold(self) -> object | None:
        """What asks gold questions; none: it has no Reviewers of responses."""

    def forwards(self, config: RunConfig) -> object | None:
        """Says which candidates a round leaves to the next one; none: it leaves none."""

    def check(self, config: RunConfig, need: Need) -> None:
        """Refuse settings that the flow has no use for.

        Raises:
            ConfigError: of `need`.
        """


@functools.cache
def ours() -> dict[str, Section]:
    """The flows that come with the package, by name: `FLOWS` in the module `flow` of each folder."""
    folders = sorted(m.name for m in pkgutil.iter_modules([str(FOLDER)]) if m.ispkg)
    modules = [importlib.import_module(f"gra_hpc.flows.{folder}.flow") for folder in folders]
    return {flow.name: flow for module in modules for flow in module.FLOWS}


@functools.cache
def brought() -> dict[str, EntryPoint]:
    """Flows of other packages, not imported yet: entry points of the group, each of its flow's name."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in ours()}


def names() -> list[str]:
    """Of all flows."""
    return [*ours(), *brought()]


@functools.cache
def section(name: str) -> Section:
    """The flow of that name.

    Raises:
        ConfigError: there is none, with the nearest name; or its package cannot be imported.
    """
    if name in ours():
        return ours()[name]
    if name not in brought():
        raise ConfigError(f"method.flow={name}: no such flow{nearest(name, names())}", f"one of {', '.join(names())}")
    point = brought()[name]
    package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
    try:
        flow: Section = point.load()
    except (Exception, SystemExit, KeyboardInterrupt) as e:  # what a package does when it is imported is its own
        said = str(e) or type(e).__name__
        raise ConfigError(f"method.flow={name}: {point.value} of {package}: {said}", f"mend {package}") from None
    if not isinstance(flow, type(next(iter(ours().values())))) or flow.name != name:
        raise ConfigError(f"method.flow={name}: {point.value} of {package} is no flow of this name", f"mend {package}")
    return flow


@functools.cache
def config_of(name: str) -> type[RunConfig]:
    """A run's configuration with the section of its flow, where it has one.

    Raises:
        ConfigError: of `section`.
    """
    own = section(name).settings
    if own is None:
        return RunConfig
    if name in {f.name for f in dataclasses.fields(RunConfig)}:
        raise ConfigError(f"flow {name}: its settings would stand in the place of a run's own section", "rename it")
    fields = [(name, own, setting(own))]
    return dataclasses.make_dataclass(f"RunConfigOf_{name}", fields, bases=(RunConfig,))
