"""A chain by quantiles: a round each link, which works on what the one before forwards."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gra_hpc import parquet
from gra_hpc.config import presets
from gra_hpc.errors import ConfigError, IncompleteError
from gra_hpc.flows.annotate.forward import forwards
from gra_hpc.flows.annotate.questions import Labels
from gra_hpc.flows.annotate.records import as_text
from gra_hpc.flows.annotate.views import agreement, links
from gra_hpc.flows.annotate.views.collected import HOW, Collected
from gra_hpc.launch.round_end import finish_round
from gra_hpc.launch.submit import finish
from gra_hpc.launch.tasks import ShardTask
from gra_hpc.merge.round import merge_round
from gra_hpc.release.verify.verify import verify
from gra_hpc.run import planning, worker
from gra_hpc.run.plan import RoundPlan, seeds_as_text
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run
from gra_hpc.signals import Signals
from gra_hpc.storage import read_json
from gra_hpc.views import sample
from gra_hpc.views.status import collect
from gra_hpc.views.status_lines import lines, listing
from tests.flows.annotate.made_up import SCHEMA

QUANTILE = (
    "engine.kind=simulated",
    "merge.semantic=false",
    "annotate.route=chain",
    "annotate.chain=[ada, ben, cyd]",
    "annotate.keep=quantile",
    "annotate.aggregate=majority",
    "method.rounds=3",
)

SURE = {
    "ada": dict(enumerate((0.9, 0.8, 0.5, 0.4, 0.3, 0.1))),
    "ben": {2: 0.2, 3: 0.7, 4: 0.6, 5: 0.1},
    "cyd": {2: 0.9, 5: 0.3},
}
"""The worked case: how sure each link is of the rows that it sees."""
SAYS = {"ada": "positive", "ben": "negative", "cyd": "neutral"}
OTHER = {"positive": "negative", "negative": "neutral", "neutral": "positive"}


def shares(says: str, margin: float) -> dict[str, float]:
    """Of labels, so that the first is likelier than the second by a margin, and the third has next to nothing."""
    rest = 1 / (1 + math.exp(margin))
    return {says: 1 - rest, OTHER[says]: rest}


def planned(path: Path, *words: str, rows: int = 6) -> Run:
    seeds = path / "rows.jsonl"
    seeds.write_text("".join(json.dumps({"instruction": f"Row {i}: positive."}) + "\n" for i in range(rows)))
    return planning.make(path / "run", presets.compose("annotate", [f"seeds.path={seeds}", *QUANTILE, *words]))


def worked_case(path: Path, shards: int) -> Run:
    skill = {
        member: {"link": {str(row): shares(SAYS[member], sure) for row, sure in by.items()}}
        for member, by in SURE.items()
    }
    planted = "engine.simulated_truth='Row (?P<by>[0-9]): (?P<truth>positive)'"
    return planned(
        path,
        planted,
        "annotate.labels={positive: '', negative: '', neutral: ''}",
        f"engine.simulated_skill={json.dumps(skill)}",
        f"launch.shards={shards}",
    )


def made(run: Run, number: int) -> None:
    for n in range(run.plan.shards):
        ShardTask(str(run.path), number, n)()
    finish_round(run, number)


def kept(run: Run, number: int) -> list[int]:
    rows = parquet.read_table(run.round(number).merged / "kept.parquet", ["text"])["text"].to_pylist()
    return sorted(int(text.split()[1][:-1]) for text in rows)


def test_the_worked_case_of_a_chain_is_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = worked_case(tmp_path, 2)
    ShardTask(str(run.path), 1, 0)()
    with pytest.raises(IncompleteError) as e:
        merge_round(run, 1)
    assert e.value.then == f"gra resume {run.path}"  # a part cannot be merged, and is not offered
    for number in (1, 2, 3):
        made(run, number)
    assert [kept(run, n) for n in (1, 2, 3)] == [[0, 1], [3, 4], [2, 5]]
    assert [RoundPlan.load(run.round(n)).candidates for n in (1, 2, 3)] == [6, 4, 2]
    by = [read_json(run.round(n).manifest)["steps"].get("forwarded") for n in (1, 2, 3)]
    assert [(b["seen"], b["share"], b["kept"], b["dropped"]) for b in by[:2]] == [(6, 2, 2, 4), (4, 2, 2, 2)]
    assert [b["margin"] for b in by[:2]] == [pytest.approx(0.8), pytest.approx(0.6)]
    assert by[2] is None
    labels = parquet.read_table(
        run.release / "labels.parquet", ["id", "text", "label", "how", "annotators"]
    ).to_pylist()
    of = {int(row["text"].split()[1][:-1]): row for row in labels}
    source = {label: link for link, label in enumerate(SAYS.values())}
    assert [source[of[row]["label"]] for row in range(6)] == [0, 0, 2, 1, 1, 2]
    assert [len(of[row]["annotators"]) for row in range(6)] == [1, 1, 3, 2, 2, 3]
    assert {row["how"] for row in labels} == {"kept"}
    facts = read_json(run.release / "manifest.json")["added"]["facts"]
    assert [(c["member"], c["saw"], c["kept"]) for c in facts["chain"]] == [("ada", 6, 2), ("ben", 4, 2), ("cyd", 2, 2)]
    last = next(r for r in labels if r["text"].startswith("Row 5"))
    found, _, calls = sample.find_sample(run, last["id"])
    told = list(sample.history(found, calls, run))
    assert told[3:6] == ["text:", "    Row 5: positive.", "label: neutral  (this link's, confidence 0.57)"]
    assert told[2] == "seats: annotator cyd"
    assert told[6] == "annotator cyd: neutral  (margin 0.30)"
    assert told[7].startswith("released: neutral  (kept, confidence ")
    assert told[8:10] == [f"annotator {who}  (in another round)" for who in ("ada: positive", "ben: negative")]
    found, _, calls = sample.find_sample(run, round_=1, status="accepted")
    assert any(line.startswith("released: ") for line in sample.history(found, calls, run))
    assert [c["least_margin"] for c in facts["chain"]] == [pytest.approx(m, abs=1e-4) for m in (0.8, 0.6, 0.3)]
    assert facts["cost"]["committee"]["calls"] == 2000
    assert [c["calls"] for c in facts["chain"]] == [6, 4, 2]
    assert sum(c["prompt_tokens"] for c in facts["chain"]) == pytest.approx(
        6 * facts["cost"]["committee"]["prompt_tokens"] / 1000, abs=0.1
    )
    assert "| ada | 6 | 2 | 0.80 | " in (run.release / "README.md").read_text(encoding="utf-8")
    manifest = read_json(run.release / "manifest.json")
    assert (manifest["ledger"]["planned"], manifest["dropped"]["forwarded"]) == (12, 6)
    assert manifest["splits"]["train"]["rows"] == 6
    assert verify(run.release) == []
    finish(run)
    assert "rows:    6 of 6 accepted (6 left to the next round)" in capsys.readouterr().out
    status = collect(run)
    assert "rows       2 kept of 2 accepted; 4 left to the next round" in "\n".join(lines(status))
    assert list(listing([status])) == ["run  released: 6 of 6 accepted"]
    run.round(3).manifest.write_text("{}")
    assert [r.unread for r in collect(run).rounds] == [False, False, True]


def labelled(run: Run) -> dict[str, Any]:
    names = ["text", "label", "confidence", "how", "annotators"]
    rows = parquet.read_table(run.release / "labels.parquet", names).to_pylist()
    return {row.pop("text"): row for row in rows}


KILLED = (
    "import os, sys; from gra_hpc.run import journal; from gra_hpc.launch.tasks import ShardTask\n"
    "kept, seen = journal.Journal.append, []\n"
    "def append(self, call):\n"
    "    kept(self, call); self.flush(); seen.append(call)\n"
    "    if len(seen) == 5: os.kill(os.getpid(), 9)\n"
    "journal.Journal.append = append\n"
    "ShardTask(sys.argv[1], 2, 0)()"
)


def test_a_chain_is_the_same_however_it_is_cut_and_killed(tmp_path: Path) -> None:
    """Against one shard: three, of which one of the second link's is killed in its middle. Some answers are cut off."""
    found = []
    for shards in (1, 3):
        (tmp_path / str(shards)).mkdir()
        words = (f"launch.shards={shards}", "engine.simulated_failures=0.3", "method.max_tries=1", "launch.window=4")
        run = planned(tmp_path / str(shards), *words, rows=60)
        made(run, 1)
        plan = run.round(2).plan_file.read_bytes()
        if shards == 3:
            died = subprocess.run([sys.executable, "-c", KILLED, str(run.path)], capture_output=True, check=False)
            assert died.returncode == -9, died.stderr
        made(run, 2)
        if shards == 3:
            assert read_json(run.round(2).shard(0).manifest)["attempts"][-1]["replayed"] >= 4
        assert run.round(2).plan_file.read_bytes() == plan
        made(run, 3)
        assert remaining(run) == []
        assert verify(run.release) == []
        found.append(labelled(run))
    assert found[0] == found[1]
    assert len(found[0]) == 60
    by = read_json(run.round(1).manifest)["steps"]["forwarded"]
    assert by["seen"] < 60  # some did not answer: the next link sees those too
    assert RoundPlan.load(run.round(2)).candidates == 60 - by["kept"]
    assert by["kept"] == by["share"] == by["seen"] // 3
    links = [[a["member"] for a in row["annotators"]] for row in found[0].values()]
    assert ["ben", "cyd"] in links
    assert ["ada", "cyd"] in links
    assert all((row["label"] is None) == (row["how"] == "failed") for row in found[0].values())
    manifest = read_json(run.release / "manifest.json")
    facts = manifest["added"]["facts"]
    hows = [row["how"] for row in found[0].values()]
    assert facts["how"]["earlier"] == hows.count("earlier") > 0
    assert sum(link["kept"] for link in facts["chain"]) == hows.count("kept")
    assert hows.count("kept") == sum(split["rows"] for split in manifest["splits"].values())
    assert [link["kept"] for link in facts["chain"]][:2] == [
        read_json(run.round(n).manifest)["steps"]["forwarded"]["kept"] for n in (1, 2)
    ]
    assert sum(manifest["ledger"]["failed"].values()) > 0


def test_what_no_later_link_could_answer_is_kept_by_none() -> None:
    """Three items: ada keeps the first; ben and cyd cannot answer the second, and cyd not the third."""
    config = presets.compose("annotate", ["seeds.path=rows.jsonl", *QUANTILE])
    own = config.annotate
    labels = Labels.of(own)
    first = as_text(labels.categories[0])

    def row(seed: int, number: int, margin: float | None) -> dict[str, Any]:
        said = [{"member": own.chain[number - 1], "said": first, "reason": "", "sure": True, "margin": margin}]
        there = margin is not None
        return {
            "id": f"{seed:016x}", "seed_id": f"{seed:016x}", "round": number, "label": first if there else "",
            "confidence": 1.0 if there else 0.0, "how": "kept" if there else "", "annotations": said if there else [],
        }  # fmt: skip

    schema = SCHEMA.append(pa.field("seed_id", pa.string())).append(pa.field("round", pa.int32()))
    rounds = [
        [row(1, 1, 0.9), row(2, 1, 0.01), row(3, 1, 0.1)],
        [row(2, 2, None), row(3, 2, 0.02)],
        [row(2, 3, None), row(3, 3, None)],
    ]
    tables = [pa.Table.from_pylist(rows, schema) for rows in rounds]
    found = Collected.of(links.whole(lambda: tables, own.chain, labels)(), labels, tuple(own.chain))
    assert sorted(HOW[i] for i in found.how) == ["earlier", "earlier", "kept"]
    steps = [{"forwarded": {"margin": 0.9}}, {"forwarded": {"margin": None}}, {}]
    chain = agreement.chain(found, found.final(own), own, steps)
    assert [(link["saw"], link["kept"]) for link in chain] == [(3, 1), (1, 0), (0, 0)]
    assert [link["least_margin"] for link in chain] == [0.9, None, None]


def test_a_link_that_keeps_all_leaves_the_next_ones_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skill = {"ada": {"link": 0.9}}
    planted = ("engine.simulated_truth='Row [0-9]: (?P<truth>positive)'", f"engine.simulated_skill={json.dumps(skill)}")
    run = planned(tmp_path, *planted, "annotate.labels={positive: '', negative: ''}", "launch.shards=2")
    begin, starts = worker.open_engine, []
    monkeypatch.setattr(worker, "open_engine", lambda *args: starts.append(args) or begin(*args))
    for number, started in ((1, 2), (2, 0), (3, 0)):
        starts.clear()
        made(run, number)
        assert len(starts) == started, "engines were started for nothing"
    assert [RoundPlan.load(run.round(n)).candidates for n in (1, 2, 3)] == [6, 0, 0]
    narrow = Run.open(run.path, ["launch.window=1"])
    most = [worker._Worker(narrow, n, 0, Signals())._most_open() for n in (1, 2)]
    assert most == [worker.OPEN, worker.OPEN - 1 + worker.WINDOWS], "each round is as large as it is itself"
    assert {row["label"] for row in labelled(run).values()} == {"positive"}
    assert [c["saw"] for c in read_json(run.release / "manifest.json")["added"]["facts"]["chain"]] == [6, 0, 0]
    assert verify(run.release) == []


def test_a_member_that_is_not_sure_at_all_keeps_nothing() -> None:
    config = presets.compose("annotate", ["seeds.path=rows.jsonl", *QUANTILE])
    forward = forwards(config)
    assert forward is not None

    def samples(margins: list[float | None]) -> Any:
        said = [[{"margin": m}] for m in margins]
        kind = pa.list_(pa.struct([("margin", pa.float64())]))
        columns = [[f"{i}" for i in range(len(margins))], ["accepted"] * len(margins), pa.array(said, kind)]
        return lambda _: iter([pa.record_batch(columns, ["id", "status", "annotations"])])

    unsure = forward(1, samples([0.0, None, 0.0]))
    assert (list(unsure.ids), unsure.by["kept"]) == (["0", "1", "2"], 0)
    alike = forward(1, samples([1.0, 1.0, 1.0]))
    assert (list(alike.ids), alike.by) == ([], {"seen": 3, "share": 1, "kept": 3, "margin": 1.0})
    few = forward(1, samples([1.0, 2.0]))
    assert (list(few.ids), few.by["margin"]) == (["0", "1"], None)
    nobody = forward(2, samples([]))
    assert (list(nobody.ids), nobody.by["seen"]) == ([], 0)


def test_a_round_makes_nothing_of_seeds_that_it_leaves_out() -> None:
    on = np.random.default_rng(0).random(101) < 0.4
    plan = RoundPlan(2, 2 * int(on.sum()), 4, only=seeds_as_text(on.tolist()))
    each = [plan.of_seed(i, 101) for i in range(101)]
    assert each == [2 * int(one) for one in on]
    assert sum(plan.of_shard(s, 101) for s in range(4)) == plan.candidates
    one_more = RoundPlan(3, int(on.sum()) + 3, 4, only=plan.only)
    assert sum(one_more.of_seed(i, 101) for i in range(101)) == one_more.candidates
    assert {one_more.of_seed(i, 101) for i in np.flatnonzero(on)} == {1, 2}
    assert "only" not in RoundPlan(1, 5, 1).to_dict()
    assert plan._places.nbytes == 4 * 104, "a few bytes a seed"
    assert [i for i in plan._places if i >= 0] == list(range(on.sum()))
    assert sum(RoundPlan(2, 0, 1, only=seeds_as_text([False] * 9)).of_seed(i, 9) for i in range(9)) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.rounds=1"], "method.rounds=1: expected 3"),
        (["annotate.margins=[1, 1]"], "annotate.margins"),
        (["merge.allow_partial=true"], "merge.allow_partial"),
        (["annotate.keep=margin", "annotate.margins=[1, 1]"], "method.rounds=3: expected 1"),
        (["annotate.route=all", "annotate.chain=[]", "method.rounds=1"], "annotate.keep"),
    ],
)
def test_chains_by_quantiles_that_are_none(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        presets.compose("annotate", ["seeds.path=rows.jsonl", *QUANTILE, *words])
