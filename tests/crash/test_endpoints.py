"""A whole run whose members are endpoints, killed and resumed: nothing is asked twice, and the key is nowhere."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from gra_hpc.run.journal import decode
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from tests.run.test_plan import seeds_file
from tests.waiting import until
from tools.simulated.endpoint import SECRET

ROOT = Path(__file__).resolve().parents[2]
PRESET = """\
models:
  a: {{endpoint: {{url: "{first}", model: a, key_env: CAMPUS_WORD, concurrency: 4}}, licence: apache-2.0}}
  b: {{endpoint: {{url: "{first}", model: b, key_env: CAMPUS_WORD}}}}
  c: {{endpoint: {{url: "{first}", model: c, key_env: CAMPUS_WORD, requests_per_minute: 60000}}}}
  d: {{endpoint: {{url: "{second}", model: d, key_file: "{key}"}}}}
  e: {{endpoint: {{url: "{second}", model: e, key_file: "{key}"}}}}
seeds: {{path: "{seeds}", licence: cc0-1.0}}
method: {{accept_mean: 6.0, accept_sd: 2.0, adjudicate_mean: 6.0, sampling: {{max_tokens: 256}}, verdict_tokens: 160}}
merge: {{semantic: false}}
launch: {{window: 6, shards: 1, heartbeat_s: 1.0}}
release: {{licence: apache-2.0, validation: 0.1}}
"""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[str, list[str], list[Path]]]:
    """A key and two servers that want it: the second fails every other call."""
    key = secrets.token_hex(24)  # made anew each time: it is in no file of ours
    started, ports, logs = [], [], []
    for number, (models, turns) in enumerate((("a,b,c", "ok"), ("d,e", "ok,429,ok,500,ok,drop"))):
        port, log = tmp_path / f"port-{number}", tmp_path / f"log-{number}"
        words = ["--models", models, "--turns", turns, "--log", log, "--port-file", port, "--latency", "0.01"]
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "tools.simulated.endpoint", *map(str, words)],
                env={**os.environ, SECRET: key}, cwd=ROOT,
            )
        )  # fmt: skip
        ports.append(port)
        logs.append(log)
    until(lambda: all(p.exists() for p in ports), lambda: all(p.poll() is None for p in started))
    yield key, [f"http://127.0.0.1:{p.read_text()}/v1" for p in ports], logs
    for p in started:
        p.terminate()
        p.wait()


def answered(logs: list[Path]) -> list[int]:
    """Seeds of the calls that were answered, in order."""
    lines = [json.loads(line) for log in logs if log.exists() for line in log.read_text().splitlines()]
    return [seed for turn, seed, _ in lines if turn == "ok"]


def journalled(run: Run) -> set[int]:
    """Seeds of the calls in the run's journals."""
    found: set[int] = set()
    for journal in run.path.glob("rounds/*/shards/*/attempts/*/journal.log"):
        whole, _, _ = journal.read_bytes().rpartition(b"\n")
        found |= {decode(line).seed for line in whole.splitlines()}
    return found


def texts(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """Everything in a directory's files, tables as they read."""
    for path in directory.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()
            if path.suffix == ".parquet":
                yield path, repr(pq.read_table(path).to_pylist()).encode()


@pytest.mark.timeout(300)
def test_five_endpoints_killed_and_resumed(tmp_path: Path, servers: tuple[str, list[str], list[Path]]) -> None:
    key, (first, second), logs = servers
    home = tmp_path / "home"
    home.mkdir()
    secret = home / "key"
    secret.touch(mode=0o600)
    secret.write_text(f"{key}\n")
    preset = tmp_path / "five.yaml"
    seeds = seeds_file(tmp_path / "seeds.jsonl", 9)
    preset.write_text(PRESET.format(first=first, second=second, key=secret, seeds=seeds))
    here = tmp_path / "work"
    here.mkdir()
    env = {**os.environ, "CAMPUS_WORD": key, "PYTHONPATH": str(ROOT)}

    def program(*words: object) -> subprocess.Popen[bytes]:
        with (here / "printed").open("ab") as out:
            return subprocess.Popen(
                [sys.executable, str(ROOT / "jobs/run.py"), *map(str, words)], env=env, stdout=out, stderr=out,
                start_new_session=True, cwd=here,
            )  # fmt: skip

    process = program(here / "run", "--preset", preset)
    until(lambda: (here / "run").exists() and len(set(answered(logs))) > 30, lambda: process.poll() is None)
    for p in psutil.process_iter(["cmdline"]):
        assert key not in " ".join(p.info["cmdline"] or []), "a process list shows it"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run = Run.open(here / "run")
    before, counts = journalled(run), [len(answered([log])) for log in logs]
    assert before
    process = program(run.path)
    assert process.wait() == 0, (here / "printed").read_text()

    again = [s for log, count in zip(logs, counts, strict=True) for s in answered([log])[count:] if s in before]
    twice = len(answered(logs)) - len(set(answered(logs)))
    assert not again
    assert twice <= 6 * 3, "only what was in flight may have been lost with the process"
    lines = [json.loads(line)[0] for line in logs[1].read_text().splitlines()]
    assert {"429", "500", "drop"} <= set(lines)

    asked: dict[str, Any] = read_json(run.round(1).shard(0).manifest)["engines"]["engines"]
    assert set(asked) == {"a", "b", "c", "d", "e"} and asked["d"]["again"]
    rejected = (run.release / "manifest.json").read_text()
    card = (run.release / "README.md").read_text()
    assert "Hosted elsewhere" in card and "at 127.0.0.1" in card and "refused by the engine" not in rejected
    for path, content in texts(here):
        assert key.encode() not in content, path
    assert "CAMPUS_WORD" not in (run.release / "run.yaml").read_text() + rejected
