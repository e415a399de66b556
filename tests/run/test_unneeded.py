"""Shards that are not begun since a round's target is met, and a merge that takes that back: no row is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gra_hpc.engines import simulated
from gra_hpc.errors import IncompleteError
from gra_hpc.launch.legs import legs_of
from gra_hpc.launch.round_end import finish_round
from gra_hpc.launch.submit import finish, submit
from gra_hpc.launch.tasks import MergeTask, ShardTask
from gra_hpc.release.verify.verify import verify
from gra_hpc.run import attempts, unneeded
from gra_hpc.run.choice import Choice, Chooser
from gra_hpc.run.merged import Merged
from gra_hpc.run.publish import is_published
from gra_hpc.run.rounds import Step, is_taken_back, late_shards, remaining
from gra_hpc.run.run import Run
from gra_hpc.run.unneeded import SPARE, UNMEASURED, Unneeded
from gra_hpc.run.worker import work
from gra_hpc.storage import read_json
from gra_hpc.views.notes import notes
from gra_hpc.views.shard_status import ShardStatus
from gra_hpc.views.status import collect
from gra_hpc.views.status_lines import lines, next_command
from tests.run.test_plan import make

TARGET, SHARDS = 6, 8
STOPS = "launch.stop_at_target=true"
WORDS = (
    f"launch.shards={SHARDS}", "launch.window=1", f"method.target_accepted={TARGET}",
    "method.expected_acceptance=0.25", "method.accept_mean=1", "method.accept_sd=10", "method.adjudicate_mean=1",
    "engine.simulated_failures=0",
)  # fmt: skip
"""Four times as many candidates are planned as it takes."""
ALIKE = ("merge.fuzzy_threshold=0.3", "merge.shingle=1")
"""Half of what is accepted counts as the other half's duplicates: more than a merge is taken to drop."""
UNLIKE = "merge.fuzzy=false"


def publish(run: Run, shard: int, round_: int = 1) -> None:
    ShardTask(str(run.path), round_, shard)()


def work_on(run: Run) -> int:
    """Publish one shard after another until no more is needed; the round."""
    while (step := remaining(run)[0]).shards:
        publish(run, step.shards[0], step.round)
    return step.round


def published(run: Run, number: int = 1) -> list[int]:
    return [s for s in range(SHARDS) if is_published(run.round(number).shard(s))]


def accepted(run: Run, number: int = 1) -> int:
    return sum(read_json(run.round(number).shard(s).manifest)["ledger"]["accepted"] for s in published(run, number))


def said(run: Run) -> str:
    return " ".join(" ".join(lines(collect(run, ask_slurm=False))).split())


def check_end(run: Run) -> None:
    """Every accepted row was kept or dropped, and the release says what it was made from."""
    assert remaining(run) == [] and verify(run.release) == []
    release = read_json(run.release / "manifest.json")
    for number in run.rounds:
        merged = Merged.of(run.round(number))
        counts = merged.manifest["counts"]
        assert counts["accepted"] == accepted(run, number) == counts["kept"] + sum(counts["dropped"].values())
        assert merged.complete and merged.unneeded == set(range(SHARDS)).difference(published(run, number))
        assert counts["kept"] == TARGET or not merged.unneeded
    assert release["coverage"]["missing"] == {}


def test_no_shard_is_begun_once_the_target_is_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path, *WORDS, STOPS, UNLIKE, "method.rounds=2")
    assert work_on(run) == 1
    few = len(published(run))
    assert few < SHARDS // 2 and UNMEASURED * accepted(run) >= (1 + SPARE) * TARGET
    assert remaining(run)[0] == Step(1, (), SHARDS)
    assert (
        f"shards {SHARDS}: {few} published, {SHARDS - few} not needed no more are begun: {few} published seem"
        in said(run)
    )
    assert next_command(collect(run, ask_slurm=False)) == f"gra resume {run.path}"
    assert f"{SHARDS - few} of {SHARDS} shards were not needed: the target was met" in finish_round(run, 1)
    assert finish_round(run, work_on(run)).endswith(f"release in {run.release}")
    assert accepted(run, 2) >= (1 + SPARE) * TARGET, "by the share that the first merge kept"
    check_end(run)
    card, spared = (run.release / "README.md").read_text(), 2 * SHARDS - few - len(published(run, 2))
    assert f"{spared} of {2 * SHARDS} shards were not needed: the target was met without their" in card
    assert "Partial" not in card and "candidates pending" not in card
    pending = read_json(run.release / "manifest.json")["ledger"]["pending"]
    assert f"{pending} candidates are pending ({pending} of shards that were not needed): nothing is known" in card
    assert f"{SHARDS - few} of {SHARDS} shards were not needed: the target of {TARGET} was met" in said(run)
    capsys.readouterr()
    finish(run)
    submit(run, resume=True)
    out = " ".join(capsys.readouterr().out.split())
    assert f"target: {2 * TARGET}: reached; {spared} of {2 * SHARDS} shards were not needed" in out
    assert (
        f"nothing left to do; release in {run.release}" in out and "allow_partial" not in out and "without" not in out
    )


def test_all_shards_are_made_unless_it_is_asked_for(tmp_path: Path) -> None:
    run = make(tmp_path, *WORDS, UNLIKE)
    for shard in range(SHARDS // 2):
        publish(run, shard)
    assert remaining(run)[0].shards == tuple(range(SHARDS // 2, SHARDS))
    assert remaining(Run.open(run.path, [STOPS])) == [Step(1, (), SHARDS)]
    assert remaining(Run.open(run.path, [STOPS, "merge.allow_partial=true"]))[0].shards, "any shards are enough then"


def test_a_shard_that_was_begun_is_ended(tmp_path: Path) -> None:
    """Also where its attempt was killed before it was answered anything."""
    run = make(tmp_path, *WORDS, STOPS, UNLIKE)
    attempts.begin(run.round(1).shard(5))
    for shard in (0, 1, 2):
        publish(run, shard)
    assert remaining(run)[0].shards == (5,) and Unneeded(run, 1).shards() == {3, 4, 6, 7}
    with pytest.raises(IncompleteError, match="1 of 8 shards are not published: 5"):
        finish_round(run, 1)
    finish_round(run, work_on(run))
    assert published(run) == [0, 1, 2, 5]
    check_end(run)


def test_a_merge_that_keeps_too_few_rows_takes_it_back(tmp_path: Path) -> None:
    """As a job it fails, so that no round begins behind it; the run goes on where it is resumed."""
    run = make(tmp_path, *WORDS, STOPS, *ALIKE)
    before = 0
    while True:
        assert work_on(run) == 1
        assert before < len(published(run)), "each merge rests on more shards"
        before = len(published(run))
        try:
            MergeTask(str(run.path), 1)()
            break
        except IncompleteError as e:
            assert "those not begun are needed after all" in e.what and e.then == f"gra resume {run.path}"
        run = Run.open(run.path)
        merged = Merged.of(run.round(1))
        assert merged.manifest["counts"]["kept"] < TARGET and not merged.complete and is_taken_back(run, 1)
        assert remaining(run)[0].shards == tuple(s for s in range(SHARDS) if not is_published(run.round(1).shard(s)))
        assert not run.release.exists() and next_command(collect(run, ask_slurm=False)) == f"gra resume {run.path}"
    assert before > 2, "the first merge was short"
    check_end(run)


def test_a_merge_that_keeps_nothing_without_some_shards_takes_them_back(tmp_path: Path) -> None:
    """The next round cannot be sized for want of the shards that were not begun: those are made."""
    benchmark = tmp_path / "benchmark.txt"
    benchmark.write_text("\n".join(part for frame in simulated._FRAMES for part in frame if len(part.split()) > 2))
    words = (f"merge.decontamination.sources=[{benchmark}]", "merge.decontamination.ngram=3", "method.rounds=2")
    run = make(tmp_path, *WORDS, STOPS, *words)
    work_on(run)
    assert len(published(run)) < SHARDS
    sentence = finish_round(run, 1)
    assert ": 0 of " in sentence and "those not begun are needed after all" in sentence and is_taken_back(run, 1)
    work_on(run)
    assert published(run) == list(range(SHARDS))
    with pytest.raises(IncompleteError, match="not planned"):
        finish_round(run, 1)


def test_status_compares_no_shard_with_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which grows with their square."""
    run = make(tmp_path, *WORDS, STOPS, UNLIKE)
    work_on(run)
    compared = []
    monkeypatch.setattr(ShardStatus, "__eq__", lambda self, other: bool(compared.append(self)) or self is other)
    assert "not needed" in said(run) and not compared


def test_a_look_asks_of_each_shard_no_more_than_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of 20,000 shards had each worker look at all of them at every choice."""
    run = make(tmp_path, *WORDS, STOPS, UNLIKE)
    asked: list[tuple[str, int]] = []

    def noting(name: str) -> None:
        real = getattr(unneeded, name)
        monkeypatch.setattr(unneeded, name, lambda shard: asked.append((name, shard.number)) or real(shard))

    noting("is_published")
    noting("attempt_names")
    looking = Unneeded(run, 1)
    publish(run, 0)
    assert looking.shards() == frozenset() and not asked, "were all its candidates accepted, they would not be enough"
    publish(run, 1)
    publish(run, 2)
    attempts.begin(run.round(1).shard(5))
    assert looking.shards() == {3, 4, 6, 7}
    assert sorted(asked) == [("attempt_names", 5), *(("is_published", s) for s in (0, 1, 2, 5))]
    asked.clear()
    assert looking.shards() == {3, 4, 6, 7} and sorted(asked) == [("attempt_names", 5), ("is_published", 5)]
    for shard in (0, 1, 2):
        run.round(1).shard(shard).manifest.write_bytes(b"{")
    assert remaining(run, looking)[0].shards == (5,), "read once"
    assert remaining(run)[0].shards == (3, 4, 5, 6, 7)


def test_a_worker_looks_once_a_heartbeat_and_no_file_that_cannot_be_read_ends_it(tmp_path: Path) -> None:
    run = make(tmp_path, *WORDS, STOPS, UNLIKE)
    now = [0.0]
    looking, later = (Unneeded(run, 1, clock=lambda: now[0]) for _ in range(2))
    assert looking.known() == frozenset()
    for shard in (0, 1, 2):
        publish(run, shard)
    assert looking.known() == frozenset() and looking.known(anew=True) == {3, 4, 5, 6, 7}
    attempts.begin(run.round(1).shard(5))
    assert looking.known() == {3, 4, 5, 6, 7}
    now[0] += run.config.launch.heartbeat_s
    assert looking.known() == {3, 4, 6, 7}
    run.round(1).merged.mkdir()
    run.round(1).manifest.symlink_to(run.round(1).manifest)
    with pytest.raises(OSError, match="symbolic links"):
        looking.shards()
    assert looking.known(anew=True) == {3, 4, 6, 7} and later.known() == frozenset()
    choosing = [Chooser(run.round(1), SHARDS, 0, 1.0, run.submissions, one.known) for one in (looking, later)]
    assert [chooser.next() for chooser in choosing] == [None, Choice(3)]


def test_no_file_is_read_where_it_is_not_asked_for(tmp_path: Path) -> None:
    run = make(tmp_path, *WORDS, UNLIKE)
    run.round(1).merged.mkdir()
    run.round(1).manifest.symlink_to(run.round(1).manifest)
    run.round(1).plan_file.unlink()
    assert Unneeded(run, 1).shards() == frozenset()


@pytest.mark.parametrize("rounds", [1, 2])
def test_turned_off_it_has_the_others_made_after_all(tmp_path: Path, rounds: int) -> None:
    """Also of a finished run: a merge that nothing was drawn from is replaced, of another they come late."""
    run = make(tmp_path, *WORDS, STOPS, UNLIKE, f"method.rounds={rounds}")
    while remaining(run):
        finish_round(run, work_on(run))
    before = [len(published(run, number)) for number in run.rounds]
    off = Run.open(run.path, ["launch.stop_at_target=false"])
    off.save()
    assert [len(step.shards) for step in remaining(off)] == [SHARDS - n for n in before] and max(before) < SHARDS
    status = collect(off, ask_slurm=False)
    assert next_command(status) == f"gra resume {run.path}" and not any(r.unneeded for r in status.rounds)
    publish(off, SHARDS - 1)
    with pytest.raises(IncompleteError, match=f"{SHARDS - before[-1] - (rounds == 1)} of {SHARDS} shards are not publ"):
        finish_round(off, rounds)
    while remaining(off):
        finish_round(off, work_on(off))
    assert all(published(off, number) == list(range(SHARDS)) for number in off.rounds)
    coverage = read_json(off.release / "manifest.json")["coverage"]
    assert coverage["published"] == coverage["expected"] == rounds * SHARDS and "unneeded" not in coverage
    assert sorted(coverage.get("late", {})) == ["1"] * (rounds - 1) and verify(off.release) == []


@pytest.mark.slow
def test_it_goes_on_by_itself_on_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path, *WORDS, STOPS, *ALIKE, "launch.inline_merge_rows=0")
    work_on(run)
    submit(run, resume=True)
    check_end(run)
    assert capsys.readouterr().out.count("round 1: merging") > 1


def test_workers_go_on_when_their_merge_takes_it_back(tmp_path: Path) -> None:
    run = make(tmp_path, *WORDS, STOPS, *ALIKE, "method.rounds=2")
    work_on(run)
    merges = []

    async def merge(run: Run, number: int) -> None:
        merges.append((number, await asyncio.to_thread(finish_round, run, number)))

    assert legs_of(run, remaining(run))[0].last == 1, "only a merge is left"
    end = work(run, 1, last=2, merge=merge)
    first = [text for number, text in merges if number == 1]
    assert "needed after all" in first[0] and "needed after all" not in first[-1] and len(first) > 1
    assert end.round == 2 and Merged.of(run.round(1)).complete
    while remaining(run):
        finish_round(run, work_on(run))
    check_end(run)


def test_a_shard_that_is_made_all_the_same_is_not_lost(tmp_path: Path) -> None:
    """A worker that had looked a moment before the merge did."""
    run = make(tmp_path, *WORDS, STOPS, UNLIKE)
    finish_round(run, work_on(run))
    check_end(run)
    before = published(run)
    publish(run, SHARDS - 1)
    assert remaining(run) == [Step(1, (), SHARDS)] and late_shards(run, 2) == [(1, SHARDS - 1)]
    finish_round(run, 1)
    assert published(run) == [*before, SHARDS - 1]
    check_end(run)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["method.target_accepted=0"], "there is no method.target_accepted"),
        (["merge.allow_partial=true"], "merge.allow_partial makes a release of any shards"),
        (["launch.shards=1"], "there is one shard a round"),
        ([], ""),
    ],
)
def test_where_it_does_nothing_the_plan_says_so(tmp_path: Path, words: list[str], why: str) -> None:
    run = make(tmp_path, *WORDS, STOPS, *words)
    found = [text for text in notes(run.config, run.plan, 8) if "stop_at_target" in text]
    assert found == ([f"launch.stop_at_target=true does nothing: {why}"] if why else [])
