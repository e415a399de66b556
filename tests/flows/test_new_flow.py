"""`gra flow`: a new flow is a package that runs as it is, from texts to a release."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gra_hpc.config import flow_sections
from gra_hpc.errors import ConfigError
from gra_hpc.flows.registry import find
from gra_hpc.release.verify.verify import verify
from gra_hpc.run import code
from gra_hpc.run.code import code_digest
from gra_hpc.views.flows import listed, shown, write_new
from gra_hpc.views.sample import find_sample, history
from tests.flows.test_conversation_run import run_of
from tests.flows.test_variants import released


def as_installed(folder: Path, name: str) -> None:
    """A package as pip leaves it: beside what says its entry point."""
    info = folder / f"{name}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[gra_hpc.flows]\n{name} = {name}.flow:FLOW\n")


@pytest.fixture
def sift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new flow, installed."""
    folder = write_new("sift", tmp_path)
    as_installed(folder, "sift")
    monkeypatch.syspath_prepend(folder)
    caches = (flow_sections.brought, flow_sections.section, flow_sections.config_of)
    for cache in caches:
        cache.cache_clear()
    yield folder
    for cache in caches:
        cache.cache_clear()
    for name in [n for n in sys.modules if n.partition(".")[0] == "sift"]:
        del sys.modules[name]


def test_a_new_flow_runs_to_a_release(sift: Path, tmp_path: Path) -> None:
    """Its rows have columns of its own; books, card and report are as of any run; the rest is in `rejects/`."""
    texts = [f"Add {n} and {n}. [is {'yes' if n % 2 else 'no'}]" for n in range(40)]
    own = ["method.flow=sift", "sift.readers=4", "sift.question=Is it a sum?", "engine.simulated_failures=0.2"]
    own += [r"engine.simulated_truth=\[is (\w+)\]", "engine.simulated_skill={'*': {read: 0.75}}"]
    run = run_of(tmp_path, *own, records=[{"instruction": t} for t in texts])
    assert run.config.sift.readers == 4  # type: ignore[attr-defined]
    manifest, rows = released(run)
    assert rows and {r["text"] for r in rows} <= set(texts)
    for row in rows:
        assert row["score"] == [v["answer"] for v in row["votes"]].count(row["answer"]) / 4 > 0.5
        assert [v["member"] for v in row["votes"]] == row["seats"][0]["members"]
    right = [v["answer"] in row["text"][-5:] for row in rows for v in row["votes"]]
    assert abs(sum(right) / len(right) - 0.75) < 0.2, "a planted committee"
    rejects = [r for f in (run.release / "rejects").glob("*.parquet") for r in pq.read_table(f).to_pylist()]
    assert {r["stage"] for r in rejects} == {"reading", "agreement"} and len(rows) + len(rejects) == 40
    assert [f["stage"] for f in manifest["funnel"]][:2] == ["reading", "agreement"]
    assert manifest["frozen"]["sift"] == {"question": "Is it a sum?", "readers": 4}
    row, _, calls = find_sample(run, rows[0]["id"])
    lines = list(history(row, calls))
    assert f"calls ({rows[0]['calls']}):" in lines and f"    {rows[0]['text']}" in lines
    pq.write_table(
        pq.read_table(next((run.release / "data").glob("train*"))), next((run.release / "data").glob("train*"))
    )
    assert any("content changed" in problem or "bytes" in problem for problem in verify(run.release))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys\nsys.exit(3)\n", "3"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
        ("raise ValueError('no')\n", "no"),
        ("class FLOW:\n    name = 'sift'\n", "is no flow of this name"),
    ],
)
def test_a_package_that_does_not_work_is_named_and_the_others_are_listed(sift: Path, text: str, said: str) -> None:
    (sift / "sift" / "flow.py").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"method.flow=sift: sift.flow:FLOW of sift 0.1.0.*{said}"):
        find("sift")
    lines = list(listed())
    assert any(line.startswith("refine") for line in lines)
    assert any(line.startswith("sift") and said in line for line in lines)


def test_a_new_flow_is_short(sift: Path) -> None:
    """What follows from what it says of itself it does not say."""
    assert len((sift / "sift" / "flow.py").read_text(encoding="utf-8").splitlines()) <= 80


def test_its_code_is_part_of_the_fingerprint(sift: Path) -> None:
    before = code_digest(find("sift"))
    with (sift / "sift" / "flow.py").open("a") as file:
        file.write("\nMORE = 1\n")
    code._digest.cache_clear()
    assert code_digest(find("sift")) != before


@pytest.mark.slow  # it starts four commands
def test_the_test_of_a_new_flow_passes(sift: Path, tmp_path: Path) -> None:
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={sift}", str(sift)]
    done = subprocess.run(test, env=os.environ | {"PYTHONPATH": str(sift)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_new_flow_is_shown(sift: Path) -> None:
    told = "\n".join(shown("sift"))
    assert "# Members that are asked" in told and "Add 2 and 2." in told
    assert any(line.startswith("sift ") and line.endswith("(sift 0.1.0)") for line in listed())


def test_flows_are_listed_and_shown() -> None:
    names = [line.split()[0] for line in listed()]
    assert names == flow_sections.names() and {"synthesize", "refine", "seeds"} <= set(names)
    lines = list(shown("refine"))
    assert any(line.startswith("--- review_response (review_response.j2, guided") for line in lines)
    assert "questions none: nobody is asked" in list(shown("seeds"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("A-b", "small letters"),
        ("class", "small letters"),
        ("refine", "there is one"),
        ("x", "exists"),
        ("json", "something else"),
        ("method", "something else"),
    ],
)
def test_names_that_a_new_flow_cannot_have(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(ConfigError, match=said):
        write_new(name, tmp_path)
