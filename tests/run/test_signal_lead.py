"""The time before a time limit, sized from how long calls take."""

from __future__ import annotations

from pathlib import Path

import pytest

from gra_hpc.config.settings import RunConfig
from gra_hpc.run.attempts import Heartbeat, begin
from gra_hpc.run.directory import RunDir
from gra_hpc.run.signal_lead import grace_s, lead_for, slowest_call
from gra_hpc.storage import to_json


def config(minutes: int, lead: int) -> RunConfig:
    made = RunConfig()
    made.site.time_minutes, made.site.signal_lead_s = minutes, lead
    return made


def test_nothing_measured_changes_nothing() -> None:
    assert lead_for(config(240, 90), 0.0) == (90, "")


def test_quick_calls_change_nothing() -> None:
    assert lead_for(config(15, 90), 40.0) == (90, "")


def test_slow_calls_raise_it() -> None:
    lead, said = lead_for(config(240, 90), 100.0)
    assert lead == 150
    assert grace_s(lead) >= 1.25 * 100
    assert said == "site.signal_lead_s raised from 90 to 150: a call took 100 s"


def test_no_more_than_a_fifth_of_the_limit() -> None:
    lead, said = lead_for(config(15, 90), 300.0)
    assert lead == 180
    assert "only a fifth of the time limit (180 s)" in said
    assert "site.time_minutes=34" in said
    assert lead_for(config(34, 90), 300.0)[0] == 400


def test_it_is_never_lowered() -> None:
    assert lead_for(config(10, 120), 500.0)[0] == 120


@pytest.mark.parametrize("published", [False, True])
def test_the_slowest_call_is_read_from_heartbeats_and_manifests(tmp_path: Path, published: bool) -> None:
    run = RunDir(tmp_path)
    assert slowest_call(run) == 0.0
    for number, seconds in enumerate((3.0, 71.5, 0.0)):
        shard = run.round(1).shard(number)
        attempt = begin(shard)
        Heartbeat(attempt.id, number, 1, slowest_call_s=seconds).write(attempt)
        if published:
            attempt.heartbeat.unlink()
            history = [{"attempt": attempt.id}, {"attempt": "x", "slowest_call_s": seconds}]
            shard.manifest.write_bytes(to_json({"attempts": history}))
    (run.round(1).shards / "noise").mkdir()
    assert slowest_call(run) == 71.5
