"""What tests and tools/faults/chaos.py need to disturb runs: small runs, processes to kill, an audit of every call."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gra_hpc.config import presets
from gra_hpc.records import DOMAINS
from gra_hpc.run import planning
from gra_hpc.run.directory import ShardDir
from gra_hpc.run.journal import Scan, call_name, scan
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json

ROOT = Path(__file__).resolve().parents[2]
SYNTHESIZE, MERGE, DYING = ROOT / "jobs/synthesize.py", ROOT / "jobs/merge.py", ROOT / "tools/faults/dying.py"
WHOLE_RUN = ROOT / "jobs/run.py"

PRESET = """\
# Five seats over one model that is never loaded: the simulated engine answers, the same at every attempt.
models:
  tiny: {{path: {model}, load_format: dummy, max_model_len: 2048, kv_cache_gb: 0.05, licence: apache-2.0}}
committee:
  ada: {{model: tiny, persona: "Prefer concrete topics."}}
  ben: {{model: tiny}}
  cyd: {{model: tiny}}
  dee: {{model: tiny}}
  eve: {{model: tiny}}
seeds: {{path: {seeds}, licence: cc0-1.0}}
method: {{accept_mean: 6.0, accept_sd: 2.0, adjudicate_mean: 6.0, sampling: {{max_tokens: 256}}, verdict_tokens: 160}}
merge: {{semantic: false}}
engine: {{kind: simulated, simulated_failures: 0.03}}
launch: {{window: 8, heartbeat_s: 1.0}}
release: {{licence: apache-2.0, validation: 0.1}}
"""


def make_run(path: Path, seeds: int, overrides: Sequence[str] = ()) -> Run:
    """Plan a run over made-up seeds (all described: no round 0) with the simulated engine.

    Needs models/tiny-llama (`python tools/models/get_models.py tiny-llama`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    records = path.with_name(f"seeds-{seeds}.jsonl")
    with records.open("w", encoding="utf-8") as f:
        for i in range(seeds):
            record = {
                "instruction": f"Explain the made-up topic number {i} in plain words, with one example.",
                "response": f"Topic {i} is an example of itself; so are its neighbours {i - 1} and {i + 1}.",
                "domain": DOMAINS[i % len(DOMAINS)],
                "keywords": ["topics", f"number {i}", "examples"],
                "summary": f"A made-up topic, number {i}.",
            }
            f.write(json.dumps(record) + "\n")
    preset = path.with_name(f"{path.name}.preset.yaml")
    preset.write_text(PRESET.format(model=ROOT / "models/tiny-llama", seeds=records), encoding="utf-8")
    return planning.make(path, presets.compose(str(preset), overrides))


def undisturbed(run: Run) -> Run:
    """Run all shards and merges in this process, one after another, without a fault."""
    from gra_hpc.launch.round_end import finish_round
    from gra_hpc.run.worker import run_shard

    while steps := remaining(run):
        for shard in steps[0].shards:
            run_shard(run, steps[0].round, shard)
        finish_round(run, steps[0].round)
    return run


# ---- processes -------------------------------------------------------------------------------------------------------


@dataclass
class Started:
    """A process to be killed, however it was started."""

    pid: int
    log: Path
    _poll: Callable[[], int | None]
    began: float = field(default_factory=time.monotonic)

    def poll(self) -> int | None:
        """The exit code (negative: the signal), or none while it runs."""
        return self._poll()

    def wait(self, timeout: float = 400.0) -> int:
        """The exit code, once it has ended.

        Raises:
            TimeoutError: with the end of its log; the process is killed.
        """
        deadline = time.monotonic() + timeout
        while (code := self._poll()) is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                self._poll()
                raise TimeoutError(f"process {self.pid} did not end within {timeout:g} s: {self.tail()}")
            time.sleep(0.005)
        return code

    def signal(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, if it still runs."""
        if self._poll() is None:
            os.kill(self.pid, number)

    def tail(self, characters: int = 2000) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace", encoding="utf-8")[-characters:]


def start(script: Path, *args: object, log: Path, dying: Sequence[object] = (), host: str = "", **env: str) -> Started:
    """A plain process: `python SCRIPT ARGS`, with its output in `log`.

    Args:
        dying: options of tools/faults/dying.py, to die at a boundary.
        host: a node name of its own (needs root).
    """
    wrapper = [str(DYING), *map(str, dying)] if dying else []
    named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host] if host else []
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*named, sys.executable, *wrapper, str(script), *map(str, args)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **env},
        )
    return Started(process.pid, log, process.poll)


class Nursery:
    """Processes forked from one that has imported everything: a twentieth of a second each, and as mortal."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, str(DYING), "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def start(self, script: Path, *args: object, log: Path, **dying: Any) -> Started:
        """As `start`; `dying` are the arguments of `dying.Boundaries`."""
        words = {k: str(v) if isinstance(v, Path) else v for k, v in dying.items()}
        pid = self._ask({"start": {"script": str(script), "args": [*map(str, args)], "log": str(log), **words}})
        ended: list[int] = []

        def poll() -> int | None:
            if not ended and (code := self._ask({"wait": pid, "poll": True})) is not None:
                ended.append(code)
            return ended[0] if ended else None

        return Started(pid, log, poll)

    def _ask(self, order: dict[str, Any]) -> Any:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        """End the server; what it forked lives on."""
        self._server.communicate()


def wait_for(what: Callable[[], Any], timeout: float = 200.0, every: float = 0.003) -> Any:
    """The first true answer.

    Raises:
        TimeoutError: there was none in time.
    """
    deadline = time.monotonic() + timeout
    while not (answer := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s")
        time.sleep(every)
    return answer


@contextmanager
def small_disk(at: Path, kilobytes: int) -> Iterator[Callable[[int], None]]:
    """A real file system of that size on a directory (a tmpfs; needs root); yields what resizes it.

    Raises:
        PermissionError: no right to mount.
    """
    at.mkdir(parents=True, exist_ok=True)
    options = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(at)]
    if subprocess.run(options, capture_output=True, check=False).returncode:
        raise PermissionError("no right to mount a tmpfs")

    def resize(to: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={to}k", str(at)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


# ---- the audit -------------------------------------------------------------------------------------------------------


def journals(shard: ShardDir) -> dict[str, set[bytes]]:
    """Names of the whole calls in every journal of a shard that lies on the disk now, by attempt."""
    found = {}
    for file in sorted(shard.attempts.glob("*/journal.log")) if shard.attempts.is_dir() else []:
        found[file.parent.name] = {line[0] for line in scan(file, Scan(file))}
    return found


@dataclass
class Audit:
    """What became of every answered call of one shard, from its journals after each stop and its final table."""

    shard: ShardDir
    answered: set[bytes] = field(default_factory=set)
    """Calls that were whole on the disk when an attempt had stopped."""
    damaged: int = 0
    """Of these, destroyed on the disk by the fault itself."""
    reasked: int = 0
    """Calls that an attempt asked though a journal on the disk held the answer when it started."""
    attempts: int = 0
    _known: set[bytes] = field(default_factory=set)
    _before: set[str] = field(default_factory=set)

    def starting(self) -> None:
        """Call just before an attempt, or several at once, start."""
        now = journals(self.shard)
        self._known, self._before = set().union(*now.values()), set(now)

    def stopped(self) -> None:
        """Call when no attempt runs any more."""
        for attempt, names in journals(self.shard).items():
            if attempt not in self._before:
                self.attempts += 1
                self.reasked += len(names & self._known)
                self.answered |= names

    def hurt(self) -> None:
        """Call when journals have been damaged on purpose: what is gone counts as damaged, not as lost."""
        left = set().union(*journals(self.shard).values())
        self.damaged += len(self.answered - left)
        self.answered &= left

    def published(self) -> tuple[int, int]:
        """Answered calls in the final table, and answered calls that are missing there.

        Raises:
            AssertionError: the manifest's own count does not add up.
        """
        manifest = read_json(self.shard.manifest)
        table = pq.read_table(self.shard.path / manifest["calls"]["file"], columns=["key", "digest"])
        names = {call_name(r["key"], r["digest"]) for r in table.to_pylist()}
        assert len(names) == table.num_rows, "a call was published twice"
        own = next(a for a in manifest["attempts"] if a["attempt"] == manifest["attempt"])
        assert own["calls"] + own["replayed"] == len(names), f"{own}: the table has {len(names)} calls"
        if manifest["attempt"] not in self._before:
            self.attempts += 1
            self.reasked += max(0, len(self._known & names) - own["replayed"])
        return len(names), len(self.answered - names)


# ---- results ---------------------------------------------------------------------------------------------------------


def sample_rows(shard: ShardDir) -> list[dict[str, Any]]:
    """A published shard's samples: all there is to know about them, in order."""
    return list(pq.read_table(shard.path / read_json(shard.manifest)["samples"]["file"]).to_pylist())


def call_rows(shard: ShardDir) -> list[dict[str, Any]]:
    """A published shard's calls, without the time at which they were made."""
    table = pq.read_table(shard.path / read_json(shard.manifest)["calls"]["file"])
    return list(table.drop_columns(["at", "seconds"]).to_pylist())


def check_shard(shard: ShardDir, reference: ShardDir) -> None:
    """A published shard is whole, alone in its directory, and equal to the undisturbed one.

    Raises:
        AssertionError: it is not.
    """
    manifest = read_json(shard.manifest)
    Ledger.from_dict(manifest["ledger"]).check(str(shard.path))
    assert manifest["ledger"]["pending"] == 0
    rows = sample_rows(shard)
    ids = [r["id"] for r in rows]
    assert len(ids) == len(set(ids)) == manifest["ledger"]["planned"], "lost or duplicate ids"
    assert rows == sample_rows(reference), f"{shard.path}: samples differ from the undisturbed run's"
    assert call_rows(shard) == call_rows(reference), f"{shard.path}: calls differ from the undisturbed run's"
    tables = [t for t in ("samples", "calls", "signatures") if t in manifest]
    expected = {"manifest.json", *(manifest[t]["file"] for t in tables)}
    left = {p.name for p in shard.path.iterdir()} - expected
    assert not left, f"{shard.path}: left over: {sorted(left)}"
    for table in tables:
        data = (shard.path / manifest[table]["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == manifest[table]["sha256"]


def release_of(run: Run) -> dict[str, str]:
    """Digests of all that a run makes for its users: every round's merged tables, and the release's data files."""
    merged = [file for n in run.rounds if n for file in (run.round(n).kept, run.round(n).pool, run.round(n).dropped)]
    files = [*merged, *sorted(run.release.glob("data/*.parquet"))]
    return {str(f.relative_to(run.path)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
