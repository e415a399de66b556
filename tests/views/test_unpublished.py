"""`gra inspect --live` and `--worst`: samples before their shard is published, and those that Reviewers disagree on."""

from __future__ import annotations

from pathlib import Path

import pytest

from gra_hpc.errors import GraError
from gra_hpc.records import Call
from gra_hpc.run.attempts import begin
from gra_hpc.run.journal import encode
from gra_hpc.views.sample import find_sample, worst
from gra_hpc.views.unpublished import lines
from tests.conftest import ROOT
from tools.faults.faults import make_run, undisturbed


def call(key: str, text: str, at: float, finish: str = "stop") -> bytes:
    return encode(Call(key, "d" * 32, "ada", "m", text, finish, 1, 1, 1, at, 0.1))


def test_the_sample_that_is_furthest_is_shown_as_it_stands(tmp_path: Path, tiny_llama: Path) -> None:
    """Over two attempts; a torn line, and what stands before the end of a long journal, are left out."""
    run = make_run(tmp_path / "run", 4, ["launch.shards=2"])
    with pytest.raises(GraError, match="no answer that is not published yet"):
        list(lines(run))
    shard = run.round(1).shard(1)
    first = begin(shard)
    first.journal.write_bytes(
        call("aa/keywords/generator/0", "bees", 1.0) + call("bb/keywords/generator/0", "sea", 2.0)
    )
    second = begin(shard)
    second.journal.write_bytes(
        call("aa/instruction/generator/0", "Draw", 3.0, "length")
        + call("aa/instruction/generator/1", "Draw a bee.\nIn black.", 4.0)
        + call("aa/response/generator/0", "torn", 5.0)[:-9]
    )
    assert list(lines(run)) == [
        "sample aa: round 1 shard 1, which is not published yet",
        "keywords, by ada as generator:",
        "    bees",
        "instruction, by ada as generator (length):",
        "    Draw",
        "instruction, by ada as generator, try 2:",
        "    Draw a bee.",
        "    In black.",
    ]


def test_the_worst_disagreements_first(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = make_run(tmp_path / "run", 12, ["launch.shards=2"])
    with pytest.raises(GraError, match="no published sample that Reviewers have scored"):
        list(worst(run, 5))
    undisturbed(run)
    head, *rows, then = worst(run, 5)
    assert max(map(len, [head, *rows])) <= 80 and len(rows) == 5
    deviations = [float(row.split()[0]) for row in rows]
    assert deviations == sorted(deviations, reverse=True) and deviations[0] > 0
    everything = [float(row.split()[0]) for row in list(worst(run, 100))[1:-1]]
    assert everything[:5] == deviations, "of all shards"
    id_ = then.split()[-1]
    assert round(find_sample(run, id_)[0]["sd"], 2) == deviations[0]
    page = (ROOT / "docs" / "howto.md").read_text()
    lines = page.split("```python tested=tests/views/test_unpublished.py\n")[1].split("```")[0]
    exec(lines.replace("runs/done", str(run.path)), names := {})  # the page's own lines, with pandas
    assert len(names["rows"]) and len(names["rejected"])
