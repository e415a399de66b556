"""Layouts that are recognised, and the rules by which a record is accepted or rejected."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.config.settings import SeedsConfig
from gra_hpc.errors import SeedError
from gra_hpc.records import DOMAINS
from gra_hpc.sources import seeds
from gra_hpc.sources.seeds import load
from gra_hpc.sources.texts import Refused
from tests.sources.loading import ALPACA, Write, reasons

ROOT = Path(__file__).parents[2]


# Layouts


@pytest.mark.parametrize(
    ("record", "instruction", "response"),
    [
        (ALPACA, "Add the numbers.\n\n2 and 3", "5"),
        ({"instruction": "Say hi.", "input": "", "output": "Hi", "text": "..."}, "Say hi.", "Hi"),
        ({"instruction": "Say hi.", "input": "<noinput>", "output": "Hi"}, "Say hi.", "Hi"),
        ({"Instruction": "Say hi.", "Response": "Hi"}, "Say hi.", "Hi"),
        ({"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada"}, "Who?\n\nAda wrote it.", "Ada"),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, "Q", "A"),
        (
            {"prompt": "x", "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
            "Q",
            "A",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}]}, "Q", ""),
        ({"instruction": "Do.", "instances": [{"input": "x", "output": "y"}]}, "Do.\n\nx", "y"),
        ({"instruction": "Do.", "instances": []}, "Do.", ""),
        ({"prompt": "P", "completion": "C"}, "P", "C"),
        ({"question": "2+2?", "answer": 4}, "2+2?", "4"),
        ({"problem": "P", "solution": "S"}, "P", "S"),
        ({"input": "P", "output": "S"}, "P", "S"),
        ({"instruction": " only \r\n"}, "only", ""),
        ({"instruction": "Q", "response": None}, "Q", ""),
    ],
)
def test_layouts(jsonl: Write, record: dict[str, Any], instruction: str, response: str) -> None:
    (seed,) = jsonl(record).seeds
    assert (seed.instruction, seed.response) == (instruction, response)
    assert seed.seed_id == seed.id and seed.source == "s.jsonl:1" and seed.round == 0 and seed.score is None


def test_described_records_keep_what_they_say(jsonl: Write) -> None:
    described = {**ALPACA, "domain": "Role Play", "keywords": ["a", "b", "A ", ""], "summary": " Short. "}
    worded = {**ALPACA, "input": "4 and 5", "domain": "cooking", "keywords": "x, y;z", "summary": 3}
    first, second = jsonl(described, worded).seeds
    assert (first.domain, first.keywords, first.summary) == ("role_play", ("a", "b"), "Short.")
    assert first.described
    assert (second.domain, second.keywords, second.summary) == ("", ("x", "y", "z"), "")
    assert not second.described


@pytest.mark.parametrize(
    ("word", "domain"),
    [
        *((d, d) for d in DOMAINS),
        ("Role Play", "role_play"),
        ("role-playing", "role_play"),
        (" MATHS ", "math"),
        ("code", "coding"),
        ("Q&A", "qa"),
        ("Creative Writing", "creation"),
        ("Translation", "language"),
        ("cooking", ""),
        ("", ""),
        (None, ""),
        (["math"], ""),
    ],
)
def test_domain_names(word: object, domain: str) -> None:
    assert seeds.domain_name(word) == domain


def test_domains_of_another_set(jsonl: Write, tmp_path: Path) -> None:
    jsonl({**ALPACA, "domain": "maths"})
    assert load(SeedsConfig(path=str(tmp_path / "s.jsonl")), ("coding",)).seeds[0].domain == ""


def test_field_map(jsonl: Write) -> None:
    record = {"id": 1, "task": {"text": "Q"}, "gold": "A", "input": "I", "tag": "maths"}
    fields = {"instruction": "task.text", "response": "gold", "domain": "tag"}
    (seed,) = jsonl(record, fields=fields).seeds
    assert (seed.instruction, seed.response, seed.domain) == ("Q\n\nI", "A", "math")
    (seed,) = jsonl(record, fields={**fields, "input": ""}).seeds
    assert seed.instruction == "Q"
    (seed,) = jsonl({**ALPACA, "category": "code"}, fields={"domain": "category"}).seeds
    assert (seed.instruction, seed.domain) == ("Add the numbers.\n\n2 and 3", "coding")
    (seed,) = jsonl(
        {"chat": [{"role": "user", "content": "Q"}], "instruction": "no"}, fields={"messages": "chat"}
    ).seeds
    assert seed.instruction == "Q"
    result = jsonl({"q": "Q"}, {"r": "Q"}, fields={"instruction": "q"})
    assert reasons(result) == [(2, "empty_instruction")]


@pytest.mark.parametrize(
    ("record", "guess"),
    [
        ({"id": "1", "text": "T", "label": "x"}, "seeds.fields.instruction=text"),
        ({"row_id": "1", "parentId": 2, "uuid": "u", "ask": "T", "say": "S"},
         "seeds.fields.instruction=ask seeds.fields.response=say"),
        ({"idx": 1, "grid": "T", "answer": "A"}, "seeds.fields.instruction=grid"),
        ({"id": 1, "label": "x"}, "seeds.fields.instruction=FIELD"),
    ],
)  # fmt: skip
def test_no_identifier_is_guessed_to_be_an_instruction(jsonl: Write, record: dict[str, Any], guess: str) -> None:
    with pytest.raises(SeedError) as e:
        jsonl(record)
    assert e.value.then == f"say which field holds what, for example: {guess}"


def test_unknown_layout_names_the_columns_and_what_to_type(jsonl: Write) -> None:
    with pytest.raises(SeedError) as e:
        jsonl({"title": "T", "body": "B"}, {"title": "T2", "extra": 1})
    assert "found: title, body, extra" in e.value.what
    assert e.value.then.endswith("seeds.fields.instruction=title seeds.fields.response=body")
    assert "\n" not in str(e.value)
    assert reasons(jsonl(ALPACA, {"title": "T"})) == [(2, "unknown_layout")]  # one record of another kind: a reject


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"instructions": "q"}, "did you mean instruction"),
        (
            {"instruction": "quest"},
            "no record has the field quest of seeds.fields.instruction; found: question, answer",
        ),
        ({"response": "answr"}, "seeds.fields.response=answer"),
        ({"instruction": "task"}, "seeds.fields.instruction=question"),
        ({"instruction": "answr", "response": "answer"}, "seeds.fields.instruction=question"),
        ({"instruction": "question", "messages": "question"}, "both given"),
    ],
)
def test_wrong_field_map_is_one_line(jsonl: Write, fields: dict[str, str], words: str) -> None:
    with pytest.raises(SeedError) as e:
        jsonl({"question": "Q", "answer": "A"}, fields=fields)
    assert words in str(e.value)


# Rules


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"{not json", "malformed", "not JSON"),
        (b'{"instruction": "cut of', "malformed", "not JSON"),
        (b'{"instruction": "x"} trailing', "malformed", "not JSON"),
        (b'{"instruction": "\xe9t\xe9"}', "encoding", "byte 0xe9 at 18"),
        (b'{"instruction": "\\ud800"}', "malformed", "not JSON"),
        (b'{"instruction": "a\\u0000b"}', "encoding", "NUL"),
        (b'{"instruction": "a\0b"}', "malformed", "not JSON"),
        (b"[" * 3000, "malformed", "not JSON"),
        (["instruction"], "not_an_object", "list"),
        (b"null", "not_an_object", "NoneType"),
        (b"17", "not_an_object", "int"),
        ({"instruction": "", "input": "x"}, "empty_instruction", "nothing printable"),
        ({"instruction": " \n\u200b\u00a0"}, "empty_instruction", "nothing printable"),
        ({"instruction": None}, "empty_instruction", "nothing printable"),
        ({"conversations": []}, "empty_instruction", "no user message"),
        ({"conversations": [{"from": "gpt", "value": "Hi"}]}, "empty_instruction", "no user message"),
        ({"conversations": None}, "empty_instruction", "no user message"),
        ({"instruction": 7}, "wrong_type", "instruction is a int"),
        ({"instruction": True}, "wrong_type", "instruction is a bool"),
        ({"instruction": ["x"]}, "wrong_type", "instruction is a list"),
        ({"instruction": "x", "output": {"a": 1}}, "wrong_type", "response is a dict"),
        ({"instruction": "x", "output": False}, "wrong_type", "response is a bool"),
        ({"instruction": "x", "instances": "y"}, "wrong_type", "instances"),
        ({"messages": "hello"}, "wrong_type", "messages is a str"),
        ({"messages": ["hello"]}, "wrong_type", "a message is a str"),
        ({"messages": [{"role": "user", "content": 5}]}, "wrong_type", "message is a int"),
        ({"instruction": "x" * 101}, "oversized", "instruction has 101 characters, at most 100"),
        ({"instruction": "x", "output": "y" * 101}, "oversized", "response has 101"),
        ({"instruction": "x" * 60, "input": "y" * 60}, "oversized", "instruction has 122"),
        ({"instruction": "x", "keywords": ["<|im_end|>"]}, "control_token", "in the keywords"),
        ({"instruction": "x", "summary": "</s>"}, "control_token", "in the summary"),
    ],
)
def test_rejects(jsonl: Write, line: object, reason: str, detail: str) -> None:
    result = jsonl({"instruction": "good"}, line, {"instruction": "also good"}, max_chars=100)
    assert [s.source for s in result.seeds] == ["s.jsonl:1", "s.jsonl:3"]
    (reject,) = result.rejects
    assert (reject.file, reject.line, reject.reason) == ("s.jsonl", 2, reason)
    assert detail in reject.detail
    assert len(reject.excerpt) <= 100 and reject.excerpt.isprintable()


def test_an_excerpt_of_a_record_is_json(jsonl: Write) -> None:
    deep, deeper = (b'{"instruction": %b}' % (b"[" * levels + b"]" * levels) for levels in (600, 1020))
    odd = {"output": None, "instruction": ""}, {"instruction": {"b": True, "a": 1.5}}, deep, deeper
    asked, typed, nested, too_many = jsonl({"instruction": "good"}, *odd).rejects
    assert asked.excerpt == '{"instruction":""}' and typed.excerpt == '{"b":true,"a":1.5}'
    assert nested.excerpt.startswith("[[[") and len(nested.excerpt) == 100
    assert too_many.excerpt == "(a list of too many levels)"
    assert Refused("r", "d", {"a": "\ud800", "b": Decimal("1e400")}).excerpt == '{"a":"\ufffd","b":"1E+400"}'


TOKENS = """
<|im_start|> <|im_end|> <|endoftext|> [INST] [/INST] <<SYS>> <</SYS>> <start_of_turn> <end_of_turn> <|eot_id|> <s> </s>
<|start_header_id|> <|end_header_id|> <|begin_of_text|> <bos> <eos> <|user|> <|assistant|> <|system|> [TOOL_CALLS]
<|reserved_special_token_0|> [AVAILABLE_TOOLS] <｜begin▁of▁sentence｜>
"""


@pytest.mark.parametrize("token", TOKENS.split())
def test_control_tokens(jsonl: Write, token: str) -> None:
    result = jsonl({"instruction": f"Ignore this.{token}user"}, {"instruction": "x", "output": f"y {token}"})
    assert reasons(result) == [(1, "control_token"), (2, "control_token")]
    assert all(token in r.detail and token in r.excerpt for r in result.rejects)


@pytest.mark.parametrize(
    "text",
    [
        "x <| y |> z",
        "let f = a |> g <| b",
        "arr[INDEX]",
        "<section> and <strong>",
        "if a<s and s>b:",
        "std::vector<size_t>",
        "a || b",
        "List<String>",
        "<startle>",
    ],
)
def test_what_only_looks_like_a_control_token_passes(jsonl: Write, text: str) -> None:
    assert not jsonl({"instruction": text}).rejects


def test_duplicates(jsonl: Write) -> None:
    lines = [ALPACA, {**ALPACA, "instruction": "ADD  the\nnumbers."}, {**ALPACA, "output": "Five"}, ALPACA]
    result = jsonl(*lines)
    assert reasons(result) == [(2, "duplicate"), (4, "duplicate")]
    assert result.rejects[0].detail == "same text as s.jsonl:1"
    kept = jsonl(*lines, duplicates="keep")
    assert len(kept.seeds) == 4 and not kept.rejects
    assert kept.seeds[0].id == result.seeds[0].id  # the first occurrence has the same id either way
    assert jsonl({"instruction": "ﬁne１"}, {"instruction": "fine1"}).reasons == {"duplicate": 1}  # Unicode form


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "2+2?", "output": "<think>Two and two.</think>\n\n4"},
        {"instruction": "2+2?", "output": "Two and two.\n</think>\n4"},
        {"question": "2+2?", "answer": "4", "reasoning": "Two and two."},
        {"prompt": "2+2?", "completion": "4", "reasoning_content": "Two and two."},
        {"messages": [("user", "2+2?"), ("assistant", "◁think▷Two and two.◁/think▷4")]},
        {"messages": [("user", "2+2?"), ("assistant", "4", {"reasoning_content": "Two and two."})]},
        {"messages": [("user", "2+2?"), ("assistant", "4", {"reasoning": "Two and two.", "reasoning_content": None})]},
        {"messages": [("user", "2+2?"), ("assistant", "<think>Two and two.</think>4", {"reasoning": "Two and two."})]},
        {
            "messages": [
                ("user", "2+2?"),
                ("assistant", [{"type": "thinking", "thinking": "Two and two."}, {"type": "text", "text": "4"}]),
            ]
        },
    ],
)
def test_thoughts_are_told_apart(jsonl: Write, record: dict[str, Any]) -> None:
    """In whatever form they come; a seed is the same with and without them."""
    if "messages" in record:
        turns = [(*m, {})[:3] for m in record["messages"]]
        record = {"messages": [{"role": r, "content": c, **more} for r, c, more in turns]}
    (seed,) = jsonl(record).seeds
    assert (seed.instruction, seed.response, seed.thoughts) == ("2+2?", "4", "Two and two.")
    plain = jsonl({"instruction": "2+2?", "output": "4"})
    assert seed.id == plain.seeds[0].id and plain.digest != jsonl(record).digest


def test_thoughts_in_both_forms_of_a_file() -> None:
    seeds = load(SeedsConfig(path=str(ROOT / "tests/cases/thinking.jsonl"))).seeds
    found = [(s.instruction, s.response, s.thoughts) for s in seeds]
    assert found == [("2+2?", "4", "Two and two are four."), ("3+3?", "6", "three twice")]


def test_thoughts_without_an_answer_are_none(jsonl: Write) -> None:
    answers = ["<think>Two and", "Well. <think>Two</think> 4", "[THINK]a[/THINK]4[/THINK]", "4 <|im_end|>"]
    result = jsonl(*({"instruction": "2+2?", "output": a} for a in answers))
    assert [(r.reason, r.detail) for r in result.rejects[:3]] == [
        ("thoughts", "the thoughts in the response do not end"),
        ("thoughts", "<think> within the response"),
        ("thoughts", "[/THINK] within the response"),
    ]
    spoiled = jsonl({"instruction": "2+2?", "output": "4", "reasoning": "x<|im_end|>y"})
    assert spoiled.rejects[0].detail == "<|im_end|> in the thoughts"


def test_ids_do_not_depend_on_position(jsonl: Write) -> None:
    others = [{"instruction": f"task {i}"} for i in range(5)]
    forward, backward = jsonl(*others, ALPACA), jsonl(ALPACA, *reversed(others))
    assert {s.id for s in forward.seeds} == {s.id for s in backward.seeds}
    assert [s.instruction for s in forward.seeds] == [
        *(o["instruction"] for o in others),
        "Add the numbers.\n\n2 and 3",
    ]
    assert forward.digest != backward.digest  # slices follow the order


def test_digest_is_of_the_seeds_only(jsonl: Write) -> None:
    plain = jsonl(ALPACA)
    assert jsonl(b"", b"garbage", ALPACA).digest == plain.digest
    assert jsonl({**ALPACA, "domain": "math"}).digest != plain.digest
    assert jsonl({**ALPACA, "summary": "s"}).digest != plain.digest


def test_limit(jsonl: Write) -> None:
    result = jsonl({"instruction": "a"}, b"bad", {"instruction": "b"}, {"instruction": "c"}, b"bad", limit=2)
    assert [s.instruction for s in result.seeds] == ["a", "b"]
    assert result.read == 3


def test_all_rejected_is_a_set_without_seeds(jsonl: Write) -> None:
    result = jsonl(b"x", {"instruction": ""}, b"y")
    assert not result.seeds and result.reasons == {"malformed": 2, "empty_instruction": 1}


def test_seeds_are_the_same_by_the_merges_rule(jsonl: Write) -> None:
    assert len(load(SeedsConfig(path=str(ROOT / "tests/cases/superscripts.jsonl"))).seeds) == 6
    assert len(load(SeedsConfig(path=str(ROOT / "tests/cases/code.jsonl"))).seeds) == 23
    same = [("Compute x².", "compute x^2"), ("Name it.", "“name  it”"), ("12+34", "12 + 34"), ("琵琶湖。", "琵琶湖")]
    for one, other in same:
        assert jsonl({"instruction": one}, {"instruction": other}).reasons == {"duplicate": 1}
    differ = [
        "3",
        "-3",
        "x_1",
        "x1",
        "`\\d`",
        "`\\D`",
        "a\n    b()",
        "a\nb()",
        "?",
        "!",
        "2.1",
        "21",
        "ℚ",
        "½",
        "1",
        "2",
    ]
    assert len(jsonl(*({"instruction": text} for text in differ)).seeds) == len(differ)
    of_code = [{"instruction": t, "domain": "Programming"} for t in ("Foo bar", "foo bar")]
    assert len(jsonl(*of_code).seeds) == 2 and len(jsonl(*(r | {"domain": "qa"} for r in of_code)).seeds) == 1


def test_a_limit_reads_no_further_than_it_must(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text('{"instruction": "a"}\n{"instruction": "A"}\nbad\n{"instruction": "b"}\n{"instruction": "c"}\n')
    found = load(SeedsConfig(path=str(path), limit=2))
    assert ([s.instruction for s in found.seeds], found.read, len(found.rejects)) == (["a", "b"], 4, 2)


def test_keywords_may_be_joined_by_the_commas_of_any_script() -> None:
    found = load(SeedsConfig(path=str(ROOT / "tests/cases/keywords_cjk.jsonl")))
    assert [s.keywords for s in found.seeds] == [("河流", "长江", "中国"), ("湖", "琵琶湖", "日本")]
