"""What `gra plan` prints of a placement."""

from __future__ import annotations

import re
from typing import Any

import pytest
from placement_models import FIVE, LLAMA_8B, MINILM, PAPER, QWEN_72B, SMOLLM2

from gra_hpc.config.settings import ModelConfig, Residency
from gra_hpc.models.facts import ModelFacts
from gra_hpc.placement.placement import NodeSpec, solve
from gra_hpc.placement.report import PlacementReport, report


def reported(
    facts: dict[str, ModelFacts],
    node: NodeSpec,
    residency: Residency = Residency.auto,
    pins: dict[str, dict[str, Any]] | None = None,
) -> PlacementReport:
    models = {n: ModelConfig(path=n, **(pins or {}).get(n, {})) for n in facts}
    return report(solve(models, facts, node, {}, residency))


@pytest.fixture(scope="module")
def eight() -> PlacementReport:
    return reported({**PAPER, "minilm": MINILM}, NodeSpec("gpu", 8, 80, device_type="h100"))


def test_the_headline_says_how_good_it_is_and_that_it_is_modelled(eight: PlacementReport) -> None:
    first, second = eight.headline().splitlines()
    assert re.fullmatch(r"8 x 80 GB h100: [\d.]+ samples/s \(modelled\), [89]\d% of a node without any loss", first)
    calls = eight.solution.model.constants.calls_in_flight
    assert second == (f"launch.window=256 keeps {calls:.0f} calls in flight; {eight.window} keeps these batches full")


def test_the_table_has_a_row_for_every_engine(eight: PlacementReport) -> None:
    header, *rows, note = eight.table().splitlines()
    assert header.split() == ["engine", "TP", "GPUs", "weights", "KV", "calls", "tokens/s", "time", "limit"]
    assert [r.split()[0] for r in rows] == [e.name for e in eight.solution.placement.engines]
    assert "per device" in note
    assert len({len(r.rstrip()) for r in rows}) <= 3  # columns line up


def test_the_picture_has_a_line_for_every_gpu_and_fits_its_memory(eight: PlacementReport) -> None:
    *rows, legend = eight.picture().splitlines()
    assert [r.split()[1] for r in rows] == [str(d) for d in range(8)]
    for row in rows:
        bar = re.search(r"\|(.*)\|", row)
        assert bar and len(bar.group(1)) == 40
        assert bar.group(1).count(".") >= 2  # what engines do not take is seen
    assert all(name in legend for name in PAPER)


def test_no_alternative_is_better_and_all_say_why(eight: PlacementReport) -> None:
    names = [a.name for a in eight.alternatives]
    assert {"one model per GPU", "one model per GPU, replicas on the others", "one awake at a time"} <= set(names)
    assert "every model on every GPU, TP=8" in names
    assert all(0 <= a.samples_per_s <= eight.samples_per_s * 1.001 for a in eight.alternatives)
    assert all(a.why for a in eight.alternatives)
    why = {a.name: a.why for a in eight.alternatives}
    assert "2 of 8 GPUs idle" in why["one model per GPU"]  # the embedder has the last
    assert "all-reduces" in why["every model on every GPU, TP=8"]
    assert any("sharing GPUs" in text for text in why.values())
    assert any("calls in flight per engine" in text for text in why.values())
    assert "GB missing per GPU" in why["every model on every GPU"]
    assert [a.samples_per_s for a in eight.alternatives] == sorted(
        (a.samples_per_s for a in eight.alternatives), reverse=True
    )


def test_render_is_all_of_it_in_plain_text(eight: PlacementReport) -> None:
    text = eight.render()
    assert text.isascii()
    assert "\x1b" not in text
    for part in (eight.headline(), eight.table(), eight.picture(), eight.explain()):
        assert part in text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_turns_are_shown_one_by_one() -> None:
    shown = reported(FIVE, NodeSpec("gpu", 1, 80))
    assert re.search(
        r"2 turns; \d\d% of the time goes on swapping; launch\.window=\d+ would make it 10%", shown.headline()
    )
    assert len(re.findall(r"^turn [01]: .* while awake, \d+ s to swap$", shown.picture(), re.M)) == 2
    assert "turn" in shown.table().splitlines()[0]
    (awake,) = (a for a in shown.alternatives if a.name == "all awake")
    assert re.match(r"no room for \w+: 22\.1 GB missing", awake.why)


def test_one_large_model_is_compared_with_other_splits() -> None:
    shown = reported({"qwen72": QWEN_72B}, NodeSpec("gpu", 8, 80))
    why = {a.name: a.why for a in shown.alternatives}
    assert set(why) == {"TP=1, 8 replicas", "TP=2, 4 replicas", "TP=8, 1 replica"}
    assert "all-reduces" in why["TP=8, 1 replica"]
    assert "missing" in why["TP=2, 4 replicas"]


def test_pins_are_compared_with_what_placement_would_choose() -> None:
    pins = {n: {"tensor_parallel": 1, "replicas": 1} for n in FIVE}
    shown = reported(FIVE, NodeSpec("gpu", 8, 80), pins=pins)
    (free,) = (a for a in shown.alternatives if a.name == "without your pins")
    assert free.samples_per_s > 1.25 * shown.samples_per_s


def test_cores_are_shown_with_their_engines() -> None:
    shown = reported({"a": SMOLLM2, "b": SMOLLM2, "c": SMOLLM2}, NodeSpec("cpu", cores=2))
    assert shown.headline().startswith("2 cores: ")
    *rows, _ = shown.picture().splitlines()
    assert [r.split()[:2] for r in rows] == [["core", "0"], ["core", "1"]]
    assert {a.name for a in shown.alternatives} == {"one awake at a time"}


def test_cores_with_too_little_memory_say_so() -> None:
    shown = reported({"a": SMOLLM2, "b": SMOLLM2}, NodeSpec("cpu", cores=2, host_memory_gb=4))
    (awake,) = shown.alternatives
    assert awake.samples_per_s == 0
    assert awake.why.startswith("host memory")


def test_a_single_model_on_a_single_gpu_has_nothing_to_explain() -> None:
    shown = reported({"a": LLAMA_8B}, NodeSpec("gpu", 1, 80))
    assert shown.explain() == ""
    assert shown.render().endswith(")\n")
