"""What `gra status` says of a run, line by line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gra_hpc.errors import GraError, SlurmDownError
from gra_hpc.run.attempts import Heartbeat, begin
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.shard import End
from gra_hpc.views import status as statuses
from gra_hpc.views.progress import _teller, several
from gra_hpc.views.sample import find_sample
from gra_hpc.views.shard_status import ShardStatus
from gra_hpc.views.states import Failure
from gra_hpc.views.status import RoundStatus, RunStatus, collect, queue_once
from gra_hpc.views.status_lines import lines, listing, next_command, one_line, summary
from tools.faults.faults import make_run, undisturbed

RUNS = ShardStatus(0, "running", 20, accepted=5, rejected=4, failed=1, calls=80, phase="running", started=1.0, at=51.0,
                   seconds=50.0, tokens={"generator": [10, 1000], "reviewer": [10, 500]}, held_s=7200.0, gpu_s=28800.0,
                   host="n1", attempts=2, replayed=3)  # fmt: skip
STARTS = ShardStatus(1, "running", 20, phase="starting", held_s=60.0, gpu_s=240.0)


def of(*shards: ShardStatus, **more: object) -> RunStatus:
    """A run with one round of these shards."""
    planned, done = sum(s.planned for s in shards), sum(s.done for s in shards)
    ledger = Ledger(planned, sum(s.accepted for s in shards), {"r: x": sum(s.rejected for s in shards)},
                    {"f: x": sum(s.failed for s in shards)}, planned - done)  # fmt: skip
    return RunStatus("/runs/a", "f", [replace(RoundStatus(1, False, list(shards), ledger), **more)], "")  # type: ignore[arg-type]


def said(status: RunStatus, details: bool = False) -> str:
    return "\n".join(lines(status, details))


def test_one_block_a_round() -> None:
    text = said(of(RUNS, STARTS, ShardStatus(2, "queued", 20), ShardStatus(3, "waiting", 20), eta_s=5400.0))
    assert text.splitlines()[:5] == [
        "/runs/a",
        "round 1: running",
        "  candidates 10 of 80: 5 accepted (50%), 4 rejected, 1 failed",
        "  shards     4: 1 running, 1 starting, 1 queued, 1 not begun",
        "  rate       720 candidates an hour, 30 tokens/s, 8.1 GPU-hours so far",
    ]
    assert "  left       about 1 h 30 min, until " in text
    assert "next:" not in text, "there is nothing to do but wait"


def test_seeds_are_described_not_accepted() -> None:
    status = of(RUNS, round=0)
    assert summary(status).startswith("round 0 (describe), running: 10 of 20, 5 described")
    assert "planned 20 = described 5 + rejected 4" in one_line(status) and "accepted" not in one_line(status)
    assert "5 accepted" in summary(of(RUNS)) and "accepted 5" in one_line(of(RUNS))


def test_what_a_merge_kept_is_not_said_where_it_cannot_be_read() -> None:
    def released(**more: object) -> str:
        return summary(replace(of(RUNS, merged=True, **more), release="/runs/a/release"))

    assert released(unread=True) == "released"
    assert released() == "released: no rows"
    assert released(kept=2, dropped={"forwarded": 6, "exact": 1}) == "released: 2 of 3 accepted"


def test_one_line_says_that_a_round_is_being_merged() -> None:
    published = replace(RUNS, state="published")
    assert one_line(of(published)).startswith("round 1: shards 1 published; ")
    assert one_line(of(published, merging="running")).startswith("round 1: merging, shards 1 published; ")


def test_what_earlier_attempts_had_finished_is_not_forgotten(tmp_path: Path, tiny_llama: Path) -> None:
    """An attempt counts from zero until it has read the journals."""
    run = make_run(tmp_path / "run", 2, ["launch.shards=1"])
    shard = run.round(1).shard(0)
    for phase, accepted in (("stopped", 1), ("overtaken", 2), ("starting", 0)):
        attempt = begin(shard)
        Heartbeat(attempt.id, 0, 1, phase=phase, accepted=accepted).write(attempt)
    status = collect(run)
    assert status.rounds[0].shards[0].earlier == 1
    assert "candidates 0 of 2: 0 accepted, 0 rejected, 0 failed\n             1 more by earlier attempts" in said(
        status
    )
    Heartbeat(attempt.id, 0, 1, phase="running", accepted=1).write(attempt)
    assert "by earlier attempts" not in said(collect(run))


def test_details_on_wish() -> None:
    status = of(RUNS, STARTS)
    assert "shard 0" not in said(status) and "generator" not in said(status)
    text = " ".join(said(status, details=True).split())
    assert "tokens/s generator 20, reviewer 10" in text
    assert "shard 0 running 10/20 80 calls, 3 replayed, attempt 2 n1" in text
    assert "shard 1 running starting 0/20" in text


def test_a_shard_starts_until_an_engine_has_answered(tmp_path: Path, tiny_llama: Path) -> None:
    run = make_run(tmp_path / "run", 2, ["launch.shards=1"])
    attempt = begin(run.round(1).shard(0))
    beat = Heartbeat(attempt.id, 0, 1, phase="running", gpus=4)
    beat.write(attempt)
    assert collect(run).rounds[0].shards[0].phase == "starting"
    assert one_line(collect(run)).startswith("round 1: shards 1 starting; planned 2")
    beat.calls = 1
    beat.write(attempt)
    assert collect(run).rounds[0].shards[0].phase == "running"


def test_lost_attempts_are_in_the_hours(tmp_path: Path, tiny_llama: Path) -> None:
    run = make_run(tmp_path / "run", 2, ["launch.shards=1"])
    for seconds in (1800, 900):
        attempt = begin(run.round(1).shard(0))
        beat = Heartbeat(attempt.id, 0, 1, gpus=4)
        beat._began -= seconds
        beat.write(attempt)
    found = collect(run).rounds[0]
    assert (round(found.node_hours, 2), round(found.gpu_hours, 2)) == (0.75, 3.0)
    assert collect(run).to_dict()["rounds"][0]["gpu_hours"] == pytest.approx(3.0, abs=0.01)


def test_calls_do_not_grow_fewer_when_a_shard_is_published() -> None:
    done = replace(RUNS, shard=1, state="published", calls=128, accepted=20, rejected=0, failed=0)
    assert "; 80 calls" in one_line(of(RUNS, STARTS))
    assert "; 208 calls" in one_line(of(RUNS, done))
    assert "call" not in one_line(of(done, done)), "nothing runs"


def test_what_engines_did_not_work_in_full() -> None:
    a, b = {"seconds": 3000.0, "start": 60.0, "tail": 200.0}, {"seconds": 600.0, "start": 58.0, "idle": 0.2}
    shards = [
        replace(RUNS, workers={"a00001-7_0.0-beef": a}),
        replace(STARTS, workers={"a00001-7_0.0-beef": a, "b": b}),
    ]
    text = said(of(*shards))
    assert "  engines    start 3 min, tail 7 min; 9% of the workers' time" in text and "worker a" not in text
    details = said(of(*shards), details=True).splitlines()
    assert "  worker a00001-7_0.0-beef: 2 shards, 1 h 40 min; start 2 min, tail 7 min" in details
    assert "  worker b: 1 shard, 10 min; start 58 s" in details
    assert all(len(line) <= 80 for line in details if "worker" in line)
    assert "engines" not in said(of(RUNS, STARTS)), "an earlier version has not recorded it"


def test_where_the_time_of_starts_went() -> None:
    starts = {"starts": 1, "imports": 90.0, "weights": 12.0, "compilation": 30.0, "graphs": 0.0, "rest": 0.3}
    published = replace(RUNS, state="published", starts=starts)
    status = of(published, replace(published, shard=1, starts={**starts, "imports": 30.0}), STARTS)
    assert "  starts     2 engines, 2 min each: imports 60 s, compilation 30 s, weights 12 s" in said(
        status, details=True
    )
    assert "starts  " not in said(status) and "starts  " not in said(of(RUNS), details=True)


def test_what_engines_did_is_read_from_manifests_and_heartbeats(tmp_path: Path, tiny_llama: Path) -> None:
    run = undisturbed(make_run(tmp_path / "run", 4, ["launch.shards=2", "engine.simulated_latency_s=0.01"]))
    for shard in collect(run).rounds[0].shards:
        (mine,) = shard.workers.values()
        assert 0 < sum(n for what, n in mine.items() if what != "seconds") <= 1.01 * mine["seconds"] + 0.01
        assert mine["start"] > 0 and mine["tail"] > 0, "two samples, and eight places"
    live = make_run(tmp_path / "live", 2, ["launch.shards=1"])
    attempt = begin(live.round(1).shard(0), Heartbeat("", 0, 1, worker="w", seconds=9.0, waited={"start": 4.0}))
    beat = Heartbeat.read(attempt)
    assert beat is not None and collect(live).rounds[0].by_worker["w"]["start"] == 4.0


@pytest.mark.parametrize(
    ("failure", "then"),
    [
        (Failure("cancelled", "stopped", [0, 1], ""), "gra resume /runs/a"),
        (Failure("preempted", "stopped", [0], ""), "gra resume /runs/a"),
        (Failure("its node failed", "stopped", [0], ""), "gra resume /runs/a"),
        (Failure("ended without a word", "stopped", [0], ""), "gra resume /runs/a"),
        *(
            (Failure(end.value, "stopped", [0], ""), "gra resume /runs/a")
            for end in (End.stopped, End.drained, End.overtaken)
        ),
        (Failure("ended by SIGTERM", "merge", [], ""), "gra resume /runs/a"),
        (Failure("out of memory: raise site.memory_gb", "stopped", [0], ""), "gra logs /runs/a  then"),
        (Failure("killed at its time limit (site.time_minutes)", "stopped", [0], ""), "gra logs /runs/a  then"),
        (Failure("cancelled", "failed", [0], ""), "gra logs /runs/a  then"),
        (Failure("no room", "merge", [], ""), "gra logs /runs/a  then"),
    ],
)
def test_after_ones_own_cancel_there_is_nothing_to_mend(failure: Failure, then: str) -> None:
    stopped = of(replace(RUNS, state="stopped"), ShardStatus(1, "stopped", 20), failures=[failure])
    assert next_command(stopped).startswith(then)


def test_causes_stand_in_their_round() -> None:
    failure = Failure("its engine died", "failed", list(range(0, 400, 3)), "/runs/a/logs/7/7_0_0_log.out")
    text = said(of(replace(RUNS, state="failed"), failures=[failure]))
    assert "round 1: failed" in text
    assert " ".join(text.split()).count("failed 134 shards, 0 and others: its engine died (log: /runs/a/logs/7/") == 1


def test_rounds_have_one_name_and_a_merged_one_two_lines() -> None:
    status = of(replace(RUNS, state="published"), merged=True)
    first = replace(status.rounds[0], round=0)
    status = replace(status, rounds=[first, *status.rounds], planned_rounds=3)
    text = said(status)
    assert "round 0 (describe): merged\n  seeds      10 of 20: 5 described, 4 rejected, 1 failed" in text
    assert "  shards     1 published\n  took " in text
    assert text.splitlines()[-2] == "round 2: planned by the merge before it"


def test_a_missed_target_is_said_with_what_gets_the_rest() -> None:
    text = said(of(RUNS, target=60))
    assert "  target     60 rows\n" in text and "short" not in text, "while it is made, what is wanted is said"
    done = replace(RUNS, state="published", accepted=20, rejected=0, failed=0)
    status = replace(of(done, target=60, merged=True, kept=20), release="/runs/a/release")
    text = " ".join(said(status).split())
    assert "target 60: 40 short shards" in text and "release: /runs/a/release target: 60: 40 short" in text
    assert "report: /runs/a/release/report.html" in text
    assert "method.expected_acceptance=1," in text and summary(status).endswith("; target 60: 40 short")
    partial = said(replace(status, rounds=[replace(status.rounds[0], absent=[1])]))
    assert "expected_acceptance" not in partial, "the shards that are missing come first"
    met = replace(status, rounds=[replace(status.rounds[0], kept=60)])
    assert "60: reached" in said(met) and "short" not in said(met) + summary(met)


def test_a_directory_of_runs_is_listed(tmp_path: Path, tiny_llama: Path) -> None:
    one = make_run(tmp_path / "runs" / "one", 2, ["launch.shards=1"])
    make_run(tmp_path / "runs" / "two", 2, ["launch.shards=1"])
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "plan.json").write_text("{")
    text = list(listing(several(tmp_path / "runs")))
    assert [line.split()[0] for line in text] == ["bad", "one", "two"]
    assert text[1] == "one  round 1, not begun: 0 of 2, 0 accepted"
    assert "plan.json" in text[0]
    assert several(one.path) == () and several(tmp_path / "nowhere") == () and several(tmp_path) == []


def test_slurm_is_asked_once_for_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def down() -> list[object]:
        asked.append(1)
        raise SlurmDownError("squeue: no answer")

    monkeypatch.setattr(statuses, "ask_queue", down)
    ask = queue_once()
    for _ in range(3):
        with pytest.raises(SlurmDownError):
            ask()
    assert asked == [1]


def test_why_samples_failed_and_how_to_look_at_one(tmp_path: Path, tiny_llama: Path) -> None:
    """Also in round 0, whose samples are no candidates."""
    run = make_run(tmp_path / "run", 2, ["launch.shards=1", "engine.simulated_failures=1"])
    run = undisturbed(run)
    text = " ".join(said(collect(run)).split())
    assert "failed 2 keywords: answer cut off at max_tokens gra inspect" in text
    command = next(line.strip() for line in lines(collect(run)) if "gra inspect" in line)
    assert command == f"gra inspect {run.path} --round 1 --status failed", "on one line, however long"
    assert find_sample(run, status="failed", round_=1)[0]["stage"] == "keywords"
    with pytest.raises(GraError, match="no published failed sample"):
        find_sample(run, status="failed", round_=0)
    assert "tokens/s (simulated)" in text or "node-hours (simulated)" in text
    assert "(simulated)" not in said(of(RUNS))


def test_progress_in_a_pipe_fits_and_is_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    look = _teller(lambda: of(RUNS, STARTS, ShardStatus(2, "queued", 20), eta_s=5400.0))
    look()
    found = capsys.readouterr().out.splitlines()
    assert len(found) > 1 and max(map(len, found)) <= 80 and found[1].startswith("  ")
    look()
    assert not capsys.readouterr().out
