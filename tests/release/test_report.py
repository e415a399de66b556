"""The report: figures that agree with the tables, and a page that works in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_runs import Maker

from gra_hpc.records import CRITERIA, Call, call_schema
from gra_hpc.release import charts, limits
from gra_hpc.release.build import build
from gra_hpc.release.cluster_hours import Allocation, allocation
from gra_hpc.release.inputs import Inputs, Table
from gra_hpc.release.report.measures import (
    SPANS,
    Work,
    call_milliseconds,
    choose_shards,
    distributions,
    measure_work,
    time_line,
)
from gra_hpc.release.report.report import _by_chance, _causes, _operations
from gra_hpc.release.verify.verify import verify
from gra_hpc.run.directory import ShardDir
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json, sha256

CHROMIUM = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), "")


@pytest.fixture(scope="module")
def inputs(built: Run) -> Inputs:
    return Inputs.of_run(built)


@pytest.fixture(scope="module")
def rows(inputs: Inputs) -> list[dict[str, Any]]:
    return [row for r in inputs.rounds for t in r.tables() for row in pq.read_table(t.samples).to_pylist()]


def mean(review: dict[str, Any]) -> float:
    return sum(review[c] for c in CRITERIA) / 6


def test_distributions_count_what_is_there(inputs: Inputs, rows: list[dict[str, Any]]) -> None:
    d = distributions(inputs, [t for r in inputs.rounds for t in r.tables()])
    assert d.samples == len(rows)
    for domain, counts in d.domains.items():
        found = Counter(r["status"] for r in rows if r["domain"] == domain)
        assert counts == {s: found[s] for s in ("accepted", "rejected", "failed")}
    for name, m in d.members.items():
        mine = [r for r in rows if r["generator"] == name]
        assert (m.generated, m.accepted) == (len(mine), sum(r["status"] == "accepted" for r in mine))
        assert sum(m.received) == sum(r["mean"] is not None for r in mine)
        given = [(v, r) for r in rows for v in r["reviews"] if v["member"] == name]
        assert m.reviews == len(given)
        assert m.criteria == [sum(v[c] for v, _ in given) for c in CRITERIA]
        assert m.given == [sum(round(mean(v) * 2) == half for v, _ in given) for half in range(21)]
        decided = [(mean(v) >= 8 - 1e-9, r["status"] == "accepted") for v, r in given if r["status"] != "failed"]
        assert m.judged == len(decided)
        assert m.too_strict == sum(final and not own for own, final in decided)
        assert m.too_lenient == sum(own and not final for own, final in decided)
        verdicts = [r["verdict"] for r in rows if r["verdict"] and r["verdict"]["member"] == name]
        assert sum(m.adjudicated) == len(verdicts)
        looked = [v for r in rows for v in r["instruction_reviews"] if v["member"] == name]
        assert m.looked_at == len(looked)
        assert m.passed == sum(v["reasonableness"] * v["completeness"] * v["clarity"] for v in looked)
    assert sum(d.sd) == sum(r["sd"] is not None for r in rows)
    assert sum(d.lengths["response", "accepted"]) == sum(r["status"] == "accepted" for r in rows)
    assert d.mean_agreement.units == sum(len(r["reviews"]) > 1 for r in rows)
    alpha = d.mean_agreement.alpha("interval")
    assert alpha is not None and 0.2 < alpha < 0.95, "made-up Reviewers lean apart, but see the same sample"


def test_work_adds_up(inputs: Inputs) -> None:
    tables = [t for r in inputs.rounds for t in r.tables()]
    w = measure_work(tables, tables)
    total = sum(t.manifest["calls"]["rows"] for t in tables)
    assert sum(calls for calls, _, _ in w.tokens.values()) == total
    busy = sum(e["busy_seconds"] for t in tables for e in t.manifest["engines"]["engines"].values())
    assert sum(w.hours.values()) == pytest.approx(busy / 3600)
    assert (w.shards, w.attempts, w.restarts, w.hosts) == (6, 6, 6, 3)
    line = time_line(tables)
    assert len(line.tokens) == SPANS and sum(line.calls) == total
    assert sum(line.tokens) == sum(c for _, _, c in w.tokens.values())


def test_uses_of_tools_are_no_calls_of_models(tmp_path: Path) -> None:
    keys = {"s/ask/annotator-1/0": 2.0, "s/nearest/tool-77/0": 8.0, "t/nearest/tool-78/0": 8.0}
    calls = [Call(key, "d", "", "m", "", "stop", 1, 5, 0, float(i), s) for i, (key, s) in enumerate(keys.items())]
    shard = ShardDir(tmp_path, 0)
    file = shard.calls("a1")
    pq.write_table(pa.Table.from_pylist([asdict(c) for c in calls], call_schema()), file)
    entry = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    table = Table(shard, "a1", {"calls": entry, "tools": {"nearest": 2}})
    assert call_milliseconds([table]) == {("annotator", "m"): 2000}
    line = time_line([table])
    assert (sum(line.calls), sum(line.tokens)) == (1, 5)


def test_turns_are_added_up_by_group_and_shown(inputs: Inputs, built: Run) -> None:
    tables = [replace(t, manifest=dict(t.manifest)) for r in inputs.rounds for t in r.tables()][:2]
    for t in tables:
        groups = [
            {"models": ["a"], "swaps": 2, "lost_seconds": 30.4},
            {"models": ["b", "c"], "swaps": 3, "lost_seconds": 8.0},
        ]
        t.manifest["engines"] = t.manifest["engines"] | {"rotation": {"groups": groups}}
    found = measure_work(tables, [])
    facts = read_json(built.release / "manifest.json")
    assert _operations(found, facts)[-2:] == [
        ("turns of a: swaps, seconds lost", "4, 61"),
        ("turns of b, c: swaps, seconds lost", "6, 16"),
    ]
    assert not measure_work([t for r in inputs.rounds for t in r.tables()], []).turns


def test_allocated_hours_count_lost_attempts_and_idle_gpus(inputs: Inputs) -> None:
    table = next(inputs.rounds[0].tables())
    lost = {"attempt": "lost", "started": 1000.0, "at": 1000.0 + 7200, "gpus": 4}
    won = {"attempt": table.attempt, "started": 9_000.0, "at": 9_000.0 + 1800, "gpus": 2}
    manifest = table.manifest | {
        "attempts": [lost, {"attempt": "silent"}, won],
        "timings": {"started": 9_100.0, "ended": 9_000.0 + 3600},
    }
    found = allocation([replace(table, manifest=manifest)], gpus=8)
    assert found == Allocation(attempts=3, unrecorded=1, hours=3.0, gpu_hours=2 * 4 + 1 * 2)
    of_old = manifest | {"attempts": [{k: v for k, v in lost.items() if k != "gpus"}]}
    assert allocation([replace(table, manifest=of_old)], gpus=8).gpu_hours == 16
    steady = [a | {"seconds": 60.0 * i} for i, a in enumerate((lost, won), 1)]  # their clocks were set meanwhile
    stepped = manifest | {"attempts": steady, "timings": {"started": 9_100.0, "ended": 9_000.0, "seconds": 150.0}}
    assert allocation([replace(table, manifest=stepped)], gpus=8).hours == round((60 + 150) / 3600, 4)


def test_manifest_and_report_tell_the_allocated_hours(built: Run) -> None:
    facts = read_json(built.release / "manifest.json")
    assert facts["work"] == {"attempts": 6, "unrecorded": 0, "hours": 0.6, "gpu_hours": 0.0}
    page = (built.release / "report.html").read_text()
    assert "hours that all attempts ran, lost ones included" in page
    work = dict(_operations(Work({}, {}), facts | {"work": facts["work"] | {"gpu_hours": 4.8, "unrecorded": 2}}))
    assert work["GPU-hours allocated to them, without 2 that left no record"] == "4.8"


def test_a_part_of_the_shards_is_drawn_by_their_place(inputs: Inputs) -> None:
    tables = [t for r in inputs.rounds for t in r.tables()]
    chosen = choose_shards(tables, 80)
    assert [t.shard.path for t in chosen] == [t.shard.path for t in choose_shards(tables[::-1], 80)]
    assert 80 <= sum(t.manifest["samples"]["rows"] for t in chosen) < 160


def test_the_page_tells_the_manifest_and_loads_nothing(built: Run) -> None:
    page = (built.release / "report.html").read_text()
    manifest = read_json(built.release / "manifest.json")
    assert Ledger.from_dict(manifest["ledger"]).line() in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "url(" not in page and "@import" not in page
    assert page.count("<svg") == page.count("</svg>") > 15
    for outcome, rows in (("accepted", manifest["splits"]["train"]["rows"]), *manifest["rejects"].items()):
        shown = page.count(f'class="sample is-{outcome}"')
        assert shown == min(20, rows)
    assert "<tag>" not in page and "&lt;tag&gt;" in page, "texts of models are text"


def test_causes_beyond_the_first_are_one_row_with_their_sum() -> None:
    many = {f"response: cause {i:02}": 20 - i for i in range(13)}
    page = str(_causes(Ledger(planned=400, rejected=many, failed={"response: cut": 3}, pending=0)))
    assert "cause 09" in page and "cause 10" not in page
    assert "3 more, in the card and manifest.json" in page and "27 (14.8% of rejected)" in page
    exactly = str(_causes(Ledger(rejected=dict(list(many.items())[:10]))))
    assert "more" not in exactly


def test_a_report_of_nothing(maker: Maker) -> None:
    config = maker.config(seeds=2, simulated=True)
    config.launch.shards = 1
    config.method.samples_per_seed = 1
    config.method.accept_mean = 10.0
    release = build(maker.make("none", config, acceptance=0.0))
    assert verify(release) == []
    page = (release / "report.html").read_text()
    assert "The answers are simulated" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (950, "950"), (9999, "9,999"), (12345, "12.3k"), (4_560_000, "4.56M"), (2.256, "2.26"), (1e9, "1G")],
)
def test_figures_for_people(value: float, text: str) -> None:
    assert charts.number(value) == text


@pytest.mark.parametrize(("top", "ticks"), [(0, [0, 1]), (7, [0, 2, 4, 6, 8]), (100, [0, 25, 50, 75, 100])])
def test_round_ticks(top: float, ticks: list[float]) -> None:
    assert charts.nice(top) == ticks


SEARCH = """
<script>
addEventListener("load", () => {
  const q = document.getElementById("q"), every = s => [...document.querySelectorAll(s)];
  const box = e => e.getBoundingClientRect();
  const seen = () => every("details.sample").filter(d => !d.hidden).length;
  const type = text => { q.value = text; q.dispatchEvent(new Event("input")); return seen(); };
  const press = o => { document.querySelector(`.tools button[data-o="${o}"]`).click(); return seen(); };
  const wide = every("svg, table, pre").filter(e => box(e).right > innerWidth + 1).length;
  const small = every("main > svg, .pair svg").filter(e => box(e).width < 200).length;
  const result = {
    all: seen(), upper: type("ONLY-THIS"), both: type("winner only-this"), none: type("xyzzy"), cleared: type(""),
    failed: press("failed"), again: press(""), wide, small, height: document.body.scrollHeight,
  };
  document.title = "RESULT" + JSON.stringify(result) + "END";
});
</script>
"""


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_works_in_a_browser(built: Run, tmp_path: Path, width: int) -> None:
    page = (built.release / "report.html").read_text()
    changed = page.replace("</body>", f"{SEARCH}</body>").replace(
        "<h4>Instruction</h4>", "<h4>Instruction</h4><span>winner only-this</span>", 1
    )
    (tmp_path / "page.html").write_text(changed)
    out = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},900", f"--screenshot={tmp_path / 'page.png'}", "--dump-dom",
            f"file://{tmp_path / 'page.html'}",
        ],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    match = re.search(r"RESULT(\{.*?\})END", out.stdout)
    assert match, out.stderr[-2000:]
    result = json.loads(match[1].replace("&quot;", '"'))
    console = [line for line in out.stderr.splitlines() if "CONSOLE" in line]
    assert console == [], "no script error, nothing blocked"
    manifest = read_json(built.release / "manifest.json")
    everything = 20 + sum(min(20, n) for n in manifest["rejects"].values())
    assert result["all"] == result["cleared"] == result["again"] == everything
    assert result["failed"] == min(20, manifest["rejects"]["failed"])
    assert (result["upper"], result["both"], result["none"]) == (1, 1, 0)
    assert result["height"] > 3000 and result["small"] == 0
    if width == 1280:
        assert result["wide"] == 0, "nothing sticks out on a laptop"


@pytest.mark.parametrize(
    ("alpha", "units", "said"), [(0.02, 50, 1), (-0.3, 50, 1), (0.4, 50, 0), (0.02, 5, 0), (None, 50, 0)]
)
def test_agreement_by_chance_is_said_before_anything_is_trusted(alpha: float | None, units: int, said: int) -> None:
    found = _by_chance(alpha, SimpleNamespace(mean_agreement=SimpleNamespace(units=units)))  # type: ignore[arg-type]
    assert len(found) == said
    assert all("hardly more than by chance" in x for x in found)


@pytest.mark.parametrize(
    ("seated", "method", "said"),
    [
        (2, {}, "One Reviewer decided"),
        (1, {}, "One Reviewer decided"),
        (3, {}, "No member was left"),
        (3, {"settle": "majority"}, ""),
        (3, {"reviewers": 1}, "One Reviewer decided"),
    ],
)
def test_what_a_small_committee_cannot_do_is_said(seated: int, method: dict[str, object], said: str) -> None:
    found = limits._few(seated, {"reviewers": 3, "settle": "adjudicator"} | method)
    assert (said in found[0]) if said else found == []
