"""Any file of a run may be damaged, replaced by something without an end, or say other things: each command ends, with
one line where it cannot go on, and never with a traceback."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from gra_hpc.cli import main
from gra_hpc.run.run import Run
from gra_hpc.storage import sealed
from tools.faults.faults import make_run, undisturbed

pytestmark = pytest.mark.timeout(300)

ODD: list[Any] = [None, "x", -1, 1.5, [], {}, ["x"], {"a": 1}, True, 1 << 62]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Run:
    return undisturbed(make_run(tmp_path_factory.mktemp("hostile") / "run", 4, ["launch.shards=2"]))


def contents(path: Path, draw: random.Random) -> list[bytes]:
    """What may lie there: nothing, other things, and what was there with one value of another type, sealed anew."""
    data = path.read_bytes()
    out = [b"", b"\xff\xfe", b"{", b"[]", b"{}", b"[" * 5000, data[: len(data) // 2], bytes(len(data))]
    if path.suffix == ".json":
        value = orjson.loads(data)
        for key in value:
            for odd in draw.sample(ODD, 2):
                changed = {k: v for k, v in value.items() if k != "seal"} | {key: odd}
                out.append(sealed(changed) if draw.random() < 0.5 else orjson.dumps(changed))
            if isinstance(value[key], dict):
                inner = {k: draw.choice(ODD) for k in value[key]}
                out.append(orjson.dumps(value | {key: inner}))
    return out


@pytest.mark.parametrize(
    ("seed", "share"), [(1, 0.08), *(pytest.param(n, 1.0, marks=pytest.mark.slow) for n in range(2, 6))]
)
def test_commands_end(
    done: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, seed: int, share: float
) -> None:
    """So large a share of some thousand pairs of a file and what lies in its place; two commands for each."""
    draw = random.Random(seed)
    commands: list[Callable[[Path], list[str]]] = [
        lambda p: ["status", str(p)],
        lambda p: ["inspect", str(p)],
        lambda p: ["logs", str(p)],
        lambda p: ["release", "verify", str(p / "release")],
        lambda p: ["clean", str(p)],
        lambda p: ["merge", str(p)],
    ]
    run = Path(shutil.copytree(done.path, tmp_path / "run"))
    files = [p for p in sorted(run.rglob("*")) if p.is_file() and "report" not in p.name]
    failed = []

    def ends(words: list[str], what: str) -> None:
        monkeypatch.setattr(sys, "argv", ["gra", *words])
        try:
            main()
        except SystemExit:
            pass
        except BaseException as e:
            failed.append(f"{what}: {' '.join(words[:2])}: {type(e).__name__}: {e}"[:300])
        out = capsys.readouterr()
        if "Traceback" in out.out + out.err:
            failed.append(f"{what}: {words[0]}: traceback printed")

    for path in files:
        before = path.read_bytes()
        kinds: list[bytes | str] = [
            *draw.sample(contents(path, draw), 6),
            "fifo",
            "directory",
            "/dev/zero",
            "nowhere",
        ]
        for kind in [k for k in kinds if draw.random() < share]:
            path.unlink()
            if isinstance(kind, bytes):
                path.write_bytes(kind)
            elif kind == "fifo":
                os.mkfifo(path)
            elif kind == "directory":
                path.mkdir()
            else:
                path.symlink_to(kind)
            name = f"{path.relative_to(run)} {kind[:60]!r}"
            for command in draw.sample(commands[:5], 2) + ([commands[5]] if draw.random() < 0.2 else []):
                ends(command(run), name)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            path.write_bytes(before)
    assert not failed, "\n".join(failed)
