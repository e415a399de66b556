"""One bit of a run's file changes on the disk, its size the same: whoever reads it says so, and makes nothing of it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from gra_hpc.errors import GraError
from gra_hpc.launch.round_end import finish_round
from gra_hpc.launch.tasks import ShardTask
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run
from tests.run.test_plan import make

NOT_RECORDED = ("run.yaml", "timings.json")
"""What a person may edit (what is frozen in it is compared with the plan), and what only informs."""


def work(run: Run, end: int) -> None:
    """All rounds before `end`, and the first shard of that one."""
    for step in remaining(run):
        for shard in step.shards[: 1 if step.round == end else None]:
            ShardTask(str(run.path), step.round, shard)()
        if step.round == end:
            return
        finish_round(run, step.round)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Round 0, round 1, and one shard of two of round 2; one record was no seed."""
    words = ("method.rounds=2", "launch.shards=2", "method.target_accepted=4", "method.expected_acceptance=0.6")
    run = make(tmp_path_factory.mktemp("half"), *words, seeds=4, described=False, broken=1)
    work(run, 2)
    return run


def files(run: Run) -> list[str]:
    """Everything that is there, but logs, submissions and locks."""
    every = (p.relative_to(run.path) for p in sorted(run.path.rglob("*")) if p.is_file())
    return [str(p) for p in every if p.parts[0] not in ("logs", "submissions") and p.name not in NOT_RECORDED]


def flip(path: Path, draw: random.Random) -> None:
    """Change one bit of a file; of JSON one of a digit, so that it stays JSON."""
    data = bytearray(path.read_bytes())
    places = [i for i, c in enumerate(data) if c in b"2468"] if path.suffix == ".json" else range(len(data))
    data[draw.choice(places)] ^= 1
    path.write_bytes(data)


def test_no_file_of_a_run_changes_unseen(half: Run, tmp_path: Path) -> None:
    names = files(half)
    kinds = {Path(n).name.split("-")[0].split(".")[0] for n in names}
    assert kinds == {"plan", "round", "seeds", "samples", "calls", "manifest", "kept", "pool", "dropped", "next"} | {
        "signatures"
    }
    assert "seeds.rejects.jsonl" in names
    draw = random.Random(3)
    merged = [n for n in names if n.startswith("rounds/01/shards/") and "signatures-" in n]
    assert len(merged) == 2  # the merge that stands has read them, and nobody will again
    for name in sorted(set(names) - set(merged)):
        copy = Run.open(shutil.copytree(half.path, tmp_path / "run"))
        if name == "seeds.parquet":  # its readers are through
            shutil.rmtree(copy.path / "rounds" / "00" / "merged")
        flip(copy.path / name, draw)
        with pytest.raises(GraError) as e:
            while steps := remaining(Run.open(copy.path)):
                for shard in steps[0].shards:
                    ShardTask(str(copy.path), steps[0].round, shard)()
                finish_round(Run.open(copy.path), steps[0].round)
        assert name.split("rounds/")[-1] in e.value.what, f"{name}: {e.value}"
        assert e.value.then and not (copy.release / "manifest.json").exists(), name
        shutil.rmtree(copy.path)
