"""What a plan says about work and time, and what a calibration changes in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from gra_hpc.config import presets
from gra_hpc.config.settings import ModelConfig, RunConfig
from gra_hpc.errors import ConfigError
from gra_hpc.flows.registry import find
from gra_hpc.models.facts import stated_facts
from gra_hpc.models.thinking import Thinking
from gra_hpc.placement.placement import NodeSpec, constants_of, solve
from gra_hpc.placement.workload import RoleLoad, method_load
from gra_hpc.run import disk_space
from gra_hpc.run.pins import ModelPin
from gra_hpc.run.plan import Plan
from gra_hpc.site.calibrate import _method, plan_small, save, without_context
from gra_hpc.views.estimate import Estimate, cheaper, estimate, lines
from tools.faults.faults import make_run

HOUR = 3600.0


def round_of(**changes: object) -> Estimate:
    """1,000 candidates in 10 shards at 0.1 a second: 1,000 s a shard; 5 workers, each after a start of 100 s."""
    e = Estimate(1000, 10, {"generator": RoleLoad(3000, 6e5, 4.5e5)}, None, 0.1, 100.0, 0.0, 4, workers=5)
    return replace(e, **changes)  # type: ignore[arg-type]


def test_engines_start_once_a_worker_and_not_once_a_shard() -> None:
    e = round_of()
    assert e.shard_s == 1000 and e.jobs(5) == 1
    assert e.paid_s == {"work": 10_000, "starts": 5 * 100, "tails": 0}
    assert [e.wall_s(w) for w in (1, 4, 10)] == [10_100, 3100, 1100]


def test_fewer_workers_are_named_with_what_they_save() -> None:
    """Where much of what is paid is starts; what they take longer is said too."""
    assert cheaper(round_of()) is None and cheaper(round_of(start_s=9000.0, workers=1)) is None
    fewer = cheaper(round_of(start_s=700.0))
    assert fewer is not None and fewer.workers == 2
    config = presets.compose("demo", ["site.executor=slurm"])
    text = "\n".join(lines(round_of(start_s=700.0), config))
    assert "launch.workers=2: 12.7 GPU-hours in place of 15, and 1 h 35 min in place of 45 min" in text
    assert "launch.workers" not in "\n".join(lines(round_of(), config))


def test_rounds_that_the_same_workers_do_share_a_start() -> None:
    e = round_of(rounds=4)
    assert e.paid_s == {"work": 40_000, "starts": 5 * 100, "tails": 0}
    assert e.wall_s(5) == 4 * 2000 + 100


def test_windows_fill_and_empty_once_a_worker_and_round() -> None:
    e = round_of(window=25, rounds=2)
    assert e.tails_s(5) == pytest.approx(2 * 0.9 * 250)
    assert e.paid_s["tails"] == pytest.approx(5 * e.tails_s(5))
    assert e.tails_s(100) == pytest.approx(2 * 0.9 * 100), "a worker has ten candidates"


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_a_narrow_window_takes_longer(kind: str) -> None:
    """The rate of a node is that of the calls which the window keeps in flight."""
    facts = dict.fromkeys("abcde", stated_facts(parameters=8e9, layers=32, heads=32, kv_heads=8, intermediate=14336))
    node = NodeSpec("gpu", 8, 80, device_type="a100") if kind == "gpu" else NodeSpec("cpu", cores=20)
    seconds = []
    for window in (4, 32, 1024):
        config = RunConfig(models={n: ModelConfig(path=n) for n in facts})
        config.launch.window = window
        plan = Plan("", {}, "", 0.0, 1, 1000, 0, 0, {}, None)
        solution = solve(config.models, facts, node, method_load(config), constants=constants_of(config, node))
        seconds.append(estimate(config, plan, 1000, 1, solution).shard_s)
    assert seconds[0] > 1.3 * seconds[1] > 1.3 * seconds[2]


def test_a_time_limit_adds_requeues_and_their_starts() -> None:
    e = round_of(limit_s=500.0)  # 400 s of work a job
    assert e.jobs(5) == 5
    assert e.paid_s["starts"] == 5 * 5 * 100


def test_the_text_names_work_time_limit_and_widths() -> None:
    config = presets.compose("demo", ["site.executor=slurm", "site.time_minutes=15", "site.signal_lead_s=60"])
    text = "\n".join(lines(round_of(limit_s=500.0, why="launch.parallel"), config))
    assert "3.0k calls" in text and "600k prompt" in text and "450k answer" in text
    assert "13.9 GPU-hours; 80% work, 20% starts, 0% tails" in text  # 12,500 s of nodes with four GPUs
    assert "5 workers (launch.parallel), each after a start of" in text
    assert "time limit 15 min: 4 requeues a worker, 20 in all" in text
    assert "with 4 workers" in text and "with 10 workers" in text
    assert "gra calibrate" in text
    config.site.calibration = "here.json"
    assert "calibrated by here.json" in "\n".join(lines(round_of(), config))


def test_thoughts_are_told_beside_answers() -> None:
    config = presets.compose("demo")
    work = RoleLoad(3000, 6e5, 2.5e6, thought_tokens=2.1e6)
    text = "\n".join(lines(round_of(roles={"generator": work}), config))
    assert "600k prompt and   400k answer tokens, 2.1M of thoughts" in text
    assert "thoughts" not in "\n".join(lines(round_of(), config))


def test_models_that_think_take_longer_and_more_room() -> None:
    facts = dict.fromkeys("abc", stated_facts(parameters=8e9, layers=32, heads=32, kv_heads=8, intermediate=14336))
    node = NodeSpec("gpu", 8, 80, device_type="a100")
    config = RunConfig(models={n: ModelConfig(path=n) for n in facts})
    thinks = {n: ModelPin(n, n, "", "", thinking=Thinking(n != "c")) for n in facts}
    seconds, space = [], []
    for pins in ({}, thinks):
        plan = Plan("", {}, "", 0.0, 1, 1000, 0, 0, pins, None)
        load = method_load(config, thinking=plan.thinking_models)
        constants = constants_of(config, node, thinking=plan.thinking_models)
        solution = solve(config.models, facts, node, load, constants=constants)
        made = estimate(config, plan, 1000, 1, solution)
        seconds.append(made.shard_s)
        space.append(disk_space.needed(config, 1000, 1, plan.thinking_models).bytes)
    assert made.roles["generator"].thought_tokens > 1000 * 700
    assert seconds[1] > 2 * seconds[0] and space[1] > 2 * space[0]


@pytest.mark.parametrize(("text", "thoughts", "expected"), [("4" * 25, "2" * 75, 75), ("", "2" * 9, 100), ("4", "", 0)])
def test_a_calibration_tells_thoughts_from_answers(text: str, thoughts: str, expected: float) -> None:
    call = {"key": "s/response/generator/0", "model": "a", "prompt_tokens": 9, "completion_tokens": 100, "seconds": 1.0}
    calls = pa.Table.from_pylist([{**call, "text": text, "thoughts": thoughts}])
    samples = pa.Table.from_pylist([{"status": "accepted", "stage": "", "instruction_reviews": [], "mean": None}])
    found = _method(calls, samples, find("synthesize"), ["a"])["steps"]["response"]
    assert (found["thought_tokens"], found["completion_tokens"]) == (expected, 100 - expected)
    assert "thought_tokens" not in _method(calls, samples, find("synthesize"))["steps"]["response"]


def test_a_calibration_leaves_contexts_to_the_plan() -> None:
    """Sizes are of prompts without them: of another run's seeds they are others."""
    config = presets.compose("demo", ["method.flow=refine"])
    sizes = {"refine": {"prompt_tokens": 900.0}, "summary": {"prompt_tokens": 90.0}, "embed": {"prompt_tokens": 60.0}}
    found = without_context({"steps": sizes}, config, 500.0)["steps"]
    assert [found[step]["prompt_tokens"] for step in sizes] == [400.0, 1.0, 60.0]


def test_turns_before_the_last_exchange_are_in_a_plan(tmp_path: Path, tiny_llama: Path) -> None:
    """Of two seeds one is a conversation: 4,400 bytes before its last words."""
    first, last = {"role": "user", "content": "word " * 880}, {"role": "user", "content": "And what of dunes?"}
    told = [first, {"role": "assistant", "content": "Yes."}, last, {"role": "assistant", "content": "They move."}]
    seeds, plans = [{"instruction": "Explain rivers.", "response": "They flow."}, {"messages": told}], []
    for name, rows in (("mixed", seeds), ("plain", [seeds[0], {"messages": told[2:]}])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        run = make_run(tmp_path / name / "run", 2, ["method.flow=refine", f"seeds.path={tmp_path / name}.jsonl"])
        plans.append(run.plan)
        made = estimate(run.config, run.plan, 1000, 1, None)
        plans.append(made.roles["generator"].prompt_tokens / made.roles["generator"].calls)
    mixed, longer, plain, shorter = plans
    assert plain.context_tokens == 0 and 500 < mixed.context_tokens < 530
    assert longer - shorter == pytest.approx(mixed.context_tokens)


def test_a_calibration_is_kept_per_site_and_model(tmp_path: Path) -> None:
    file = tmp_path / "site.calibration.json"

    def found(model: str, speed: float) -> dict[str, object]:
        return {
            "method": {},
            "performance": {"start_s": 20.0, "speed": {model: speed}},
            "from": {"models": {model: "digest"}},
        }

    save(found("a", 0.5), file)
    save(found("b", 0.7), file)
    save(found("a", 0.6), file)
    assert json.loads(file.read_text())["performance"]["speed"] == {"a": 0.6, "b": 0.7}


def test_a_site_uses_the_calibration_beside_its_file(tmp_path: Path) -> None:
    site = tmp_path / "sites" / "here.yaml"
    site.parent.mkdir()
    site.write_text("site: {name: here}\n")
    assert presets.compose("demo", [], str(site)).site.calibration == ""
    beside = site.with_name("here.calibration.json")
    beside.write_text("{}")
    assert presets.compose("demo", [], str(site)).site.calibration == str(beside)
    assert presets.compose("demo", ["site.calibration=x.json"], str(site)).site.calibration == "x.json"


def test_nothing_is_calibrated_with_made_up_answers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.kind=simulated"):
        plan_small(tmp_path / "run", presets.compose("demo", ["engine.kind=simulated"]))
