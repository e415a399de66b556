"""Data of others that multiply, nest, or are of another type."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from gra_hpc import storage
from gra_hpc.config import presets
from gra_hpc.errors import ConfigError, StorageError
from gra_hpc.foreign import fits, load_yaml
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.directory import AttemptDir


def bomb(of: str = "l", levels: int = 9) -> str:
    """Aliases of aliases: a few lines that come to a milliard values."""
    first = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" if of == "l" else "a0: &a0 {a: x, b: x, c: x}\n"
    each = (
        (lambda i: f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n")
        if of == "l"
        else (lambda i: f"a{i}: &a{i} {{a: *a{i - 1}, b: *a{i - 1}, c: *a{i - 1}}}\n")
    )
    return first + "".join(each(i) for i in range(1, levels if of == "l" else 3 * levels))


REFUSED = {
    "lists of lists": bomb(),
    "maps of maps": bomb("m"),
    "merge keys": "a: &a {x: 1}\n" + "".join(f"b{i}: &b{i} {{<<: *a, y: *a}}\n" for i in range(9)) + bomb(),
    "inside itself": "a: &a [*a]",
    "inside itself, deeper": "a: &a {b: {c: [*a]}}",
    "nested": "a: " + "[" * 50_000,
    "nested, closed": "a: " + "[" * 500 + "]" * 500,
    "nested blocks": "- " * 500 + "x",
    "nested keys": "? " * 500 + "x",
    "nested maps": "".join(f"{' ' * i}a:\n" for i in range(300)),
    "no date": "a: 2001-13-45",
    "no time": "a: 2001-01-01 99:99:99",
    "digits": "a: " + "9" * 5000,
    "no YAML": "a: [",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_yaml_that_is_more_than_it_seems_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)
    path = tmp_path / "preset.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"not valid YAML|unknown key a") as e:  # no date there is a text
        presets.compose(str(path))
    assert len(str(e.value)) < 500


def test_ordinary_aliases_and_merges_are_read() -> None:
    text = "a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, z: *a}\nc: [*a, *a]\n"
    assert load_yaml(text) == yaml.safe_load(text)
    long = "".join(f"k{i}: [{i}, {i}]\n" for i in range(3000))
    assert load_yaml(long) == yaml.safe_load(long)


@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "dangling"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "heartbeat.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    for read in (storage.read_json, storage.sha256, storage.open_regular):
        with pytest.raises(OSError, match=r"not a regular file|Is a directory|No such file"):
            read(path)
    assert Heartbeat.read(AttemptDir(tmp_path, "a")) is None
    with pytest.raises(OSError, match="no name of a file"):
        storage.open_regular(Path("a\0b"))


@pytest.mark.parametrize("data", [b"[" * 2000, b'{"seal": 1}', b'{"seal": "x", "a": ' + b"[" * 900 + b"]" * 900 + b"}"])
def test_odd_json_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(StorageError):
        storage.read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((k, v) for k in ("attempt", "host", "phase", "message") for v in (1, None, ["x"], {})),
        *((k, v) for k in ("at", "started", "slowest_call_s") for v in ("1", None, [1], True)),
        *((k, v) for k in ("accepted", "calls", "planned", "corrupt", "pid") for v in ("1", None, 1.5, True, [])),
        *(("tokens", v) for v in (1, [], {"a": 1}, {"a": [1]}, {"a": [1, 2, 3]}, {"a": ["1", 2]}, {"a": [1, None]})),
        ("owner", "x"),
        ("gpus", "4"),
    ],
)
def test_a_damaged_heartbeat_is_none(tmp_path: Path, key: str, value: Any) -> None:
    attempt = AttemptDir(tmp_path, "a")
    Heartbeat("a", 0, 1, tokens={"generator": [1, 2]}).write(attempt)
    assert Heartbeat.read(attempt) is not None
    attempt.heartbeat.write_bytes(storage.to_json(storage.read_json(attempt.heartbeat) | {key: value}))
    assert Heartbeat.read(attempt) is None


def test_types_are_told() -> None:
    assert fits(1, float) and fits(None, int | None) and fits({"a": [1]}, dict[str, list[int]]) and fits([], list[str])
    assert (
        not fits(True, int) and not fits(float("nan"), float) and not fits("1", int | None) and not fits([1], list[str])
    )
