"""A release whose files would never end, or are others than they seem: each is a line, and the rest is checked."""

from __future__ import annotations

import copy
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.errors import GraError
from gra_hpc.experiments.progress import _data
from gra_hpc.launch.submit import finish
from gra_hpc.release.build import made_from
from gra_hpc.release.export import export
from gra_hpc.release.manifest import KEYS
from gra_hpc.release.verify.verify import verify
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json, sha256, to_json
from gra_hpc.training.examples import read_examples

pytestmark = pytest.mark.timeout(120)

ODD_NAMES = ["a\0b", "/etc/passwd", "../outside", "x" * 300, "", ".", "data", "a/" * 2000 + "b", "dir/../../x"]


@pytest.fixture
def release(built: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built.release, tmp_path / "release"))


def change_manifest(release: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = read_json(release / "manifest.json")
    change(manifest)
    (release / "manifest.json").write_bytes(to_json(manifest))


def replaced(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path.name, "dangling": "nowhere", "terminal": "/dev/tty"}[kind])


@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "loop", "dangling", "terminal"])
def test_what_is_no_file_is_named_and_the_rest_is_checked(release: Path, kind: str) -> None:
    """Also where the manifest says that it is empty, as a device seems to be."""
    names = ("README.md", "report.html", "data/train-00000-of-00001.parquet", "run.yaml", "rejects/seeds.jsonl")
    there = [n for n in names if (release / n).exists()]
    for name in there:
        replaced(release / name, kind)
    change_manifest(release, lambda m: [m["files"][n].update(bytes=0) for n in there])
    (release / "data/validation-00000-of-00001.parquet").write_bytes(b"cut")
    problems = verify(release)
    assert all(any(p.startswith(f"{n}: ") for p in problems) for n in there)
    assert any(p.startswith("data/validation-00000-of-00001.parquet: 3 bytes") for p in problems)
    replaced(release / "manifest.json", kind)
    (problem,) = verify(release)
    assert "no manifest of a release" in problem


def test_odd_names_are_named(release: Path) -> None:
    change_manifest(release, lambda m: m["files"].update({n: {"bytes": 0, "sha256": "0"} for n in ODD_NAMES}))
    (release / "data/train-00000-of-00001.parquet").unlink()
    problems = verify(release)
    for name in ODD_NAMES:
        assert any(p.startswith(f"{name}: ") for p in problems), name
    assert "data/train-00000-of-00001.parquet: missing" in problems


@pytest.mark.parametrize("file", ["run.yaml", "README.md"])
def test_aliases_that_multiply(release: Path, file: str) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    text = "\n".join(lines) + "\n"
    (release / file).write_text(f"---\n{text}---\n" if file == "README.md" else text)
    size, found = (release / file).stat().st_size, sha256(release / file)
    change_manifest(release, lambda m: m["files"][file].update(bytes=size, sha256=found))
    problems = verify(release)
    assert len(problems) < 5 and any(p.startswith(file) for p in problems), problems


def test_patterns_of_a_card_are_not_followed(release: Path) -> None:
    pattern = "/".join(["**", "*"] * 12)
    text = (release / "README.md").read_text().replace("data/train-*.parquet", f'"{pattern}"')
    (release / "README.md").write_text(text.replace("data/validation-*.parquet", '"/etc/*"'))
    size, found = (release / "README.md").stat().st_size, sha256(release / "README.md")
    change_manifest(release, lambda m: m["files"]["README.md"].update(bytes=size, sha256=found))
    assert any("its header names other data files" in p for p in verify(release))


ODD: list[Any] = [None, "x", -1, 1.5, [], {}, ["x"], {"a": 1}, True, [[[]]], 1 << 62]


@pytest.mark.parametrize("key", KEYS)
def test_a_manifest_of_other_types_is_a_line(release: Path, key: str) -> None:
    """Whatever one key holds, the digests of all files are still checked."""
    good = read_json(release / "manifest.json")
    (release / "report.html").write_text("another")
    for value in ODD:
        (release / "manifest.json").write_bytes(to_json(good | {key: value}))
        problems = verify(release)
        if key not in ("files", "format"):
            assert any(p.startswith("report.html: 7 bytes") for p in problems), value
        assert problems and not any("\n" in p for p in problems), value
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    (release / "manifest.json").write_bytes(b'{"files": ' + b"[" * 900 + b"]" * 900 + b', "format": 3}')
    assert verify(release)


ODD: tuple[Any, ...] = (None, "x", -1, 1.5, [], {}, ["x"], {"a": 1}, True, 1 << 62, "../../x", {"../x": {"rows": 1}})


def places(value: Any, depth: int = 0) -> Iterator[tuple[Any, ...]]:
    """Where a value lies in another one."""
    yield ()
    if depth < 3:
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        inner = list(inner)[: (None, 3, 20)[depth]]
        yield from ((key, *rest) for key, v in inner for rest in places(v, depth + 1))


def test_a_manifest_of_other_types_is_one_line(built: Run, release: Path, tmp_path: Path) -> None:
    """Of a release that somebody else made, too, which is exported and trained on."""
    run = replace(built, path=tmp_path)
    file = release / "manifest.json"
    whole = read_json(file)
    draw = random.Random(5)
    read = ("name", "splits", "files", "config", "ledger", "made_from", "fingerprint")
    commands: list[Callable[[], Any]] = [
        lambda: export(release, "alpaca", tmp_path / "out"), lambda: made_from(release),
        lambda: read_examples(str(release)), lambda: finish(run), lambda: _data(run, []),
    ]  # fmt: skip
    for place in places(whole):
        if place and (place[0] not in read or (len(place) > 2 and place[:2] != ("config", "release"))):
            continue
        changed = copy.deepcopy(whole)
        odd = draw.choice(ODD)
        if place:
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = odd
        else:
            changed = odd
        file.write_bytes(to_json(changed))
        for command in commands:
            try:
                command()
            except GraError as e:
                assert str(release) in str(e), e
    assert {p.name for p in tmp_path.iterdir()} <= {"release", "out"}
