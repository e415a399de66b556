"""The keys that settings have: what is refused, and which was meant."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from gra_hpc.config.flow_sections import names as flow_names
from gra_hpc.config.settings import RunConfig
from gra_hpc.config.typed_yaml import types_of
from gra_hpc.errors import ConfigError, nearest


def check_keys(kind: Any, data: Any, prefix: str, source: str, root: type = RunConfig) -> None:
    """Refuse keys that no dataclass has, and values of another shape.

    Args:
        kind: what the data are checked by: a dataclass, or a map's type.
        data: of a YAML file or a word of the command line.
        prefix: dotted keys above it, with a dot at the end.
        source: the file, or `command line`.
        root: below it the nearest key is looked for.

    Raises:
        ConfigError: with the nearest, or what was expected.
    """
    if not isinstance(data, dict):
        return
    if dataclasses.is_dataclass(kind):
        hints = types_of(kind)
        for key, value in data.items():
            if key not in hints:
                if root is kind and issubclass(root, RunConfig) and key in flow_names():
                    raise ConfigError(
                        f"{source}: {key}: settings of the flow {key}, and method.flow is another",
                        f"method.flow={key}, or a preset without {key}:",
                    )
                near = elsewhere(str(key), root) or nearest(str(key), list(hints)) or nearest_anywhere(str(key), root)
                raise ConfigError(f"{source}: unknown key {prefix}{key}{near}", f"valid here: {', '.join(hints)}")
            _check_shape(hints[key], value, f"{source}: {prefix}{key}")
            check_keys(hints[key], value, f"{prefix}{key}.", source, root)
    else:
        args = get_args(kind)
        if len(args) == 2 and dataclasses.is_dataclass(args[1]):
            for name, value in data.items():
                _check_shape(args[1], value, f"{source}: {prefix}{name}")
                check_keys(args[1], value, f"{prefix}{name}.", source, root)


def _check_shape(hint: Any, value: Any, where: str) -> None:
    """Refuse a list, a map or a plain value in the place of another; OmegaConf's own words do not name the key."""
    kind = get_origin(hint) or hint
    if value is None or (isinstance(value, str) and "${" in value):
        return
    if dataclasses.is_dataclass(kind) or kind is dict:
        if not isinstance(value, dict):
            names = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else ["NAME"]
            some = ", ".join([*names[:4], *(["..."] if len(names) > 4 else [])])
            raise ConfigError(
                f"{where}={value!r}: expected keys below it ({some})", "gra config show  (explains every key)"
            )
        for name, item in value.items() if kind is dict else ():
            _check_shape(get_args(hint)[1], item, f"{where}.{name}")
    elif kind is list:
        if not isinstance(value, list):
            raise ConfigError(f"{where}={value!r}: expected a list", f"{where.rpartition(' ')[2]}=[{value or ''}]")
        for n, item in enumerate(value):
            _check_shape(get_args(hint)[0], item, f"{where}[{n}]")
    elif kind in (bool, int, float, str) and isinstance(value, (dict, list)):
        raise ConfigError(f"{where}={value!r}: expected one {kind.__name__}", "gra config show  (explains every key)")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        said = f"{where}=({value.bit_length()} bits): expected a number of 64 bits"
        raise ConfigError(said, "gra config show  (explains every key)")


def elsewhere(word: str, root: type = RunConfig) -> str:
    """`; did you mean a.b?` for a key that is right but for its place."""
    places = [key for key in all_keys(root) if key.rsplit(".", 1)[-1] == word]
    return f"; did you mean {' or '.join(places[:3])}?" if places else ""


def nearest_anywhere(word: str, root: type = RunConfig) -> str:
    """`; did you mean a.b?`, over the last words of all keys."""
    by_leaf = {key.rsplit(".", 1)[-1]: key for key in all_keys(root)}
    close = difflib.get_close_matches(word, list(by_leaf), n=1, cutoff=0.7)
    return f"; did you mean {by_leaf[close[0]]}?" if close else ""


def all_keys(kind: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a config dataclass (maps show as NAME)."""
    hints = types_of(kind)
    for f in dataclasses.fields(kind):
        hint = hints[f.name]
        args = get_args(hint)
        if dataclasses.is_dataclass(hint):
            yield from all_keys(hint, f"{prefix}{f.name}.")
        elif len(args) == 2 and dataclasses.is_dataclass(args[1]):
            yield from all_keys(args[1], f"{prefix}{f.name}.NAME.")
        else:
            yield f"{prefix}{f.name}"
