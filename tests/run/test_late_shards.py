"""Shards published after a partial merge of their round: no row is lost, nothing loses what it rests on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gra_hpc.errors import ReleaseError
from gra_hpc.launch.round_end import finish_round
from gra_hpc.launch.tasks import ShardTask
from gra_hpc.merge.round import merge_round
from gra_hpc.release.verify.verify import verify
from gra_hpc.run import attempts
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.rounds import Step, current_round, remaining
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import ShardManifest
from gra_hpc.storage import read_json, sealed
from gra_hpc.views.status import collect
from gra_hpc.views.status_lines import next_command
from tests.run.test_plan import make
from tools.faults.faults import SYNTHESIZE, release_of, start, wait_for

PARTIAL = "merge.allow_partial=true"


def made(path: Path, *words: str, rounds: int = 2, name: str = "run") -> Run:
    """A planned run of rounds of two shards."""
    return make(path, f"method.rounds={rounds}", "launch.shards=2", "merge.fuzzy=false", *words, seeds=6, name=name)


def publish(run: Run, round_: int, *shards: int) -> None:
    for shard in shards:
        ShardTask(str(run.path), round_, shard)()


def work(run: Run) -> None:
    """All that is left."""
    while steps := remaining(run):
        publish(run, steps[0].round, *steps[0].shards)
        finish_round(run, steps[0].round)


def ids(path: Path) -> list[str]:
    return list(pq.read_table(path, columns=["id"])["id"].to_pylist())


def check_books(run: Run) -> None:
    """Every accepted sample of every published shard was kept or dropped, once; the release and its card say so."""
    accepted, merged = [], []
    for number in run.rounds:
        merged += ids(run.round(number).kept) + ids(run.round(number).dropped)
        for s in range(run.shards_of(number)):
            table = run.round(number).shard(s)
            rows = pq.read_table(table.samples(ShardManifest.load(table).attempt), columns=["id", "status"]).to_pylist()
            accepted += [r["id"] for r in rows if r["status"] == "accepted"]
    assert len(merged) == len(set(merged)) and sorted(merged) == sorted(accepted)
    assert remaining(run) == [] and verify(run.release) == []
    manifest = read_json(run.release / "manifest.json")
    assert manifest["ledger"]["pending"] == 0 and manifest["coverage"]["missing"] == {}


def test_a_partial_merge_is_replaced_until_something_was_drawn_from_it(tmp_path: Path) -> None:
    """The next round is planned, and an attempt at it has begun, but nothing was answered."""
    run, other = made(tmp_path, PARTIAL), made(tmp_path, name="undisturbed")
    publish(run, 1, 0)
    assert "PARTIAL: 1 of 2 shards" in finish_round(run, 1)
    begun = attempts.begin(run.round(2).shard(0))
    begun.journal.write_bytes(b"0000 torn")
    assert remaining(run) == [Step(2, (0, 1), 2)]  # a partial merge that was asked for counts as done
    publish(run, 1, 1)
    assert remaining(run) == [Step(1, (), 2), Step(2, (0, 1), 2)] and current_round(run) == 1
    assert "PARTIAL" not in finish_round(run, 1)
    publish(run, 2, 0, 1)
    finish_round(run, 2)
    work(other)
    assert release_of(run) == release_of(other)
    assert RoundPlan.load(run.round(2)) == RoundPlan.load(other.round(2))
    check_books(run)
    assert "came late" not in (run.release / "README.md").read_text()


@pytest.mark.parametrize("drawn", ["a published shard", "an answered call"])
def test_a_late_shard_enters_the_next_merge(tmp_path: Path, drawn: str) -> None:
    run = made(tmp_path, PARTIAL)
    publish(run, 1, 0)
    finish_round(run, 1)
    publish(run, 2, 0)
    if drawn == "an answered call":  # of an attempt that was killed then
        shard = run.round(2).shard(0)
        journal = attempts.begin(shard).journal
        journal.write_bytes(one_answer(run))
        for file in (shard.manifest, *shard.path.glob("*.parquet")):
            file.unlink()
    before = release_of_round(run, 1)
    publish(run, 1, 1)
    assert "round 2 has drawn from it; 1 shards published since go into a later round's merge" in finish_round(run, 1)
    assert release_of_round(run, 1) == before
    assert [s.round for s in remaining(run)] == [2]
    work(run)
    assert {r["round"] for r in pq.read_table(run.round(2).kept, columns=["round"]).to_pylist()} == {1, 2}
    manifest = read_json(run.round(2).manifest)
    (late,) = manifest["late"]
    assert (late["round"], late["shards"]) == (1, [1]) and late["ledger"]["planned"] == 3
    assert manifest["counts"]["accepted"] == manifest["ledger"]["accepted"] + late["ledger"]["accepted"]
    check_books(run)
    card = (run.release / "README.md").read_text()
    assert "Shard 1 of round 1 came late: merged with round 2; no example of rounds 2 to 2 is from there." in card
    assert "Coverage: 4 of 4 shards." in card and "planned 12 = accepted" in card


def one_answer(run: Run) -> bytes:
    """A line of a journal."""
    from gra_hpc.records import Call
    from gra_hpc.run.journal import encode

    shard = run.round(2).shard(0)
    return encode(Call(**pq.read_table(shard.calls(ShardManifest.load(shard).attempt)).slice(0, 1).to_pylist()[0]))


def release_of_round(run: Run, number: int) -> list[bytes]:
    return [p.read_bytes() for p in sorted(run.round(number).merged.glob("*.parquet"))]


@pytest.mark.parametrize("missing", [(1,), (2,), (1, 2)])
def test_a_shard_that_comes_when_all_is_done(tmp_path: Path, missing: tuple[int, ...]) -> None:
    """Of any round: the last merge takes it in, and the release is made anew; status says that something is left."""
    run = made(tmp_path, PARTIAL, rounds=3)
    for number in (1, 2, 3):
        publish(run, number, *((0,) if number in missing else (0, 1)))
        finish_round(run, number)
    assert remaining(run) == []
    first = read_json(run.release / "manifest.json")
    assert first["coverage"]["missing"] == {str(n): [1] for n in missing} and verify(run.release) == []
    for number in missing:
        publish(run, number, 1)
        assert remaining(run) == [Step(3, (), 2)] and current_round(run) == 3
        seen = collect(run, ask_slurm=False)
        assert not seen.release and next_command(seen) == f"gra resume {run.path}"
        work(run)
    check_books(run)
    last = read_json(run.release / "manifest.json")
    assert last["coverage"]["late"] == {str(n): {"3": [1]} for n in missing}
    assert last["ledger"]["planned"] == first["ledger"]["planned"] and first["ledger"]["pending"] > 0
    assert collect(run, ask_slurm=False).release == str(run.release)


def test_a_death_between_a_replaced_merge_and_its_release(tmp_path: Path) -> None:
    run = made(tmp_path, PARTIAL, rounds=1)
    publish(run, 1, 0)
    finish_round(run, 1)
    publish(run, 1, 1)
    merge_round(run, 1)
    assert remaining(run) == [Step(1, (), 2)]
    work(run)
    check_books(run)


def test_shards_that_are_missing_are_made_late_unless_that_was_given_up(tmp_path: Path) -> None:
    run = made(tmp_path, PARTIAL)
    publish(run, 1, 0)
    finish_round(run, 1)
    publish(run, 2, 0)
    whole = Run.open(run.path, ["merge.allow_partial=false"])
    assert remaining(whole) == [Step(1, (1,), 2), Step(2, (1,), 2)]
    work(whole)
    check_books(whole)


def test_late_rows_make_up_for_the_shortfall_of_their_round(tmp_path: Path) -> None:
    """Where there is a target, a late shard is not all surplus."""
    run = made(tmp_path, PARTIAL, "method.target_accepted=4", "method.expected_acceptance=0.6")
    publish(run, 1, 0)
    finish_round(run, 1)
    short = 4 - len(ids(run.round(1).kept))
    assert short > 0
    publish(run, 2, 0)
    publish(run, 1, 1)
    work(run)
    check_books(run)
    target = read_json(run.round(2).manifest)["target"]
    assert target["wanted"] == 4 + short and len(ids(run.round(2).kept)) > 4


def test_an_attempt_under_which_the_merge_was_replaced_begins_again(tmp_path: Path) -> None:
    """It had drawn from the pool, and answered nothing yet: what it would have made rests on a pool that is gone."""
    run, other = made(tmp_path, PARTIAL), made(tmp_path, name="undisturbed")
    publish(run, 1, 0)
    finish_round(run, 1)
    shard = run.round(2).shard(0)
    stop = ("--below", shard.path, "--only", "open", "--at", 1, "--signal", int(signal.SIGSTOP))
    process = start(SYNTHESIZE, run.path, 0, "--round", 2, log=tmp_path / "log", dying=stop)
    try:
        wait_for(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        publish(run, 1, 1)
        assert "PARTIAL" not in finish_round(run, 1)
    finally:
        process.signal(signal.SIGCONT)
    assert process.wait() == os.EX_TEMPFAIL, process.tail()
    assert "the round before was merged anew, with more shards" in process.tail()
    assert not shard.manifest.exists()
    work(run)
    work(other)
    assert release_of(run) == release_of(other)
    check_books(run)


def test_a_shard_that_rests_on_another_pool_is_named(tmp_path: Path) -> None:
    run = made(tmp_path)
    publish(run, 1, 0, 1)
    finish_round(run, 1)
    publish(run, 2, 0, 1)
    manifest = run.round(2).shard(1).manifest
    manifest.write_bytes(sealed(read_json(manifest) | {"basis": "0" * 32}))
    with pytest.raises(
        ReleaseError, match=r"02/shards/00001/manifest.json: drawn from another pool than that of round 1"
    ):
        merge_round(run, 2)
