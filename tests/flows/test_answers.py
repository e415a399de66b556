"""Answers as dataclasses: what a member is held to, and what of its answer counts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
import pytest

from gra_hpc.config import flow_sections, presets
from gra_hpc.errors import GraError
from gra_hpc.flows.answers import guided
from gra_hpc.flows.expected import GUIDED, Asked
from gra_hpc.flows.keys import Keys
from gra_hpc.flows.parsing import Unparsable
from gra_hpc.flows.payload import Made
from gra_hpc.flows.registry import Flow, find
from gra_hpc.flows.units import Context, Unit
from gra_hpc.placement.workload import MethodRates, calls_per_sample, method_load, sizes
from gra_hpc.records import Record
from gra_hpc.run.window import make_sample
from tests.flows.foreign.brought import brought
from tests.flows.foreign.quiz.flow import FLOW as QUIZ
from tests.flows.foreign.quiz.flow import RATE

NOTHING: Any = None


@dataclass
class Said:
    reason: str
    answer: Literal["yes", "no"]
    sure: bool
    grade: int
    part: float
    member: str = ""


@dataclass
class Listed:
    reasons: list[str]


ASKED = guided("read", "reading", Said, longest=90)
GOOD = '{"reason": "it is", "answer": "yes", "sure": true, "grade": 3.0, "part": 1}'


def test_the_schema_follows_from_the_fields_without_defaults() -> None:
    assert ASKED.schema and ASKED.schema({}) == {
        "type": "object",
        "properties": {
            "reason": {"type": "string", "maxLength": 90},
            "answer": {"type": "string", "enum": ["yes", "no"]},
            "sure": {"type": "boolean"},
            "grade": {"type": "integer"},
            "part": {"type": "number"},
        },
        "required": ["reason", "answer", "sure", "grade", "part"],
        "additionalProperties": False,
    }
    assert ASKED.parse(f"Well: {GOOD}", {}) == Said("it is", "yes", True, 3, 1.0)
    with pytest.raises(TypeError, match=r"Listed.reasons: list\[str\]: expected str, int"):
        guided("x", "y", Listed)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('"answer": "maybe"', "answer is none of yes, no"),
        ('"answer": ["yes"]', "answer is none of yes, no"),
        ('"sure": 1', "sure is no boolean"),
        ('"grade": 2.5', "grade is no integer"),
        ('"grade": true', "grade is no integer"),
        ('"part": "all"', "part is no number"),
        ('"grade": 10000000000000000000000000', "grade is no integer"),
        ('"grade": 9223372036854775808', "grade is no integer"),
        ('"grade": -1e19', "grade is no integer"),
        ('"part": 1e400', "no JSON object"),
        ('"part": true', "part is no number"),
        ('"reason": null', "reason is no string"),
        ('"reason": ["it", "is"]', "reason is no string"),
        ('"reason": "\\ud800"', "no JSON object"),
        ('"reason": "\\u0000"', "NUL character"),
        ('"more": 1', "no answer"),
    ],
)
def test_what_is_no_such_answer_is_asked_again(wrong: str, said: str) -> None:
    key = wrong.partition(":")[0]
    parts = [p for p in GOOD.strip("{}").split(", ") if not p.startswith('"answer"' if "more" in key else key)]
    with pytest.raises(Unparsable, match=said):
        ASKED.parse("{" + ", ".join([*parts, wrong]) + "}", {})


@pytest.mark.parametrize("grade", [-(2**63), 2**63 - 1])
def test_an_integer_that_a_table_can_hold_is_one(grade: int) -> None:
    assert ASKED.parse(GOOD.replace("3.0", str(grade)), {}).grade == grade


@dataclass
class Counted:
    total: int
    parts: tuple[int, ...] = ()
    text: str = ""


FIT = [Counted(2**63 - 1, (1, -(2**63)), "x" * 10_000_000)]
UNFIT = [
    (Counted(2**63), "total"),
    (Counted(1, (1, 2**70)), "parts"),
    (Counted(1, text="\ud800"), "text"),
]


@pytest.mark.parametrize(("result", "field"), [*((r, "") for r in FIT), *UNFIT])
def test_a_result_that_no_table_can_hold_fails_its_candidate(result: Counted, field: str) -> None:
    """At its publication it would end the shard, and every attempt after it."""

    async def run(_: Context, unit: Unit) -> None:
        unit.made.result = result
        unit.made.accept(2**60 + 1)

    made: Made[Any] = Made("c1", 1, "s", 0, flow="count")
    nothing: Any = None
    flow = Flow("count", "", (), (), run, result=Counted)
    asyncio.run(make_sample(flow, nothing, Unit(made, Record("s", "x", "y")), nothing, nothing))
    if field:
        assert (made.status, made.stage, made.reason) == ("failed", "result", f"{field} fits no table")
        assert made.result is made.score is None
    else:
        assert made.status == "accepted" and made.result == result
    row = {name: value for name, value in made.row().items() if name in flow.schema().names}
    assert pa.Table.from_pylist([row], flow.schema()).num_rows == 1


def test_what_a_flow_leaves_out_follows_from_its_roles_and_questions() -> None:
    with brought("quiz"):
        config, flow = presets.compose("demo", ["method.flow=quiz"]), find("quiz")
        assert flow.expect(config, MethodRates()) == [Asked("rate", "rater", 1.0)]
        assert flow.seats(config) == {"rater": dict.fromkeys(config.committee, 0.2)}
        assert flow.sizes == {"rate": GUIDED} and flow.prompts.name == "prompts" and flow.prompts.is_dir()
        assert sizes()["rate"] == GUIDED


def test_a_candidate_that_is_left_without_an_end_is_named() -> None:
    async def run(_: Context, __: Unit) -> None:
        pass

    nothing: Any = None
    unit = Unit(Made("c1", 1, "s", 0, flow="idle"), Record("s", "x", "y"))
    with pytest.raises(GraError, match="flow idle: candidate c1 was left neither accepted, rejected nor failed"):
        asyncio.run(make_sample(Flow("idle", "", (), (), run), nothing, unit, nothing, nothing))


@pytest.mark.parametrize(
    ("role", "seats", "said"),
    [
        ("judge", {"rater": ("a",)}, "is for the role judge, which has no seat; roles that have: rater"),
        ("", {}, "is for its first role, which has no seat; roles that have: none"),
    ],
)
def test_a_role_that_nobody_has_is_named_with_its_flow(role: str, seats: dict[str, tuple[str, ...]], said: str) -> None:
    made: Made[Any] = Made("c1", 1, "s", 0, flow="court", seats=seats)
    question = guided("rule", "ruling", Said, role=role)
    with pytest.raises(GraError, match=f"flow court: question rule {said} -> mend the flow's roles"):
        asyncio.run(Context(NOTHING, NOTHING, NOTHING).ask_all(question, made))


def test_what_is_expected_of_a_role_that_nobody_has_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a run is planned."""
    court = replace(QUIZ, name="court", questions=(replace(RATE, role="judge"),))
    monkeypatch.setitem(flow_sections.ours(), "court", court)
    config = presets.compose("demo", ["method.flow=court"])
    for expected in (method_load, calls_per_sample):
        with pytest.raises(GraError, match=r"flow court: question rate is for the role judge.* have: rater "):
            expected(config)


@dataclass
class Titled:
    title: str


@pytest.mark.parametrize("lacking", [True, False])
def test_what_is_accepted_without_the_text_that_rows_are_compared_by_fails(lacking: bool) -> None:
    """Such rows would be duplicates of one another; empty ones are."""

    async def run(_: Context, unit: Unit) -> None:
        unit.made.result = None if lacking else Titled("")
        unit.made.accept(3.0)

    made: Made[Any] = Made("c1", 1, "s", 0, flow="blank")
    nothing: Any = None
    flow = Flow("blank", "", (), (), run, result=Titled, keys=Keys("title"))
    asyncio.run(make_sample(flow, nothing, Unit(made, Record("s", "x", "y")), nothing, nothing))
    ended = (made.status, made.stage, made.reason, made.score)
    assert ended == (("failed", "result", "no title", None) if lacking else ("accepted", "", "", 3.0))
