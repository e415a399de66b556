"""Planning: frozen, repeatable, refused when anything that matters changes; slices that lose nothing."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gra_hpc.config import presets
from gra_hpc.errors import ConfigError, FingerprintError, GraError, SeedError
from gra_hpc.launch.submit import submit
from gra_hpc.run import plan, planning
from gra_hpc.run.merged import pool_of
from gra_hpc.run.plan import Plan, RoundPlan, size_round
from gra_hpc.run.run import Run
from gra_hpc.run.slices import read_pool, slice_of
from gra_hpc.storage import read_json
from gra_hpc.views.plan import engines_of, preview

DOMAINS = ["math", "coding", "qa"]


def seeds_file(path: Path, n: int = 12, described: bool = True, broken: int = 0) -> Path:
    rows = [
        {"instruction": f"Do task {i}.", "response": f"Done {i}."}
        | (
            {"domain": DOMAINS[i % 3], "keywords": [f"a{i}", f"b{i}", f"c{i}"], "summary": f"Task {i}."}
            if described
            else {}
        )
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + "no record\n" * broken)
    return path


def make(
    tmp_path: Path, *overrides: str, name: str = "run", seeds: int = 12, described: bool = True, broken: int = 0
) -> Run:
    file = seeds_file(tmp_path / "seeds.jsonl", seeds, described, broken)
    config = presets.compose(
        "demo", [f"seeds.path={file}", "engine.kind=simulated", "merge.semantic=false", *overrides]
    )
    return planning.make(tmp_path / name, config)


def test_planning_twice_is_the_same_plan(tmp_path: Path) -> None:
    run = make(tmp_path)
    before = run.plan_file.read_bytes()
    again = make(tmp_path, "site.partition=gpu", "launch.window=7")
    assert again.plan_file.read_bytes() == before
    assert presets.load(run.config_file).site.partition == "gpu"  # placement may change


def test_the_plan_of_a_run_that_is_done_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path)
    submit(run, resume=False)
    assert "round 1: merging, and the release is made\n" in capsys.readouterr().out
    said = "\n".join(preview(make(tmp_path), None))
    assert "pending 0" in said and "accepted 0" not in said


def test_a_plan_that_fits_nowhere_leaves_no_run(tmp_path: Path, tiny_llama: Path) -> None:
    words = ("engine.kind=vllm", "site.gpus_per_node=2", f"models.smollm2.path={tiny_llama}",
             "models.smollm2.load_format=dummy")  # fmt: skip
    config = presets.compose("demo", [f"seeds.path={seeds_file(tmp_path / 'seeds.jsonl')}", *words])
    with pytest.raises(ConfigError, match="gpu_memory_gb=0"):
        planning.make(tmp_path / "run", config, engines_of)
    assert not (tmp_path / "run").exists()


def test_plans_without_models_sizes_are_still_read_others_are_not(tmp_path: Path) -> None:
    run = make(tmp_path)
    plan = read_json(run.plan_file)
    assert all(pin["parameters"] for pin in plan["models"].values())
    for pin in plan["models"].values():
        del pin["parameters"]
    run.plan_file.write_text(json.dumps(plan | {"format": 2}))
    assert [pin.parameters for pin in Plan.load(run).models.values()] == [None] * len(plan["models"])
    run.plan_file.write_text(json.dumps(plan | {"format": 1}))
    with pytest.raises(GraError, match="plan format 1, this version reads 2 to 4 -> gra plan"):
        Plan.load(run)


def test_special_tokens_are_the_pools_own_and_pinned(tmp_path: Path) -> None:
    """What one model's tokenizer knows ends a prompt of its own; what none knows is HTML, or an operator."""
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text("{}")
    (tmp_path / "llama" / "tokenizer_config.json").write_text('{"eos_token": "</s>", "bos_token": "<s>"}')
    texts = ["<s>10</s> 5 euros", "f <|g|> h in F#", "[INST] is a tag", "x <|im_end|>", "y <|endoftext|>"]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps({"instruction": t}) + "\n" for t in texts))
    words = [f"seeds.path={tmp_path / 'seeds.jsonl'}", "engine.kind=simulated", "merge.semantic=false"]

    def kept(name: str, *more: str) -> list[int]:
        run = planning.make(tmp_path / name, presets.compose("demo", [*words, *more]))
        refused = [json.loads(line) for line in run.seed_rejects.read_text().splitlines()]
        assert {r["reason"] for r in refused} == {"control_token"}
        return [i for i, _ in enumerate(texts, 1) if i not in {r["line"] for r in refused}]

    assert kept("smollm2") == [1, 2, 3]
    assert kept("both", f"models.llama.path={tmp_path / 'llama'}", "committee.llama.model=llama") == [2, 3]
    pins = Plan.load(Run.to_look_at(tmp_path / "both")).models
    assert pins["llama"].special_tokens == ("</s>", "<s>")
    assert "<|im_end|>" in (pins["smollm2"].special_tokens or ())


def test_another_method_is_refused_with_the_keys(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(FingerprintError, match=r"method.accept_mean: planned 8.2, now 7.5"):
        make(tmp_path, "method.accept_mean=7.5")


def test_a_model_more_is_refused_by_its_name(tmp_path: Path) -> None:
    path = make(tmp_path).config.models["smollm2"].path
    with pytest.raises(FingerprintError, match=r"planned with other settings: .*models\.other"):
        make(tmp_path, f"models.other.path={path}", "committee.ada.model=other")


def test_engine_arguments_are_frozen_but_for_where_and_how(tmp_path: Path) -> None:
    """A named list may change; whatever else vLLM takes may decide what is answered."""
    free = "models.smollm2.engine_args={block-size: 16, --no-enable-prefix-caching: true, compilation-config.level: 0}"
    none = make(tmp_path).plan
    assert make(tmp_path, free).plan == none
    frozen = "models.smollm2.engine_args.default_chat_template_kwargs={a: 1}"
    with pytest.raises(FingerprintError, match=r"engine_args\.default-chat-template-kwargs\.a: planned None, now 1"):
        make(tmp_path, frozen)
    made = make(tmp_path, frozen, "models.smollm2.engine_args.block_size=16", name="other")
    assert made.plan.fingerprint != none.fingerprint
    again = make(tmp_path, "models.smollm2.engine_args={--default-chat-template-kwargs: {a: 1}}", name="other")
    assert again.plan == made.plan
    for key in ("override_generation_config={temperature: 2}", "tokenizer=/x", "plug-in=1", "reasoning-parser=qwen3"):
        room = ["method.sampling.thinking_tokens=512"] if "reasoning" in key else []  # for an answer
        name = make(tmp_path, *room, name=f"run-{len(room)}").name
        with pytest.raises(
            FingerprintError, match=rf"planned with other settings: models\.smollm2\.engine_args\.{key[:4]}"
        ):
            make(tmp_path, *room, f"models.smollm2.engine_args.{key}", name=name)


def test_where_the_semantic_step_becomes_approximate_is_frozen(tmp_path: Path) -> None:
    """It decides which rows stay."""
    make(tmp_path)
    with pytest.raises(FingerprintError, match=r"merge.exact_search_rows: planned 200000, now 10"):
        make(tmp_path, "merge.exact_search_rows=10")


def test_other_seeds_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(FingerprintError, match="seeds"):
        make(tmp_path, seeds=11)


def test_no_usable_seed_and_foreign_directory(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"instruction": ""}\n')
    with pytest.raises(SeedError):
        planning.make(tmp_path / "r", presets.compose("demo", [f"seeds.path={empty}"]))
    assert not (tmp_path / "r").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(GraError, match="is not a run"):
        make(tmp_path, name="full")


def test_what_is_left_of_a_run_that_was_removed_may_be_planned_into(tmp_path: Path) -> None:
    """Whoever ran it makes directories anew before it notices, and then says that all is gone."""
    run = make(tmp_path, "method.rounds=2")
    shutil.rmtree(run.path)
    run.round(0).shard(0).attempts.mkdir(parents=True)
    for look in (
        lambda: RoundPlan.load(run.round(1)),
        lambda: RoundPlan.load(run.round(2)),
        lambda: pool_of(run, run.plan, 2),
    ):
        with pytest.raises(GraError, match="the run's directory was removed, or moved") as e:
            look()
        assert "gra plan" in e.value.then
    again = make(tmp_path)

    @contextmanager
    def removing(run: Run) -> Iterator[Callable[[], None]]:
        shutil.rmtree(run.path)
        yield lambda: None

    with pytest.raises(GraError, match="the run's directory was removed, or moved"):
        submit(again, resume=False, progress=removing)
    again = make(tmp_path)
    assert again.plan_file.is_file() and not run.round(0).shard(0).path.exists()
    shutil.rmtree(run.path)
    (run.path / "empty").mkdir(parents=True)
    (run.path / "empty" / "notes").touch()
    with pytest.raises(GraError, match="is not a run"):
        make(tmp_path)
    assert (run.path / "empty" / "notes").is_file()


def test_candidates_of_a_shard_are_those_of_its_seeds() -> None:
    for number, candidates, shards, seeds in itertools.product((1, 2, 5), (0, 3, 7, 40), (1, 3, 7), (7, 10, 13)):
        plan = RoundPlan(number, candidates, shards)
        counted = [sum(plan.of_seed(i, seeds) for i in range(s, seeds, shards)) for s in range(shards)]
        assert [plan.of_shard(s, seeds) for s in range(shards)] == counted and sum(counted) == candidates


@pytest.mark.parametrize(("shards", "per_seed"), [(1, 1), (5, 2), (12, 3)])
def test_slices_cover_every_candidate_once_whatever_the_sharding(tmp_path: Path, shards: int, per_seed: int) -> None:
    run = make(tmp_path, f"launch.shards={shards}", f"method.samples_per_seed={per_seed}")
    config, plan, round_plan = presets.load(run.config_file), Plan.load(run), RoundPlan.load(run.round(1))
    pool = read_pool(pool_of(run, plan, 1))
    units = [list(slice_of(config, round_plan, pool, s)) for s in range(shards)]
    assert [len(u) for u in units] == [round_plan.of_shard(s, plan.seeds) for s in range(shards)]
    ids = [u.sample.id for shard in units for u in shard]
    assert len(ids) == len(set(ids)) == 12 * per_seed
    one = make(tmp_path, "launch.shards=1", f"method.samples_per_seed={per_seed}", name="one")
    whole = {u.sample.id: u for u in slice_of(config, RoundPlan.load(one.round(1)), pool, 0)}
    for shard in units:
        for u in shard:  # resharding changes neither ids nor roles nor examples
            assert whole[u.sample.id].sample.roles == u.sample.roles
            assert whole[u.sample.id].examples == u.examples


def test_examples_are_of_the_seeds_domain_and_the_anchor_comes_first(tmp_path: Path) -> None:
    run = make(tmp_path)
    config, plan = presets.load(run.config_file), Plan.load(run)
    pool = read_pool(pool_of(run, plan, 1))
    for unit in slice_of(config, RoundPlan.load(run.round(1)), pool, 0):
        assert unit.examples[0] == unit.anchor
        assert 2 <= len(unit.examples) <= 4
        assert len({e.id for e in unit.examples}) == len(unit.examples)
        assert {e.domain for e in unit.examples} == {unit.anchor.domain}


def test_rounds_are_sized_by_the_acceptance(tmp_path: Path) -> None:
    config = presets.compose("demo", ["method.target_accepted=100"])
    round_plan = size_round(2, config, seeds=42, shards=2, acceptance=0.25)
    assert round_plan.target == 100 and round_plan.candidates == 470  # two standard deviations more than 400
    assert sum(round_plan.of_seed(i, 42) for i in range(42)) == round_plan.candidates
    counts = {round_plan.of_seed(i, 42) for i in range(42)}
    assert max(counts) - min(counts) <= 1


def test_rounds_of_a_small_target_rest_on_different_seeds() -> None:
    config = presets.compose("demo", ["method.target_accepted=8"])
    anchors = []
    for number in (1, 2, 3):
        round_plan = size_round(number, config, seeds=42, shards=2, acceptance=0.6)
        assert round_plan.candidates == 20
        anchors.append({i for i in range(42) if round_plan.of_seed(i, 42)})
    assert [len(a) for a in anchors] == [20] * 3
    assert set.union(*anchors) == set(range(42))


def test_a_plan_is_of_the_code_that_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path)
    monkeypatch.setattr(plan, "code_digest", lambda flow: "another")
    with pytest.raises(FingerprintError, match=r"code: planned .* now 'another'"):
        Plan.load(run).verify(presets.load(run.config_file), run)


def test_stage_0_is_planned_only_for_seeds_that_need_it(tmp_path: Path) -> None:
    assert Plan.load(make(tmp_path)).undescribed == 0
    run = make(tmp_path, name="bare", described=False)
    assert RoundPlan.load(run.round(0)).candidates == 12
    assert not make(tmp_path, name="third").round(0).path.exists()
