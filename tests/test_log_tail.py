"""The last lines of logs, and the one that tells why it ends there."""

from __future__ import annotations

from pathlib import Path

import pytest

from gra_hpc.log_tail import ANY, OURS, last_words, tail, telling


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_lines_are_shown_as_a_terminal_shows_them(log: Path) -> None:
    log.write_bytes(b"one\r\n\x1b[31mred\x1b[0m\tbell\x07\nload: 1%\rload: 50%\rload: 100%\nh\xc3\xa9 \xff\n\n  \n")
    assert tail(log, 10) == ["one", "red\tbell", "load: 100%", "hé \ufffd"]
    assert tail(log, 2) == ["load: 100%", "hé \ufffd"]
    assert tail(log, 10, start=5) == ["red\tbell", "load: 100%", "hé \ufffd"]


def test_of_a_long_log_only_the_end_is_read(log: Path) -> None:
    log.write_bytes(b"".join(b"%07d\n" % i for i in range(100_000)))
    assert tail(log, 3) == ["0099997", "0099998", "0099999"]
    assert len(tail(log, 100_000)) == 100_000
    assert len(tail(log, 9_000)) == 9_000


def test_the_best_sign_wins_and_of_its_lines_the_last() -> None:
    lines = ["told: a", "ValueError: b", "told: c", "  told: d  ", "e", " "]
    assert telling(lines, r"^told: (.*)", "Error", ANY) == "d"
    assert telling(lines, r"^KeyError", "Error", ANY) == "ValueError: b"
    assert telling(lines, ANY) == "e"
    assert telling(lines, "^x") == telling([], ANY) == ""


def test_an_error_of_ours_is_cause_and_advice() -> None:
    lines = ["gra_hpc.errors.LaunchError: a: b -> gra resume RUN", "srun: error: n1: Exited with exit code 1"]
    assert telling(lines, OURS) == "a: b"
    assert (found := OURS.match("gra_hpc.errors.GraError: why")) and found.groups() == ("why", None)


def test_the_last_words_of_a_log_that_has_none(log: Path) -> None:
    assert last_words(log) == ""
    log.write_text("\n")
    assert last_words(log) == ""
    log.write_text("finetune: no GPU\nexit\n")
    assert (last_words(log), last_words(log, r"^finetune: (.*)")) == ("exit", "no GPU")
