"""Experiment files: their grids, and that every row of each plans as it is, on a cluster without a network."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_cache import fill

from gra_hpc import cli
from gra_hpc.config import presets
from gra_hpc.config.settings import Policy, ReviewOrder, SelfReview, Settle
from gra_hpc.errors import ConfigError, GraError, ReleaseError
from gra_hpc.experiments import config as experiments
from gra_hpc.experiments import directory, page, table
from gra_hpc.experiments.chain import Chain
from gra_hpc.experiments.config import Row, compose, rows_of
from gra_hpc.experiments.directory import ExperimentDir
from gra_hpc.storage import entry, to_json
from tests.conftest import made

PUBLISHED = ("paper", "ablations", "rounds")
OURS = ("bounded", "performance", "own-judges", "other-judges")
"""Rows of the ablations that the paper does not have."""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A site of eight 80-GB GPUs a node with everything staged."""
    path = tmp_path_factory.mktemp("site")
    settings = {
        "name": "stand-in", "executor": "slurm", "partition": "gpu", "gpus_per_node": 8, "gpu_memory_gb": 80.0,
        "gpu_type": "a100", "cpus_per_task": 64, "memory_gb": 480.0, "max_array_size": 1001,
        "scratch": str(fill(path / "scratch", tiny_llama)),
    }  # fmt: skip
    (path / "stand-in.yaml").write_text(yaml.safe_dump({"site": settings}))
    return path / "stand-in.yaml"


def data_rows(name: str) -> list[Row]:
    """One row for each data run of an experiment."""
    rows = {row.made: row for row in rows_of(compose(name))}
    return list(rows.values())


def only_when_slow(name: str, row: Row) -> bool:
    """The ablations: they are planned below, as a grid. The paper's rows over other seeds: no other settings."""
    return name == "ablations" or (name == "paper" and row.seeds != "alpaca")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        pytest.param(n, r, marks=pytest.mark.slow if only_when_slow(n, r) else ())
        for n in PUBLISHED
        for r in data_rows(n)
    ],
    ids=lambda x: getattr(x, "made", x),
)
def test_every_row_plans_by_gra_plan(
    name: str, row: Row, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is written: `gra plan RUN --preset DIR/presets/ROW.yaml`, with the real models' sizes."""
    config = compose(name)
    made = ExperimentDir(tmp_path, name)
    made.save(config, [row])
    words = ["plan", str(tmp_path / "run"), "--preset", str(made.preset(row)), "--site", str(site)]
    cli.app(words, standalone_mode=False)
    said = capsys.readouterr().out
    assert "next: gra submit" in said and "600 from" in said
    assert ("none: nobody is asked" in said) == (row.data == "seed")
    planned = presets.load(tmp_path / "run" / "run.yaml")
    assert {member.model for member in planned.committee.values()} == set(planned.models)
    assert planned.release.validation == 0


def test_the_variants_are_what_the_paper_measures(tmp_path: Path) -> None:
    def run(name: str, row: str) -> Any:
        path = tmp_path / "preset.yaml"
        path.write_text(experiments.preset_text(compose(name), Row(*row.split("/"))))
        return presets.compose(str(path))

    gra = run("paper", "alpaca/gra/qwen")
    assert (len(gra.models), gra.method.rounds, gra.method.target_accepted) == (5, 5, 10000)
    assert (gra.method.reviewers, gra.method.accept_mean, gra.method.accept_sd) == (3, 8.0, 1.5)
    assert run("paper", "condor/seed/llama").method.flow == "seeds"
    assert run("paper", "wizardlm/refine/llama").method.flow == "refine"
    large = run("paper", "alpaca/distilled-72b/qwen")
    assert [m.path for m in large.models.values()] == ["Qwen/Qwen2.5-72B-Instruct"]
    assert large.method.policy is Policy.single and not large.method.review_response
    assert large.method.target_accepted == gra.method.target_accepted, "as many rows"
    assert run("ablations", "alpaca/majority/llama").method.settle is Settle.majority
    assert run("ablations", "alpaca/one-reviewer/llama").method.reviewers == 1
    assert not run("ablations", "alpaca/no-review/llama").method.review_instruction
    fixed = run("ablations", "alpaca/fixed/qwen").method.fixed
    assert {fixed.generator, *fixed.reviewers, fixed.adjudicator} == set(gra.models)
    assert run("ablations", "alpaca/bounded/llama").method.review_order is ReviewOrder.bounded
    assert run("ablations", "alpaca/performance/llama").method.policy is Policy.performance
    own, others = (run("ablations", f"alpaca/{name}/llama") for name in OURS[2:])
    assert own.committee == others.committee and len(own.committee) == 5 and len(own.models) == 2
    assert [r.method.self_review for r in (own, others)] == [SelfReview.allow, SelfReview.avoid]
    single = run("ablations", "alpaca/single/qwen")
    assert single.method.policy is Policy.single and single.method.review_response and len(single.models) == 1


def test_the_whole_grid_plans_at_once(site: Path, tmp_path: Path) -> None:
    """Also fine-tuning and evaluation of every row; typed twice it is the same plan."""
    config = compose("ablations", site=str(site))
    rows = [r for r in rows_of(config) if r.data not in OURS]  # ours plan one by one, when it may be slow
    chain = Chain(ExperimentDir(tmp_path, "ablations"), config, rows, lambda _: None)
    first = chain.plan()
    assert set(first) == {r.made for r in rows} and len(first) == 6
    before = {p: p.read_bytes() for p in tmp_path.glob("data/*/plan.json")}
    chain.plan()
    assert before == {p: p.read_bytes() for p in tmp_path.glob("data/*/plan.json")} and len(before) == 6
    row = Row("alpaca", "majority", "llama")
    tuned = directory.finetune_config(chain.made, config, row, 7)
    assert (tuned.model.path, tuned.model.chat_template, tuned.seed) == ("meta-llama/Llama-3.1-8B", "alpaca", 7)
    assert tuned.data.path == str(tmp_path / "data" / "alpaca-majority") and tuned.site.name == "stand-in"
    measured = directory.evaluate_config(chain.made, config, row, 7)
    assert measured.model.path == str(tmp_path / "models" / "alpaca-majority-llama-s7")
    assert len(measured.benchmarks) == 10


def test_every_printed_figure_has_a_row_and_the_reverse() -> None:
    for name in PUBLISHED:
        config = compose(name)
        rows = rows_of(config)
        source = table.printed(config.printed)
        with_figure = [r for r in rows if table.printed_figure(source, r) is not None]
        assert {r.data for r in rows} - {r.data for r in with_figure} <= {"refine", *OURS}, "GRA-Refine is not printed"
        assert len(with_figure) == len(source["figures"])
    assert table.printed_figure(table.printed("gra-2504.12322"), Row("condor", "gra", "llama")) == 51.60


def test_rounds_share_their_data_and_differ_in_what_is_trained_on(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gra_hpc.training.examples import read_examples

    config = compose("rounds")
    rows = rows_of(config)
    made = ExperimentDir(tmp_path, "rounds")
    assert {r.made for r in rows} == {"wizardlm-gra"} and len({made.model(r, 0) for r in rows}) == 5
    tuned = [directory.finetune_config(made, config, r, 0) for r in rows]
    assert [c.data.last_round for c in tuned] == [1, 2, 3, 4, 5]
    assert {c.data.path for c in tuned} == {str(tmp_path / "data" / "wizardlm-gra")}
    release = tmp_path / "release"
    (release / "data").mkdir(parents=True)
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    table_ = pa.table({"messages": [chat] * 5, "score": [9.0] * 5, "round": [1, 2, 1, 3, 2]})
    train = release / "data" / "train-00000-of-00001.parquet"
    pq.write_table(table_, train)
    (release / "manifest.json").write_text("{}")
    with pytest.raises(ReleaseError, match="not in the release's manifest"):
        read_examples(str(release))
    (release / "manifest.json").write_bytes(to_json({"files": {f"data/{train.name}": entry(train)}}))
    found = read_examples(str(release), last_round=2)
    assert len(found.conversations) == 4 and found.refused == {"after data.last_round": 1}


def test_rows_are_chosen_by_patterns() -> None:
    config = compose("paper")
    assert len(rows_of(config)) == 30
    assert [str(r) for r in rows_of(config, ["alpaca/gra/*"])] == ["alpaca/gra/qwen", "alpaca/gra/llama"]
    with pytest.raises(ConfigError, match="alpacca/gra/qwen: matches no row; did you mean alpaca/gra/qwen"):
        rows_of(config, ["alpacca/gra/qwen"])
    config.rows = [experiments.Rows(data=["grra"])]
    with pytest.raises(ConfigError, match=r"rows\[0\].data: grra; did you mean gra"):
        rows_of(config)


def test_overrides_reach_the_stages(tmp_path: Path) -> None:
    config = compose("paper", ["run.method.rounds=2", "finetune.optimizer.epochs=3", "training_seeds=[1, 2]"])
    row = Row("alpaca", "gra", "qwen")
    made = ExperimentDir(tmp_path, "paper")
    made.save(config, [row])
    assert directory.run_config(made, config, row).method.rounds == 2
    assert directory.finetune_config(made, config, row, 1).optimizer.epochs == 3
    with pytest.raises(ConfigError, match="traning_seeds"):
        compose("paper", ["traning_seeds=[1]"])
    with pytest.raises(ConfigError, match=r"unknown key method.round"):
        made.save(compose("paper", ["run.method.round=2"]), [row])
        directory.run_config(made, compose("paper", ["run.method.round=2"]), row)


def finished(path: Path, metrics: dict[str, float], **more: Any) -> None:
    path.mkdir(parents=True)
    (path / "done.json").write_text(json.dumps({"kind": "evaluate", "metrics": metrics, **more}))


def test_the_table_lays_our_figures_beside_the_printed_ones(tmp_path: Path) -> None:
    config = compose("paper", ["training_seeds=[0, 1, 2]"])
    made = ExperimentDir(tmp_path, "paper")
    rows = rows_of(config, ["alpaca/*/qwen"])
    gra, seed = (next(r for r in rows if r.data == d) for d in ("gra", "seed"))
    for s, value in enumerate((60.0, 61.0, 62.0)):
        finished(made.result(gra, s), {"gsm8k": value + 10, "mean": value})
    finished(made.result(seed, 1), {"mean": 50.0}, intervals={"mean": [49, 51]})
    found = table.build(made, config, rows)
    lines = {line.row.data: line for line in found.lines}
    figure = lines["gra"].figures["mean"]
    assert figure.mean == 61 and figure.high is not None
    assert figure.high - figure.mean == pytest.approx(4.302653 * 1 / 3**0.5, rel=1e-5)
    assert (lines["seed"].figures["mean"].low, lines["seed"].figures["mean"].own) == (49, True)
    said = "\n".join(table.plain(found))
    assert "61.00 [58.52, 63.48]" in said and "60.36" in said and "+0.64" in said
    assert "50.00 [49.00, 51.00] (1 of 3)" in said and "49.32" in said and "arXiv 2504.12322v2" in said
    assert "gsm8k" not in said and "gsm8k" in "\n".join(table.plain(found, every=True))
    assert "alpaca,gra,qwen,mean,61.0," in table.comma_separated(found)
    html = page.page(found)
    assert html.count("<svg") == 2 and 'class="printed"' in html and "<script" not in html
    assert "| alpaca | GRA | Qwen2.5-7B | - | 61.00 [58.52, 63.48] |" in table.markdown(found)


def test_status_of_what_was_not_begun_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(GraError, match="no such experiment was begun"):
        ExperimentDir.existing("paper", tmp_path)


def test_the_miniature_plans_and_holds_out_what_it_does_not_train_on(tmp_path: Path, smollm2: Path) -> None:
    made("minilm", "all-minilm-l6-v2")
    config = compose("mini")
    where = ExperimentDir(tmp_path, "mini")
    chain = Chain(where, config, rows_of(config), lambda _: None)
    assert list(chain.plan()) == ["mini-seed", "mini-gra", "mini-no-review"]
    seeds, held = (
        [json.loads(line)["instruction"] for line in (ROOT / "configs" / "seeds" / f).read_text().splitlines()]
        for f in ("mini.jsonl", "mini-heldout.jsonl")
    )
    demo = [json.loads(x)["instruction"] for x in (ROOT / "configs/seeds/demo.jsonl").read_text().splitlines()]
    assert not set(seeds) & set(held) and sorted([*seeds, *held]) == sorted(demo)
    row = Row("mini", "gra", "smollm2")
    tuned = [directory.finetune_config(where, config, row, s) for s in config.training_seeds]
    assert [(c.seed, c.data.limit, c.data.limit_seed) for c in tuned] == [(s, 28, s) for s in (0, 1, 2)]
    untrained = directory.evaluate_config(where, config, Row("mini", "untrained", "smollm2"), 0)
    assert untrained.model.path == "models/smollm2-135m" and untrained.names == ["heldout", "format", "open"]
    assert len(directory.seeds_of(config, Row("mini", "untrained", "smollm2"))) == 1


def test_the_judge_free_scores() -> None:
    path = ROOT / "configs" / "evaluate" / "tasks" / "judge_free.py"
    spec = importlib.util.spec_from_file_location("judge_free", path)
    assert spec and spec.loader
    scores: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scores)

    def ok(answer: str, **doc: Any) -> bool:
        return bool(scores.followed(doc, [answer])["followed"])

    assert ok("- a\n- b\n- c\n", kind="bullets", n=3) and not ok("1. a\n2. b\n3. c", kind="bullets", n=3)
    assert ok(" Blue. ", kind="words", n=1) and not ok("It is blue.", kind="words", n=1)
    assert ok("Yes.", kind="choice", options=["yes", "no"]) and not ok("Yes, it is.", kind="choice", options=["yes"])
    assert ok('{"a": 1, "b": 2}', kind="json", keys=["b", "a"]) and not ok('```{"a": 1}```', kind="json", keys=["a"])
    assert ok("Rain is wet. It falls.", kind="sentences", n=2) and not ok("One. Two", kind="sentences", n=2)
    assert ok("cats sleep.", kind="lower") and not ok("Cats sleep.", kind="lower") and not ok("", kind="lower")
    assert ok("Tea is hot. DONE", kind="ends", word="DONE") and not ok("DONE", kind="ends", word="DONE")
    assert scores.fluency({}, ["a b c a b c"]) == {"distinct_3": 3 / 4, "words": 6.0}
    assert scores.fluency({}, ["a b"])["distinct_3"] == 0
    docs = [json.loads(x) for x in path.with_name("format.jsonl").read_text().splitlines()]
    assert len(docs) == 21 and {d["kind"] for d in docs} == set(scores.CHECKS)
