"""`gra clean` removes what a listing of RUN/logs shows and it has named before, and nothing elsewhere."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from gra_hpc.errors import StorageError
from gra_hpc.launch.clean import clean
from gra_hpc.launch.log_files import Finder
from gra_hpc.launch.submissions import Job, Submission
from gra_hpc.run.directory import RunDir
from gra_hpc.storage import read_json
from tests.merge.fabricate import make_run, publish_shard, sample, seed

ATTEMPT = "20250101T000000-4242_0.0-ab12"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Two shards, the first of them published; its job was 4242_0."""
    made = make_run(tmp_path / "run", [seed(i) for i in range(4)], shards=2)
    publish_shard(made, 1, 0, [sample(1)], attempt=ATTEMPT)
    attempts(made, {"attempt": ATTEMPT, "job": "4242_0"})
    for name in (
        "4242/4242_0_submitted.pkl", "4242/4242_0_0_result.pkl", "4242/4242_1_submitted.pkl", "4242/4242_submission.sh",
        "4242/4242_0_0_log.out", "4242/4242_1_0_log.out", ".submission_file_ab.sh", f"{ATTEMPT}/engine-m-h-0.log",
        "local/77_submitted.pkl", "notes.txt", "4242/notes.txt",
    ):  # fmt: skip
        file = made.logs / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Somebody's files, of names like those that go."""
    place = tmp_path / "outside"
    place.mkdir()
    for name in (
        "77_submitted.pkl", "4242_0_submitted.pkl", "x.sh", "thesis.log", "x_0_log.out", "4242_0_0_log.out",
        "engine-m-h-0.log",
    ):  # fmt: skip
        (place / name).write_text("mine")
    return place


def attempts(run: RunDir, *said: Any) -> None:
    """Let the published shard's manifest name other attempts."""
    path = run.round(1).shard(0).manifest
    path.write_bytes(orjson.dumps(read_json(path) | {"attempts": list(said)}))


def files(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_symlink() or p.is_file()}


def named(lines: list[str]) -> set[str]:
    """Every path that a listing names; arrays' files one by one."""
    found = set()
    for line in (x.strip() for x in lines if x.startswith("  ")):
        if some := re.fullmatch(r"(.*)\[([\d,-]+)\](.*)", line):
            for part in some[2].split(","):
                low, _, high = part.partition("-")
                found |= {f"{some[1]}{n}{some[3]}" for n in range(int(low), int(high or low) + 1)}
        else:
            found.add(line)
    return found


def test_what_goes_is_named_first_and_nothing_else_goes(run: RunDir) -> None:
    before = files(run.path)
    listed = list(clean(run, yes=False))
    assert files(run.path) == before
    told = list(clean(run, yes=True))
    gone = before - files(run.path)
    assert named(listed) == named(told) == gone
    assert "  logs/4242/4242_[0-1]_submitted.pkl" in listed
    left = files(run.logs)
    assert left == {"notes.txt", "4242/notes.txt", "4242/4242_1_0_log.out"}  # shard 1 is not published
    assert list(clean(run, yes=True)) == ["nothing to remove"]


@pytest.mark.parametrize("how", ["../../outside", "{outside}", "../logs/../../outside", "..", ".", "", "local", "4242"])
def test_a_manifests_names_lead_nowhere_else(run: RunDir, outside: Path, how: str) -> None:
    """Neither an attempt's name nor a job's, and no submission's id."""
    name = how.format(outside=outside)
    attempts(
        run,
        {"attempt": ATTEMPT, "job": "4242_0"},
        {"attempt": name},
        {"attempt": "a", "job": f"{name}/x"},
        {"attempt": f"20250101T000000-local-{name}/77-ab12"},
        {"attempt": name, "job": f"local-{name}/x"},
    )
    (run.logs / "local" / "9_0_log.out").write_text("a job at work")
    before = files(run.path)
    told = list(clean(run, yes=True))
    assert len(files(outside)) == 7
    assert named(told) == before - files(run.path)
    assert {"local/9_0_log.out", "4242/4242_1_0_log.out", "notes.txt"} <= files(run.logs)
    # nor does `gra logs` read them, by what a submission says
    Submission("t", 0.0, [Job("workers", 1, [0], f"{name}/x"), Job("merge", 1, [], f"{name}/x")], complete=True).save(
        run
    )
    finder = Finder(run)
    assert finder.files(f"{name}/x") == finder.files(f"local-{name}/x") == finder.merge(1).job == ()
    assert all(outside not in p.parents for p in finder.shard(1, run.round(1).shard(0)).job)


@pytest.mark.parametrize("said", ["x", [1], [{"job": "4242_0"}], [{"attempt": 3}], [{"attempt": "a", "job": 3}]])
def test_a_damaged_manifest_names_nothing(run: RunDir, said: Any) -> None:
    path = run.round(1).shard(0).manifest
    path.write_bytes(orjson.dumps(read_json(path) | {"attempts": said}))
    list(clean(run, yes=True))
    assert {"notes.txt", "4242/4242_0_0_log.out"} <= files(run.logs)


@pytest.mark.parametrize("name", ["4242", "local", "sbatch", ATTEMPT])
def test_links_are_not_followed(run: RunDir, outside: Path, name: str) -> None:
    """A log directory that is a link to another one."""
    here = run.logs / name
    if here.exists():
        here.rename(run.logs / "moved")
    here.symlink_to(outside)
    told = list(clean(run, yes=True))
    assert len(files(outside)) == 7 and here.is_symlink()
    assert not any(line.startswith(f"  logs/{name}/") for line in told)


def test_linked_logs_are_left_alone(run: RunDir, outside: Path) -> None:
    run.logs.rename(run.path / "elsewhere")
    (outside / "4242").mkdir()
    (outside / "4242" / "4242_0_submitted.pkl").write_text("mine")
    run.logs.symlink_to(outside)
    (said,) = clean(run, yes=True)
    assert said == f"{run.logs}: is a link; nothing behind it is touched"
    assert len(files(outside)) == 8


def test_a_link_among_the_files_goes_itself(run: RunDir, outside: Path) -> None:
    (run.logs / "4242" / "9_submitted.pkl").symlink_to(outside / "thesis.log")
    list(clean(run, yes=True))
    assert not (run.logs / "4242" / "9_submitted.pkl").is_symlink()
    assert len(files(outside)) == 7


@pytest.mark.parametrize("name", ["4242", "."])
def test_a_directory_that_is_swapped_for_a_link_meanwhile(run: RunDir, outside: Path, name: str) -> None:
    """Between the list and the removal."""
    lines = clean(run, yes=True)
    told = list(itertools.takewhile(lambda line: "logs of published" not in line, lines))
    assert any("4242_[0-1]_submitted.pkl" in line for line in told)
    here = run.logs / name
    here.rename(run.path / "moved")
    here.parent.joinpath(here.name).symlink_to(outside)
    (outside / "4242").mkdir()
    (outside / "4242" / "4242_0_submitted.pkl").write_text("mine")
    if name == ".":
        with pytest.raises(StorageError, match="nothing could be removed"):
            list(lines)
    else:
        assert any(" of them stay: " in line for line in lines)
    assert len(files(outside)) == 8


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}"])
def test_a_merge_that_is_damaged_keeps_nothing_from_going(run: RunDir, damage: bytes) -> None:
    """But logs that may say why."""
    run.release.mkdir()
    (run.release / "manifest.json").write_text("{}")
    run.round(1).merged.mkdir()
    run.round(1).manifest.write_bytes(damage)
    assert "done; " in list(clean(run, yes=True))[-1]
    assert files(run.logs) == {"notes.txt", "4242/notes.txt", "4242/4242_1_0_log.out"}
