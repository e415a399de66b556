"""What flows there are, and that what is asked of one is asked of its description."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from gra_hpc.config import flow_sections
from gra_hpc.config.presets import compose
from gra_hpc.errors import ConfigError
from gra_hpc.flows import payload, registry
from gra_hpc.flows.payload import Made
from gra_hpc.flows.registry import find
from gra_hpc.flows.render import render
from gra_hpc.records import INSTRUCTION_CRITERIA
from gra_hpc.site.calibrate import _method


def test_a_flow_of_another_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"method.flow=sinthesize: no such flow; did you mean synthesize\?"):
        compose("demo", ["method.flow=sinthesize"])


def test_the_paper_makes_new_instructions() -> None:
    assert registry.flow_of(compose("demo")).keys.seeds_rival


@pytest.mark.parametrize("flow", [find(name) for name in flow_sections.ours()], ids=lambda flow: flow.name)
def test_a_description_agrees_with_itself(flow: registry.Flow) -> None:
    """Each question has a template, a size and a stage that the ledger knows; what is expected is asked."""
    steps = {q.step for q in flow.questions}
    own = Path("configs", f"{flow.name}.yaml").is_file()  # a flow that cannot do with defaults has a preset of its name
    words = [f"method.flow={flow.name}", "method.rounds=1", "method.samples_per_seed=1"]
    config = compose(flow.name if own else "demo", words)
    from gra_hpc.placement.workload import MethodRates

    asked = [*flow.expect_prepare, *flow.expect(config, MethodRates())]
    for step in steps:
        assert render(step, flow.trial(step), flow.prompts)[-1]["role"] == "user"
    assert {a.step for a in asked} <= steps <= {*flow.sizes}
    assert {a.role for a in asked} <= {*flow.seats(config)}
    assert flow.asks == bool(asked)
    assert bool(flow.prepare) == bool(flow.expect_prepare)


@dataclass
class Inner:
    name: str
    share: float | None


@dataclass
class Result:
    label: str
    votes: tuple[Inner, ...]
    sure: bool = False
    n: int = 0
    best: Inner | None = None


@dataclass
class Wrong:
    what: dict[str, str]


@dataclass
class Twice:
    status: str


def test_columns_follow_from_a_result() -> None:
    made: Made[Result] = Made(
        "x", 1, "s", 0, "mine", {"judge": ("a", "b")}, Result("yes", (Inner("a", 0.5), Inner("b", None)))
    )
    nothing: Made[Result] = Made("y", 1, "s", 1, "mine", status="failed")
    table = pa.Table.from_pylist([made.row(), nothing.row()], payload.schema(Result))
    first, second = table.to_pylist()
    assert first["votes"] == [{"name": "a", "share": 0.5}, {"name": "b", "share": None}] and first["best"] is None
    assert first["seats"] == [{"role": "judge", "members": ["a", "b"]}] and second["label"] is None
    assert set(payload.schema(None).names) <= set(find("synthesize").schema().names) | {"flow", "seats"}
    for wrong, said in ((Wrong, "Wrong.what"), (Twice, "Twice.status: a common column")):
        with pytest.raises(TypeError, match=said):
            payload.schema(wrong)


def test_nothing_outside_its_folder_names_a_flow() -> None:
    """Neither in code nor in templates, but for the default of `method.flow`; and nothing imports a flow's folder."""
    names = set(flow_sections.ours())
    folders = {p.name for p in flow_sections.FOLDER.iterdir() if (p / "flow.py").is_file()}
    package = flow_sections.FOLDER.parent
    imports, said = set(), []
    for file in (
        f for f in package.rglob("*.py") if f.relative_to(package).parts[:2] not in {("flows", x) for x in folders}
    ):
        tree, where = ast.parse(file.read_text(encoding="utf-8")), str(file.relative_to(package))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gra_hpc.flows."):
                module = str(node.module).split(".")
                if module[2] in folders:
                    imports.add((where, module[2]))
            if isinstance(node, ast.Compare):
                compared = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
                if "flow" in ast.unparse(node) and compared & names:
                    said.append(f"{where}:{node.lineno}")
            elif isinstance(node, ast.Constant) and node.value in names - {"seeds"}:  # a section is called so too
                said.append(f"{where}:{node.lineno}")
    assert {w.partition(":")[0] for w in said} == {"config/settings.py"} and len(said) == 1, said
    assert not imports
    for template in package.rglob("*.j2"):
        if template.relative_to(package).parts[0] != "flows":
            assert not re.search(r"flow *[!=]= *[\"']", template.read_text(encoding="utf-8")), template


def test_rates_are_measured_by_the_flow() -> None:
    ones, zero = dict.fromkeys(INSTRUCTION_CRITERIA, 1), dict.fromkeys(INSTRUCTION_CRITERIA, 0)

    def row(reviews: list[dict[str, int]], mean: float | None, verdict: object = None) -> dict[str, object]:
        return {"status": "accepted", "stage": "", "instruction_reviews": reviews, "mean": mean, "verdict": verdict}

    rows = [row([ones, ones], 8.0), row([ones, zero], None), row([ones], 7.0, {}), row([ones], 9.0)]
    assert find("synthesize").measured(rows) == {"instruction_pass": 0.75, "adjudicated": 1 / 3}
    calls = pa.Table.from_pylist(
        [{"key": f"s/read/reader-{n}/0", "model": "m", "prompt_tokens": 10, "completion_tokens": 4} for n in (1, 2)]
    )
    samples = pa.Table.from_pylist([{"status": "accepted", "stage": ""}, {"status": "failed", "stage": "reading"}])
    assert _method(calls, samples, find("seeds"))["acceptance"] == 0.5
