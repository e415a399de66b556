"""Made-up answers: the same for the same request, valid for every step of the method, varied enough to decide on."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
from dataclasses import replace

import orjson
import pytest

from gra_hpc.engines.simulated import SimulatedEngine, simulate
from gra_hpc.flows import parsing
from gra_hpc.flows.ask import Question
from gra_hpc.flows.calls import Request, Sampling
from gra_hpc.flows.gra import questions
from tools.simulated.clock import SimulatedTimeLoop


def request(text: str, seed: int = 0, schema: dict[str, object] | None = None, model: str = "m") -> Request:
    return Request(model, "id", ({"role": "user", "content": text},), Sampling(0.2, 0.9, 64, seed), schema)


def test_an_answer_depends_on_the_request_alone() -> None:
    one = request("hello")
    assert simulate(one) == simulate(request("hello"))
    others = [
        request("hello", 1),
        request("hullo"),
        request("hello", model="n"),
        request("hello", schema={"type": "string"}),
    ]
    assert len({simulate(r).text for r in [one, *others]}) == 5
    code = (
        "from gra_hpc.engines.simulated import simulate; from gra_hpc.flows.calls import Request, Sampling;"
        "print(simulate(Request('m', '', ({'role': 'user', 'content': 'hello'},), Sampling(0.2, 0.9, 64, 0))).text)"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == simulate(one).text


def test_keywords_and_texts_can_be_parsed() -> None:
    ask = "Answer with exactly 3 short keywords on one line, separated by commas, and nothing else."
    found = {parsing.keywords(simulate(request(ask, seed)).text, 3) for seed in range(200)}
    assert len(found) > 190
    texts = [parsing.text(simulate(request("Write one new task.", seed)).text) for seed in range(500)]
    assert len(set(texts)) > 490
    summaries = [simulate(request("Say in one sentence of at most 30 words.", s)).text for s in range(100)]
    assert all(len(s.split()) <= 30 for s in summaries)


@pytest.mark.parametrize("question", [q for q in vars(questions).values() if isinstance(q, Question)])
def test_every_question_of_the_method_is_answered(question: Question[object]) -> None:
    class Example:
        keywords = ("taken",)

    variables = {"keywords": 3, "summary_words": 30, "examples": [Example]}
    prompt = "short keywords on one line" if question.step == "keywords" else "Say in one sentence"
    schema = question.schema(variables) if question.schema else None
    for seed in range(50):
        question.parse(simulate(request(prompt, seed, schema)).text, variables)


def test_decisions_of_all_kinds_come_about() -> None:
    scores, zeros_and_ones = questions.REVIEW_RESPONSE.schema, questions.REVIEW_INSTRUCTION.schema
    assert scores and zeros_and_ones
    counts = {"accepted": 0, "rejected": 0, "adjudicated": 0, "instruction": 0}
    for sample in range(2000):
        means, zero = [], False
        for reviewer in range(3):
            seed = 10 * sample + reviewer
            answer = simulate(request("s", seed, scores({})))
            means.append(statistics.mean(parsing.response_scores(answer.text)[0].values()))
            answer = simulate(request("s", seed, zeros_and_ones({})))
            zero = zero or 0 in parsing.instruction_scores(answer.text)[0].values()
        high = statistics.mean(means) >= 8
        kind = "rejected" if not high else "accepted" if statistics.pstdev(means) <= 1.5 else "adjudicated"
        counts[kind] += 1
        counts["instruction"] += zero
    assert 0.35 < counts["accepted"] / 2000 < 0.5
    assert 0.25 < counts["rejected"] / 2000 < 0.45
    assert 0.1 < counts["adjudicated"] / 2000 < 0.3
    assert 0.05 < counts["instruction"] / 2000 < 0.25


def test_json_follows_the_schema() -> None:
    schema = {
        "type": "object",
        "$defs": {"word": {"type": "string", "maxLength": 12, "minLength": 3}},
        "properties": {
            "grade": {"enum": ["a", "b"]},
            "level": {"type": "integer", "minimum": 2, "maximum": 4},
            "odd": {"enum": [1, 3, 9]},
            "ratio": {"type": "number", "minimum": 0, "maximum": 1},
            "words": {"type": "array", "items": {"$ref": "#/$defs/word"}, "minItems": 2, "maxItems": 2},
            "either": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
            "fixed": {"const": 7},
            "long": {"type": "string", "minLength": 150, "maxLength": 160},
            "merged": {"allOf": [{"type": "integer"}, {"minimum": 5, "maximum": 5}]},
        },
    }
    for seed in range(100):
        value = orjson.loads(simulate(request("x", seed, schema)).text)
        assert list(value) == list(schema["properties"])  # type: ignore[call-overload]
        assert value["grade"] in ("a", "b")
        assert value["level"] in (2, 3, 4)
        assert value["odd"] in (1, 3, 9)
        assert 0 <= value["ratio"] <= 1
        assert len(value["words"]) == 2
        assert all(3 <= len(w) <= 12 for w in value["words"])
        assert value["either"] in (None, True, False)
        assert (value["fixed"], value["merged"]) == (7, 5)
        assert 150 <= len(value["long"]) <= 160


def test_share_of_cut_off_answers() -> None:
    cut = [simulate(request("x", seed), failures=0.1).finish == "length" for seed in range(4000)]
    assert 0.07 < sum(cut) / len(cut) < 0.13
    assert {simulate(request("x", seed)).finish for seed in range(500)} == {"stop"}


def test_engine_takes_its_time_and_counts() -> None:
    async def work() -> None:
        engine = SimulatedEngine(latency_s=0.05)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await asyncio.gather(*(engine.ask(request(f"q{i}", model="a" if i % 2 else "b")) for i in range(100)))
        assert loop.time() - begin == pytest.approx(0.05)  # all at once
        assert {n: s["calls"] for n, s in engine.stats()["engines"].items()} == {"a-simulated": 50, "b-simulated": 50}

    with asyncio.Runner(loop_factory=SimulatedTimeLoop) as runner:
        runner.run(work())


def test_an_answer_ends_before_what_stops_it() -> None:
    asked = Request("m", "", ({"role": "user", "content": "hello"},), Sampling(0.2, 0.9, 64, 7))
    whole = simulate(asked).text
    stopped = simulate(replace(asked, sampling=replace(asked.sampling, stop=("e",)))).text
    assert "e" in whole and "e" not in stopped
