"""Fields of a configuration's dataclasses: whether a run freezes them, and what their values may be.

`setting` makes a frozen field, `unfrozen` one that may change between two attempts. Bounds stand beside the default;
`rules.check_bounds` checks them, `gra config show` and docs/configuration.md print them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from gra_hpc.errors import ConfigError

MISSING: Any = "???"
"""A setting that must be given: `omegaconf.MISSING`, which is a fifth of what `gra status` would load."""
UNFROZEN: dict[str, Any] = {"fingerprint": False}
"""Metadata of a field that does not change what is written, only where and how it is computed."""


class Most:
    """Largest values of settings that have no other bound: what is beyond is a slip."""

    COUNT = 1_000_000_000
    """Rows, steps."""
    TOKENS = 10_000_000
    """Tokens of one text."""
    TASKS = 1_000_000
    """Shards, and jobs at once."""
    DEVICES = 1024
    """Devices of a node."""
    CPUS = 100_000
    GB = 100_000
    """Memory of a node."""
    SECONDS = 86_400
    """A day."""
    MINUTES = 525_600
    """A year."""
    SEED = 2**32 - 1
    """What numpy takes."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a value may be: of a list each item, of a map each key.

    A number has two bounds, one on either side, so that infinite and absurd ones are refused, and NaN with them.
    """

    ge: float | None = None
    """At least this."""
    gt: float | None = None
    """More than this."""
    le: float | None = None
    """At most this."""
    lt: float | None = None
    """Less than this."""
    choices: tuple[Any, ...] = ()
    """One of these."""
    needed: str = ""
    """Nothing and an empty text are refused; what is expected instead."""

    def holds(self, value: Any) -> bool:
        """Whether the value is as expected."""
        if self.needed:
            return value not in ("", MISSING)
        if self.choices:
            return value in self.choices
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        """For people: `1 to 16`, `above 0, at most 1`, `reject or keep`."""
        if self.needed:
            return self.needed
        if self.choices:
            return in_words(self.choices)
        least = f"above {number(self.gt)}, " if self.gt is not None else f"{number(self.ge)} to "
        most = f"below {number(self.lt)}" if self.lt is not None else number(self.le)
        return f"{least}at most {most}" if self.gt is not None and self.le is not None else f"{least}{most}"


def number(value: float | None) -> str:
    """A bound for people: 10,000,000 or 0.5."""
    assert value is not None, "a number has two bounds"
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def in_words(options: Sequence[object]) -> str:
    """`a, b or c`."""
    *first, last = map(str, options)
    return f"{', '.join(first)} or {last}" if first else last


def setting(default: Any, *, frozen: bool = True, **bounds: Any) -> Any:
    """A field of a configuration.

    Args:
        default: a list or a map is copied for each configuration; a class or a function is called.
        frozen: samples depend on it: a planned run refuses another value.
        bounds: those of `Bounds`.
    """
    metadata = {**({} if frozen else UNFROZEN), **({"bounds": Bounds(**bounds)} if bounds else {})}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def unfrozen(default: Any, **bounds: Any) -> Any:
    """A field of a configuration that may change between two attempts of the same work."""
    return setting(default, frozen=False, **bounds)


def bounds_of(field: dataclasses.Field[Any]) -> Bounds | None:
    """What the values of a field may be; nothing is said of it: None."""
    found: Bounds | None = field.metadata.get("bounds")
    return found


def bounded_values(value: Any) -> Sequence[Any]:
    """What of a field's value its bounds are about."""
    if value is None:
        return ()
    if isinstance(value, Mapping):
        return list(value)
    return value if isinstance(value, list) else [value]


Need: TypeAlias = Callable[[bool, str, object, str], None]
"""`need(ok, key, value, expected)`: refuses a value that is not as expected."""


def expecting(then: str) -> Need:
    """What refuses values.

    Args:
        then: the next command to type.
    """

    def need(ok: bool, key: str, value: object, expected: str) -> None:
        if not ok:
            raise ConfigError(f"{key}={value}: expected {expected}", then)

    return need
