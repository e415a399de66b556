"""The main job on real parts: seeds -> engines -> release, through the commands a user types."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gra_hpc.placement.workload import read_calibration
from gra_hpc.run.directory import RunDir
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.run import Run
from tests import offline
from tests.conftest import known_classes
from tests.golden import observed, pinned
from tests.mini_hub import mini_hub

GOLDEN = Path(__file__).parent / "golden" / "real.json"
GRA = [sys.executable, "-m", "gra_hpc.cli"]


def marked(mark: str) -> list[int]:
    """Living processes with this mark in their environment: the engines, and all that they have started."""
    found = []
    for p in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if p.environ().get("GRA_TEST_MARK") == mark and p.status() != psutil.STATUS_ZOMBIE:
                found.append(p.pid)
    return found


class KilledCore(threading.Thread):
    """Kills the EngineCore of a job's engine with SIGKILL, once, when the shard has answers."""

    def __init__(self, run: Run, mark: str) -> None:
        super().__init__(daemon=True)
        self.shard, self.mark, self.killed, self.over = run.round(1).shard(0), mark, 0, threading.Event()

    def __enter__(self) -> KilledCore:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.join(240)

    def answered(self) -> bool:
        with contextlib.suppress(OSError):  # no attempt yet
            return any((p / "journal.log").stat().st_size for p in self.shard.attempts.iterdir())
        return False

    def run(self) -> None:
        while not self.answered():
            if self.over.wait(0.1):
                return
        for p in psutil.process_iter():
            with contextlib.suppress(psutil.Error, AttributeError):  # others come and go
                ours = p.parent().environ().get("GRA_TEST_MARK") == self.mark
                if ours and "VLLM::EngineCore" in " ".join(p.cmdline()):
                    p.kill()
                    self.killed += 1


def small_seeds(path: Path, described: bool) -> Path:
    rows: list[dict[str, object]] = [
        {"instruction": "Multiply 12 by 12.", "response": "144", "domain": "math",
         "keywords": ["multiplication", "square", "arithmetic"], "summary": "Multiply twelve by itself."},
        {"instruction": "Solve x + 3 = 5.", "response": "x = 2", "domain": "math",
         "keywords": ["equation", "algebra", "unknown"], "summary": "Solve a linear equation."},
        {"instruction": "What is a prime number?", "response": "A number above 1 that only 1 and itself divide."},
    ]  # fmt: skip
    if described:
        rows[2] |= {"domain": "math", "keywords": ["prime", "number", "divisor"], "summary": "Define prime numbers."}
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.vllm
@pytest.mark.timeout(900)
@pytest.mark.parametrize("described", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_seeds_to_release_with_real_models(
    tmp_path: Path, smollm2: Path, minilm: Path, shm_left: Callable[[], set[Path]], described: bool
) -> None:
    """Models and a benchmark are staged, then there is no network (where that can be had): weights go from the cache to
    the node. The engine is killed in the middle, starts again and is asked again. With a seed that is not described,
    there is a round 0 before, over the same engine."""
    mark = uuid.uuid4().hex
    run = RunDir(tmp_path / "run")
    words = [
        *("--preset", "demo", f"seeds.path={small_seeds(tmp_path / 's.jsonl', described)}"),
        *("models.smollm2.path=org/smollm2", "merge.embed_model=org/minilm"),
        "merge.decontamination.sources=[org/bench]",
        *(f"site.scratch={tmp_path}", f"site.local_dir={tmp_path / 'node'}", "site.copy_weights=true"),
        *("launch.shards=1", "method.accept_mean=1", "method.review_instruction=false"),
        *("method.sampling.max_tokens=40", "method.verdict_tokens=96", f"engine.env={{GRA_TEST_MARK: {mark}}}"),
    ]
    home = tmp_path / "home"
    bench = tmp_path / "bench"
    bench.mkdir()
    question = {"question": "one two three four five six seven eight " * 3}
    (bench / "test.jsonl").write_text(json.dumps(question) + "\n")
    with mini_hub() as hub:
        hub.add("datasets/org/bench", bench)
        hub.add("models/org/smollm2", smollm2)
        hub.add("models/org/minilm", minilm)
        assert "digests agree" in offline.run(*GRA, "stage", *words, hub=hub, home=home)

    def gra(*args: object, code: int = 0) -> str:
        return offline.run(*GRA, *args, home=home, blocked=offline.can_block(), code=code, timeout=800)

    planned = gra("plan", run.path, *words, "--prompts")
    assert "planned 3 = accepted 0 + rejected 0 + failed 0 + pending 3" in planned
    with known_classes(tmp_path / "node"), KilledCore(run, mark) as killer:
        said = gra("submit", run.path)
    assert killer.killed == 1
    manifest = json.loads((run.release / "manifest.json").read_text())
    ledger = Ledger.from_dict(manifest["ledger"])
    ledger.check("release")
    assert ledger.planned == 3 and ledger.pending == 0
    assert ledger.line() in said
    shard = json.loads(run.round(1).shard(0).manifest.read_text())
    (engine,) = shard["engines"]["engines"].values()
    assert (engine["starts"], engine["restarts"], engine["errors"]) == (1 + described, 1, 0), engine["causes"]
    assert shard["engines"]["given_up"] == 0, "what was in flight is asked again"
    assert sum(n for n, _, _ in shard["tokens"].values()) == shard["calls"]["rows"]
    assert list((tmp_path / "node").rglob("*.safetensors")), "no copy of the weights on the node"
    assert "org/bench" in (run.release / "README.md").read_text()
    assert "gra resume" in gra("submit", run.path, code=1)
    assert not marked(mark)
    assert not shm_left()
    file = tmp_path / "here.calibration.json"
    gra("calibrate", run.path, "--to", file)
    rates, performance = read_calibration(file)
    assert rates.acceptance == pytest.approx(ledger.accepted / 3, abs=1e-3)
    calls, prompt, _ = (sum(column) for column in zip(*shard["tokens"].values(), strict=True))
    assert 0 < rates.steps["response"].completion_tokens <= 40 and prompt / calls > 20
    assert 0.01 < performance["speed"]["smollm2"] < 100 and performance["start_s"] > 1
    assert f"calibrated by {file}" in gra("plan", tmp_path / "run-2", *words, f"site.calibration={file}")
    if described:  # else the first questions follow from the model's own description
        seen = observed.what_no_machine_changes(run.path) | {"prompts shown": pinned.messages(planned)}
        pinned.check(GOLDEN, seen)
