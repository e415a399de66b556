"""Deciding again: the same as a run with those thresholds, where the engine answers the same; no engine starts."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gra_hpc.config.settings import MethodConfig, Settle
from gra_hpc.errors import ConfigError, FingerprintError, GraError
from gra_hpc.flows.ask import Question
from gra_hpc.flows.gra.synthesize import judge_response
from gra_hpc.judging.again import decide, judged, say_decided
from gra_hpc.judging.decisions import decided
from gra_hpc.judging.sweep import sweep, table
from gra_hpc.launch.round_end import finish_round
from gra_hpc.launch.tasks import ShardTask
from gra_hpc.records import CRITERIA, Review, Roles, Sample, sample_schema
from gra_hpc.release.verify.verify import verify
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from tests.run.test_plan import make
from tests.run.test_unneeded import STOPS, UNLIKE, WORDS, work_on

SPENT = ("calls", "prompt_tokens", "completion_tokens")
"""What was asked stays counted, though other thresholds would not have asked it."""
STRICT = ("method.accept_mean=8", "method.accept_sd=0.7", "method.adjudicate_mean=7")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Two runs of the same answers: one of loose thresholds, one of strict ones."""
    path, found = tmp_path_factory.mktemp("decide"), {}
    loose = ("method.accept_mean=6", "method.accept_sd=0.4", "method.adjudicate_mean=6")
    for name, words in (("loose", loose), ("strict", STRICT)):
        found[name] = make(path, *words, "launch.shards=2", "method.samples_per_seed=8", name=name)
        done(found[name])
    return found


def done(run: Run) -> Run:
    """The same, all of it done in this process."""
    while steps := remaining(run):
        for shard in steps[0].shards:
            ShardTask(str(run.path), steps[0].round, shard)()
        finish_round(run, steps[0].round)
    return run


def samples(run: Run) -> list[dict[str, Any]]:
    files = sorted(run.round(1).shards.glob("*/samples-*.parquet"))
    return [row for f in files for row in pq.read_table(f).to_pylist()]


def but(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in names}


def released(run: Run) -> list[dict[str, Any]]:
    return [row for f in sorted(run.release.glob("data/*.parquet")) for row in pq.read_table(f).to_pylist()]


def test_stricter_thresholds_give_what_a_run_with_them_gives(runs: dict[str, Run], tmp_path: Path) -> None:
    made = decide(Run.to_look_at(runs["loose"].path), [w.removeprefix("method.") for w in STRICT], tmp_path / "again")
    anew = samples(runs["strict"])
    assert [but(r, *SPENT) for r in samples(made)] == [but(r, *SPENT) for r in anew]
    assert {r["stage"] for r in anew} >= {"response_review", "adjudication", ""}
    assert released(made) == released(runs["strict"]) != []
    assert made.plan.fingerprint == runs["strict"].plan.fingerprint
    assert verify(made.release) == []
    card = (made.release / "README.md").read_text()
    assert "Decided again from stored scores" in card and "`accept_mean` 6.0 is now 8.0" in card
    before = made.release.stat().st_mtime_ns
    assert decide(runs["loose"], list(STRICT), made.path).release.stat().st_mtime_ns == before
    with pytest.raises(GraError, match="another run"):
        decide(runs["loose"], ["accept_mean=9"], made.path)


def test_looser_thresholds_leave_open_what_was_never_asked(runs: dict[str, Run], tmp_path: Path) -> None:
    strict, loose = runs["strict"], ["accept_mean=6", "accept_sd=0.4", "adjudicate_mean=6"]
    said = list(say_decided(strict, loose, tmp_path / "again"))
    found, anew = samples(Run.open(tmp_path / "again")), samples(runs["loose"])
    undecided = [i for i, r in enumerate(found) if r["reason"] == "the Adjudicator was not asked"]
    assert undecided and any(f"{len(undecided)} of the failed are undecided" in line for line in said)
    assert all(anew[i]["verdict"] for i in undecided)
    fresh = 0
    for i, (row, wanted) in enumerate(zip(found, anew, strict=True)):
        if i not in undecided:
            late = row["reason"] == "summary taken from the instruction"
            fresh += late
            names = ("summary", "reason") if late else ()
            assert but(row, *SPENT, *names) == but(wanted, *SPENT, *names)
    assert fresh and verify(Run.open(tmp_path / "again").release) == []
    manifest = read_json(tmp_path / "again" / "release" / "manifest.json")
    assert manifest["decided"]["run"] == "strict"
    assert f"{len(undecided)} samples could not be decided" in (tmp_path / "again/release/README.md").read_text()


def test_rounds_sized_by_acceptance_keep_the_candidates_they_had(tmp_path: Path) -> None:
    run = make(tmp_path, "method.rounds=2", "method.target_accepted=6", "method.accept_mean=7", "launch.shards=2")
    done(run)
    made = decide(run, ["accept_mean=8"], tmp_path / "again")
    old, new = (read_json(r.release / "manifest.json") for r in (run, made))
    assert [r["candidates"] for r in old["rounds"]] == [r["candidates"] for r in new["rounds"]]
    assert new["ledger"]["pending"] == 0 and new["ledger"]["accepted"] < old["ledger"]["accepted"]
    assert verify(made.release) == []
    assert "Rounds after the first drew their examples" in (made.release / "README.md").read_text()


def test_what_was_not_needed_is_not_missing_where_it_is_decided_again(tmp_path: Path) -> None:
    """Unless the thresholds leave too few rows of what was made."""
    run = make(tmp_path, *WORDS, STOPS, UNLIKE)
    while remaining(run):
        finish_round(run, work_on(run))
    spared = read_json(run.release / "manifest.json")["coverage"]["unneeded"]
    for words, few in ((["accept_mean=2"], False), (["accept_mean=10"], True)):
        made = decide(run, words, tmp_path / words[0])
        coverage = read_json(made.release / "manifest.json")["coverage"]
        card = (made.release / "README.md").read_text()
        assert coverage.get("unneeded") == (None if few else spared) and coverage["missing"] == (spared if few else {})
        assert ("Partial" in card) == few == ("shards were not needed" not in card)
        assert remaining(made) == [] and verify(made.release) == []


def test_the_sweep_counts_what_runs_with_those_thresholds_would_have(runs: dict[str, Run], tmp_path: Path) -> None:
    lines = {line.accept_mean: line for line in sweep(runs["loose"], [])}
    loose = read_json(runs["loose"].release / "manifest.json")
    now = lines[6.0]
    assert (now.accepted, now.unmerged) == (loose["ledger"]["accepted"], 0)
    assert now.kept == sum(s["rows"] for s in loose["splits"].values())
    made = decide(runs["loose"], ["accept_mean=8"], tmp_path / "again")
    manifest = read_json(made.release / "manifest.json")
    kept = sum(s["rows"] for s in manifest["splits"].values())
    assert lines[8.0].accepted == manifest["ledger"]["accepted"] == sum(lines[8.0].domains.values())
    assert lines[8.0].kept <= kept <= lines[8.0].kept + lines[8.0].unmerged
    assert lines[8.0].undecided == 0
    said = list(table(runs["strict"], ["accept_sd=0.7"]))
    assert {line.split()[0] for line in said if "* " in line} == {"8*", "*"}
    assert any(line.startswith("undecided: ") for line in said)
    assert max(map(len, said)) <= 80
    assert any("accepted of:" in line for line in said)
    assert all(line.undecided for line in sweep(runs["strict"], []) if line.accept_mean <= 7)


def test_what_cannot_be_decided_is_refused(runs: dict[str, Run], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean accept_mean\?"):
        judged(runs["loose"], ["acept_mean=8"])
    with pytest.raises(ConfigError, match=r"method.accept_mean=11.*1 to 10"):
        judged(runs["loose"], ["accept_mean=11"])
    with pytest.raises(GraError, match="exists and is not a run"):
        decide(runs["loose"], ["accept_mean=7"], tmp_path.parent)
    with pytest.raises(GraError, match="where to"):
        list(say_decided(runs["loose"], [], None))
    again = decide(runs["loose"], ["accept_mean=10"], tmp_path / "again")
    with pytest.raises(GraError, match=r"was itself decided from loose, .* gra decide loose"):
        decide(again, ["accept_mean=6"], tmp_path / "third")


def test_only_what_was_planned_is_decided(runs: dict[str, Run], tmp_path: Path) -> None:
    """Or the new release would say that its rows were made with other settings than they were."""
    shutil.copytree(runs["loose"].path, tmp_path / "run")
    file = tmp_path / "run" / "run.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("temperature: 0.", "temperature: 1.", 1), encoding="utf-8")
    with pytest.raises(FingerprintError, match="temperature"):
        decide(Run.to_look_at(tmp_path / "run"), ["accept_mean=7"], tmp_path / "other")


SCORES = st.lists(st.integers(1, 10), min_size=6, max_size=6)
THRESHOLD = st.sampled_from([1.0, 6.5, 7.0, 7.5, 8.0, 8.5, 10.0])


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.lists(SCORES, min_size=3, max_size=3), SCORES), min_size=1, max_size=5),
    *[st.tuples(THRESHOLD, st.sampled_from([0.0, 0.5, 1.5, 10.0]), THRESHOLD, st.sampled_from(Settle))] * 2,
)
def test_columns_decide_as_the_committee_does(
    drawn: list[Any], first: tuple[Any, ...], second: tuple[Any, ...]
) -> None:
    """Of samples decided by some thresholds, others make what the flow would have made with them."""

    def by(thresholds: tuple[Any, ...]) -> tuple[MethodConfig, list[dict[str, Any]]]:
        mean, sd, adjudicate, settle = thresholds
        method = MethodConfig(accept_mean=mean, accept_sd=sd, adjudicate_mean=adjudicate, settle=settle)
        return method, [_judged(i, three, verdict, method) for i, (three, verdict) in enumerate(drawn)]

    _, stored = by(first)
    method, wanted = by(second)
    found = decided(pa.Table.from_pylist(stored, sample_schema(True, True, True)), method).to_pylist()
    for row, other in zip(found, wanted, strict=True):
        if row["reason"] == "the Adjudicator was not asked":
            assert other["verdict"] is not None and row["status"] == "failed"
        else:
            late = ("summary", "reason", "embedding") if row["reason"] and row["status"] == "accepted" else ()
            assert but(row, *SPENT, *late) == but(other, *SPENT, *late)


def _judged(index: int, three: list[list[int]], verdict: list[int], method: MethodConfig) -> dict[str, Any]:
    """One sample through the flow, over these answers."""
    sample = Sample(f"s{index}", 1, "seed", index, "math", Roles("g", ("a", "b", "c"), "j", "g"))
    sample.instruction, sample.response = "One two three.", "Four."

    async def ask(question: Question[Any], member: str, seat: str, **_: Any) -> Any:
        if question.step == "summary":
            return "Short."
        scores = verdict if seat == "adjudicator" else three[int(seat[-1]) - 1]
        return dict(zip(CRITERIA, scores, strict=True)), ""

    asyncio.run(judge_response(sample, ask, method))
    assert all(isinstance(r, Review) for r in sample.reviews)
    return {**sample.row(), "embedding": b"x" if sample.status == "accepted" else None}
