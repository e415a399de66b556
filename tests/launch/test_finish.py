"""What a finished run says of itself: no hint that its result contradicts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from gra_hpc.launch.round_end import finish_round
from gra_hpc.launch.submit import finish
from gra_hpc.release.funnel import STEPS
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import _TAKEN, taken
from gra_hpc.views.sample import find_sample
from gra_hpc.views.status import collect
from gra_hpc.views.status_lines import lines, listing, next_command
from tools.faults.faults import make_run, undisturbed


def test_an_empty_release_is_not_to_be_opened(
    tmp_path: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = ["method.accept_mean=10", "method.accept_sd=0", "method.adjudicate_mean=10", "engine.simulated_failures=0"]
    run = undisturbed(make_run(tmp_path / "run", 4, ["launch.shards=1", *strict]))
    finish(run)
    said = capsys.readouterr().out
    assert "open it" not in said
    assert "rows:    0" in said and "it is empty: " in said
    hint = f"gra inspect {run.path} --status rejected"
    assert f"next: {hint}" in said
    assert next_command(collect(run)) == hint
    find_sample(run, status="rejected")  # what the hint finds


def test_what_was_dropped_is_named_for_what_it_was(
    tmp_path: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows beyond the target are no duplicates."""
    words = ["launch.shards=1", "method.target_accepted=2", "method.accept_mean=1", "method.accept_sd=10"]
    run = undisturbed(make_run(tmp_path / "run", 8, words))
    finish(run)
    said = " ".join(capsys.readouterr().out.split())
    found = re.search(r"rows: 2 of (\d+) accepted \(dropped: (.*\d+ beyond method.target_accepted)\)", said)
    assert found, said
    assert "target: 2: reached" in said
    assert "note: the engine was simulated, its answers are made up" in said
    status = collect(run)
    text = " ".join(" ".join(lines(status)).split())
    assert f" rows 2 kept of {found[1]} accepted; dropped: {found[2]} " in text
    assert list(listing([status])) == [f"run  released: 2 of {found[1]} accepted"]


def test_a_missed_target_is_said_at_the_end(
    tmp_path: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["launch.shards=1", "method.target_accepted=8", "method.expected_acceptance=1", "method.accept_mean=8.4"]
    run = undisturbed(make_run(tmp_path / "run", 8, words))
    finish(run)
    said = " ".join(capsys.readouterr().out.split())
    found = re.search(r"rows: (\d+) of .* target: 8: (\d+) short (\d+) of 9 candidates were kept", said)
    assert found and int(found[1]) + int(found[2]) == 8 and found[3] == found[1], said
    assert "new run of the same settings with method.expected_acceptance=0." in said
    text = " ".join(" ".join(lines(collect(run))).split())
    assert f"target 8: {found[2]} short" in text and "method.expected_acceptance=0." in text


def test_every_step_has_its_words() -> None:
    assert set(_TAKEN) == set(STEPS)
    said = taken({"surplus": 4, "fuzzy": 1, "exact": 2, "semantic": 0, "new": 3})
    assert said == "2 exact duplicates, 1 near-duplicate, 4 beyond method.target_accepted, 3 by new"


def test_a_merge_that_only_builds_the_release_says_so(tmp_path: Path, tiny_llama: Path) -> None:
    run = undisturbed(make_run(tmp_path / "run", 4, ["launch.shards=1"]))
    assert "nothing to do" in finish_round(run, 1)
    shutil.rmtree(run.release)
    said = finish_round(run, 1)
    assert "nothing to do" not in said and f"release built anew in {run.release}" in said


@pytest.mark.parametrize(
    ("ledger", "words"),
    [
        (Ledger(5, 1, {"review: low": 4}), ""),
        (Ledger(5, 0, {"review: low": 4}, {"answer: cut": 1}), " --status rejected"),
        (Ledger(5, 0, {}, {"answer: cut": 5}), " --status failed"),
        (Ledger(5, pending=5), ""),
    ],
)
def test_what_there_is_to_inspect(ledger: Ledger, words: str) -> None:
    assert ledger.to_inspect == words
