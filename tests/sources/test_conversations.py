"""Conversations: every dialect is read whole, and the same, or refused with its reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra_hpc.conversation import messages_of, tools_of
from gra_hpc.sources import conversations, dialects
from gra_hpc.sources.seeds import SeedSet
from gra_hpc.training.examples import read_examples
from tests.sources.loading import Write, load_file, reasons

SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [
    SYSTEM,
    {"role": "user", "content": "Name a moon."},
    {"role": "assistant", "content": "Io."},
    {"role": "user", "content": "Another?"},
    {"role": "assistant", "content": "Europa."},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL = {"name": "weather", "arguments": '{"city":"Oslo"}'}
ASKED = [
    {"role": "user", "content": "How cold is Oslo?"},
    {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]},
    {"role": "tool", "content": '{"temp": 3}'},
    {"role": "assistant", "content": "3 degrees."},
]


def whole(found: SeedSet) -> list[dict[str, Any]]:
    """The one seed, as messages."""
    (seed,) = found.seeds
    assert not found.rejects
    return messages_of(seed.context, seed.instruction, seed.response)


def sharegpt(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    names = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}
    return [{"from": names[m["role"]], "value": m["content"]} for m in messages]


def in_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in messages]


TALKS: dict[str, dict[str, Any]] = {
    "openai": {"messages": TALK},
    "developer": {"messages": [{**SYSTEM, "role": "developer"}, *TALK[1:]]},
    "sharegpt": {"conversations": sharegpt(TALK)},
    "sharegpt, system apart": {"conversations": sharegpt(TALK[1:]), "system": "Be brief."},
    "system twice": {"messages": TALK, "system": "Be brief."},
    "null beside": {"messages": [{**m, "from": None, "value": None, "tool_calls": None} for m in TALK], "prompt": None},
    "mixed": {"messages": [*TALK[:3], *sharegpt(TALK[3:])]},
    "alpaca": {
        "instruction": "Another?",
        "input": "",
        "output": "Europa.",
        "system": "Be brief.",
        "history": [["Name a moon.", "Io."]],
    },
    "history as messages": {"prompt": "Another?", "answer": "Europa.", "system": "Be brief.", "history": TALK[1:3]},
    "history as objects": {
        "prompt": "Another?",
        "answer": "Europa.",
        "system_prompt": "Be brief.",
        "history": [{"user": "Name a moon.", "assistant": "Io."}],
    },
    "content parts": {"messages": in_parts(TALK)},
    "response parts": {
        "input": [{"role": m["role"], "content": [{"type": "input_text", "text": m["content"]}]} for m in TALK[:2]]
        + [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Io."}]}]
        + [{"role": "user", "content": "Another?"}],
        "output": [
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Europa."}]},
        ],
    },
    "prompt and completion": {"prompt": TALK[:4], "completion": TALK[4:]},
    "prompt and text": {"prompt": TALK[:4], "completion": "Europa."},
    "completion is a message": {"prompt": TALK[:4], "completion": TALK[4]},
    "messages and answer": {"messages": TALK[:4], "answer": "Europa."},
    "chosen": {"prompt": TALK[:4], "chosen": TALK[4:], "rejected": [{"role": "assistant", "content": "Mars."}]},
    "chosen with the prompt": {"prompt": TALK[:4], "chosen": TALK, "rejected": TALK[:4]},
    "chosen without the system": {"prompt": TALK[:4], "chosen": TALK[1:], "rejected": TALK[1:4]},
    "prompt only in the chosen": {"chosen": TALK, "rejected": TALK[:4]},
    "last prompt as text": {"prompt": "Another?", "chosen": TALK, "rejected": TALK[:4]},
    "struct of lists": {
        "messages": {"role": [m["role"] for m in TALK], "content": [m["content"] for m in TALK]},
    },
    "text of JSON": {"messages": json.dumps(TALK)},
    "a release's row": {"instruction": "Another?", "response": "Europa.", "messages": TALK},
}


@pytest.mark.parametrize("record", TALKS.values(), ids=TALKS)
def test_a_conversation_is_the_same_in_every_dialect(jsonl: Write, record: dict[str, Any]) -> None:
    found = jsonl(record)
    assert whole(found) == TALK
    assert (found.seeds[0].instruction, found.seeds[0].response) == ("Another?", "Europa.")
    assert found.seeds[0].id == jsonl({"messages": TALK}).seeds[0].id
    assert found.aside == ({"rejected answers": 1} if "rejected" in record else {})


def item(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


CALLS: dict[str, dict[str, Any]] = {
    "openai": {"messages": ASKED, "tools": TOOLS},
    "openai, ids, arguments as an object": {
        "messages": [
            ASKED[0],
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
                ],
            },
            {**ASKED[2], "tool_call_id": "c1", "name": "weather"},
            ASKED[3],
        ],
        "tools": json.dumps(TOOLS),
    },
    "openai, functions": {
        "messages": [
            ASKED[0],
            {"role": "assistant", "content": "", "function_call": CALL},
            {"role": "function", "name": "weather", "content": '{"temp": 3}'},
            ASKED[3],
        ],
        "functions": [TOOLS[0]["function"]],
    },
    "responses": {
        "input": [
            ASKED[0],
            item("function_call", call_id="c1", **CALL),
            item("function_call_output", call_id="c1", output='{"temp": 3}'),
        ],
        "output": [item("message", role="assistant", content=[item("output_text", text="3 degrees.")])],
        "tools": [{"type": "function", **TOOLS[0]["function"]}],
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "How cold is Oslo?"},
            {"from": "function_call", "value": '{"name":"weather","arguments":{"city": "Oslo"}}'},
            {"from": "observation", "value": '{"temp": 3}'},
            {"from": "gpt", "value": "3 degrees."},
        ],
        "tools": json.dumps([TOOLS[0]["function"]]),
    },
    "nulls of a table": {
        "messages": [
            {"tool_calls": None, **ASKED[0]},
            {
                **ASKED[1],
                "tool_calls": [
                    {"type": None, "function": {"name": "weather", "arguments": {"city": "Oslo", "unit": None}}}
                ],
            },
            {"tool_calls": None, **ASKED[2]},
            {"tool_calls": None, **ASKED[3]},
        ],
        "tools": [
            {"type": "function", "function": {"name": "weather", "strict": None, "parameters": {"type": "object"}}}
        ],
    },
}


@pytest.mark.parametrize("record", CALLS.values(), ids=CALLS)
def test_tools_calls_and_results_are_carried_in_every_dialect(jsonl: Write, record: dict[str, Any]) -> None:
    found = jsonl(record)
    assert whole(found) == ASKED and tools_of(found.seeds[0].context) == TOOLS
    assert found.seeds[0].instruction == "How cold is Oslo?"
    assert found.seeds[0].id == jsonl({"messages": ASKED, "tools": TOOLS}).seeds[0].id
    assert found.seeds[0].id != jsonl({"messages": ASKED}).seeds[0].id != jsonl({"messages": ASKED[::3]}).seeds[0].id


def test_calls_at_once_are_one_turn_and_their_results_stand_in_their_order(jsonl: Write) -> None:
    calls = [{"id": i, "type": "function", "function": {"name": "f", "arguments": {"n": i}}} for i in "ab"]
    results = [{"role": "tool", "tool_call_id": i, "content": f"result {i}"} for i in "ab"]
    asked, said = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    called = {"role": "assistant", "content": "Let me see."}
    records = [
        {"messages": [asked, {**called, "tool_calls": calls}, *results, said]},
        {"messages": [asked, {**called, "tool_calls": calls}, *results[::-1], said]},
        {
            "messages": [
                asked,
                called,
                *(item("function_call", call_id=i, name="f", arguments={"n": i}) for i in "ab"),
                *(item("function_call_output", call_id=i, output=f"result {i}") for i in "ba"),
                said,
            ]
        },
    ]
    ids = {jsonl(r).seeds[0].id for r in records}
    assert len(ids) == 1
    assert [m["content"] for m in whole(jsonl(records[1]))] == ["Q", "Let me see.", "result a", "result b", "A"]


def test_the_same_seeds_have_the_same_ids_in_every_file(tmp_path: Path, jsonl: Write) -> None:
    """JSON lines, ShareGPT, OpenAI's messages, and an Arrow table in which nulls fill what a row does not have."""
    pairs = [("Name a sea.", "The Baltic."), ("Name a lake.", "Saimaa."), ("Name a hill.", "")]
    plain = jsonl(*({"instruction": q, "output": a} for q, a in pairs), {"instruction": "Another?", "output": "Europa.",
                  "system": "Be brief.", "history": [["Name a moon.", "Io."]]})  # fmt: skip
    chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs] + [TALK]
    openai = jsonl(*({"messages": c} for c in chats))
    share = jsonl(*({"conversations": sharegpt(c)} for c in chats))
    rows: list[dict[str, Any]] = [
        {"instruction": pairs[0][0], "output": pairs[0][1]},
        {"prompt": pairs[1][0], "response": None, "answer": pairs[1][1]},
        {"conversations": [{"from": "human", "value": pairs[2][0]}]},
        {"messages": [{"role": m["role"], "content": m["content"]} for m in TALK[:3]] + sharegpt(TALK[3:])},
    ]
    turn = pa.struct([(n, pa.string()) for n in ("role", "content", "from", "value")])
    kinds = {"messages": pa.list_(turn), "conversations": pa.list_(turn)}
    names = ("instruction", "input", "output", "prompt", "response", "answer", "system", *kinds)
    schema = pa.schema([(n, kinds.get(n, pa.string())) for n in names])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "x.parquet")
    arrow = load_file(tmp_path / "x.parquet")
    assert [s.id for s in plain.seeds] == [s.id for s in openai.seeds] == [s.id for s in share.seeds]
    assert [s.id for s in arrow.seeds] == [s.id for s in plain.seeds]
    assert plain.digest == openai.digest == share.digest == arrow.digest
    assert not any(s.context for s in arrow.seeds[:3])


def test_tables_that_keep_objects_of_lists(tmp_path: Path, jsonl: Write) -> None:
    """As `datasets` means them: messages, histories and calls of tools, with nulls where a row has none."""
    rows = [
        {"messages": {"role": [m["role"] for m in TALK], "content": [m["content"] for m in TALK], "tool_calls": None}},
        {
            "messages": {
                "role": [m["role"] for m in ASKED],
                "content": [m["content"] or None for m in ASKED],
                "tool_calls": [m.get("tool_calls") for m in ASKED],
            },
            "tools": json.dumps(TOOLS),
        },
        {"prompt": "Another?", "answer": "Europa.", "system": "Be brief.",
         "history": {"user": ["Name a moon."], "assistant": ["Io."]}},
    ]  # fmt: skip
    pq.write_table(
        pa.Table.from_pylist([{k: r.get(k) for k in {**rows[1], **rows[2]}} for r in rows]), tmp_path / "x.parquet"
    )
    found = load_file(tmp_path / "x.parquet", duplicates="keep")
    assert not found.rejects
    assert [messages_of(s.context, s.instruction, s.response) for s in found.seeds] == [TALK, ASKED, TALK]
    assert found.seeds[1].id == jsonl({"messages": ASKED, "tools": TOOLS}).seeds[0].id


@pytest.mark.parametrize(
    ("record", "instruction", "response"),
    [
        ({"response": None, "answer": "4", "question": "2+2?"}, "2+2?", "4"),
        ({"response": "", "answer": "4", "question": "2+2?"}, "2+2?", "4"),
        ({"messages": None, "prompt": "2+2?", "completion": "4"}, "2+2?", "4"),
        ({"messages": [], "prompt": "2+2?", "completion": "4"}, "2+2?", "4"),
        ({"instruction": None, "question": "2+2?", "output": None, "solution": "4"}, "2+2?", "4"),
        ({"instruction": float("nan"), "problem": "2+2?", "answer": "4"}, "2+2?", "4"),
        ({"instruction": "2+2?", "messages": None, "output": "4"}, "2+2?", "4"),
        ({"system": None, "history": None, "tools": None, "prompt": "2+2?", "answer": "4", "image": None}, "2+2?", "4"),
        ({"system": "", "history": [], "tools": "[]", "prompt": "2+2?", "answer": "4", "images": []}, "2+2?", "4"),
        ({"messages": [{"role": "user", "content": None, "value": "2+2?"}], "answer": "4"}, "2+2?", "4"),
    ],
)
def test_a_value_decides_and_not_the_presence_of_a_key(tmp_path: Path, record: dict[str, Any], instruction: str,
                                                       response: str) -> None:  # fmt: skip
    (tmp_path / "x.jsonl").write_text(json.dumps(record).replace("NaN", "null") + "\n")
    (seed,) = load_file(tmp_path / "x.jsonl").seeds
    assert (seed.instruction, seed.response, seed.context) == (instruction, response, "")


@pytest.mark.parametrize(
    ("record", "instruction", "response", "turns"),
    [
        ({"messages": [*TALK[:2], TALK[3]]}, "Another?", "", ["Be brief.", "Name a moon.", "Another?"]),  # two in a row
        ({"messages": TALK[2:]}, "Another?", "Europa.", ["Io.", "Another?", "Europa."]),  # the assistant begins
        ({"messages": TALK[:4]}, "Another?", "", ["Be brief.", "Name a moon.", "Io.", "Another?"]),
        ({"messages": [TALK[1], TALK[2], SYSTEM, *TALK[3:]]}, "Another?", "Europa.",
         ["Name a moon.", "Io.", "Be brief.", "Another?", "Europa."]),  # the system speaks in between
        ({"messages": [*TALK[1:3], TALK[4]]}, "Name a moon.", "Europa.", ["Name a moon.", "Io.", "Europa."]),
        ({"instruction": "Add.", "input": "1 and 2", "output": "3", "system": "S"}, "Add.\n\n1 and 2", "3",
         ["S", "Add.\n\n1 and 2", "3"]),
        ({"messages": [{"role": "system", "content": ""}, *TALK[1:3]]}, "Name a moon.", "Io.", ["Name a moon.", "Io."]),
        ({"messages": [TALK[1], {"role": "assistant", "content": None, "refusal": "No."}]}, "Name a moon.", "No.",
         ["Name a moon.", "No."]),
    ],
)  # fmt: skip
def test_every_turn_is_kept(
    jsonl: Write, record: dict[str, Any], instruction: str, response: str, turns: list[str]
) -> None:
    found = jsonl(record)
    assert (found.seeds[0].instruction, found.seeds[0].response) == (instruction, response)
    assert [m["content"] for m in whole(found) if m["content"]] == turns


PICTURE = {"type": "image_url", "image_url": {"url": "x.png"}}


@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        ({"messages": [{"role": "critic", "content": "x"}]}, "unknown_turn", "a turn of critic"),
        ({"messages": [{"content": "x"}]}, "unknown_turn", "a turn of nobody"),
        ({"messages": [item("web_search_call", query="x"), TALK[1]]}, "unknown_turn", "web_search_call"),
        ({"messages": [{"role": "user", "content": [item("text", text="x"), PICTURE]}]}, "not_text", "image_url"),
        ({"messages": [{"role": "user", "content": [item("input_image", image_url="x")]}]}, "not_text", "input_image"),
        ({"messages": [{"role": "user", "content": "x", "audio": {"id": "1"}}]}, "not_text", "audio"),
        ({"prompt": "What is this?", "answer": "A cat.", "image": "cat.png"}, "not_text", "seeds.fields.media="),
        ({"messages": [TALK[1], {"role": "assistant", "content": ""}, *TALK[3:]]}, "empty_turn", "turn 2"),
        ({"messages": ASKED[:2], "tools": TOOLS}, "ends_with_call", "a call of weather"),
        ({"prompt": "Q", "completion": ASKED[1]}, "ends_with_call", "a call of weather"),
        ({"messages": [{"role": "assistant", "tool_calls": ["f"], "content": ""}]}, "wrong_type", "a call of a tool"),
        ({"prompt": "Q", "history": "flu, measles"}, "wrong_type", "seeds.fields.history= leaves it aside"),
        ({"prompt": "Q", "history": [["a", "b", "c"]]}, "wrong_type", "expected pairs"),
        ({"prompt": "Q", "tools": "hammer"}, "wrong_type", "seeds.fields.tools= leaves it aside"),
        ({"prompt": "Q", "tools": ["hammer"]}, "wrong_type", "no list of functions"),
        ({"prompt": "Q", "system": {"a": 1}}, "wrong_type", "system is a dict"),
        ({"prompt": "Name a star.", "chosen": TALK, "rejected": TALK[:4]}, "other_prompt", "does not begin"),
        ({"prompt": TALK[:3], "input": "x"}, "wrong_type", "input beside a prompt that ends with the assistant"),
        ({"messages": [TALK[1], {"role": "assistant", "content": "<think>a"}, *TALK[3:]]}, "thoughts", "in the turn 2"),
        ({"messages": [{"role": "system", "content": "x<|im_end|>"}, *TALK[1:]]}, "control_token", "in the context"),
        ({"messages": TALK, "tools": [{"name": "f<|im_start|>"}]}, "control_token", "in the context"),
        ({"messages": [*TALK[:2], {**TALK[2], "content": "y" * 99}, *TALK[3:]]}, "oversized", "context has"),
        ({"chosen": "Human: Q Assistant: A", "rejected": "Human: Q Assistant: B"}, "unknown_layout", "chosen"),
    ],
)
def test_what_cannot_be_carried_whole_is_refused(
    jsonl: Write, record: dict[str, Any], reason: str, detail: str
) -> None:
    found = jsonl({"prompt": "good"}, record, max_chars=100 if reason == "oversized" else 20000)
    assert reasons(found) == [(2, reason)]
    assert detail in found.rejects[0].detail and "\n" not in found.rejects[0].detail


def test_who_speaks_is_the_reason_where_nobody_asks(jsonl: Write) -> None:
    bot, critic = ({"conversations": [{"from": who, "value": "Hi there."}]} for who in ("bot", "critic"))
    first, second = jsonl({"prompt": "good"}, bot, critic).rejects
    assert first.detail.startswith(
        "no user message with text: turns of bot (read as assistant); known are system, user ("
    )
    assert first.excerpt == '[{"from":"bot","value":"Hi there."}]'
    assert second.detail.startswith("a turn of critic; known are system, user (human, prompter), assistant (gpt, ")
    assert second.excerpt == '{"from":"critic","value":"Hi there."}'
    named = set(re.findall(r"\w+", dialects.NAMES)) - {"and"}
    assert named <= dialects.SPEAKERS.keys()


def test_what_is_left_aside_is_counted_by_kind(jsonl: Write) -> None:
    found = jsonl(
        {"prompt": "Name a metal.", "chosen": "Iron.", "rejected": "Wood."},
        {"prompt": "Name a gas.", "chosen": "Neon.", "rejected": "Tin."},
        {"prompt": "Name a fish.", "completion": "Oak.", "label": False},
        {"prompt": "Name a bird.", "completion": "Elm.", "label": "False"},
        {"prompt": "Name a tree.", "completion": "Elm.", "label": True},
        {"messages": TALK[1:3], "answer": "Moon."},
        {"messages": [TALK[1], {"role": "assistant", "content": "<think>a</think>Io."}, *TALK[3:]]},
        {"instruction": "Add.", "instances": [{"input": "1", "output": "1"}, {"input": "2", "output": "2"}]},
        {"instruction": "Name a king.", "output": "Alfred.", "messages": TALK},
    )
    assert [s.response for s in found.seeds] == ["Iron.", "Neon.", "", "", "Elm.", "Io.", "Europa.", "1", "Alfred."]
    assert found.aside == {
        "rejected answers": 2,
        "answers labelled as bad": 2,
        "other answers": 1,
        "thoughts of earlier turns": 1,
        "further instances": 1,
        "messages beside an instruction": 1,
    }


def test_what_is_not_read_is_named(jsonl: Write) -> None:
    """Keys of messages by number, fields of records by name; what only names or orders a message is not worth it."""
    named = [{**m, "name": "Ada", "id": "m1", "status": "completed", "weight": 1} for m in TALK[1:3]]
    found = jsonl(
        {"messages": named, "url": "x", "Prompt": "as the first message"},
        {"messages": [{**m, "name": None, "annotations": [], "mood": "glad"} for m in TALK[3:]], "url": "y"},
    )
    assert found.aside == {"name of messages": 1, "mood of messages": 1}
    assert found.unread == ["url", "Prompt"]
    assert jsonl({"query": "Q", "tools": TOOLS, "answers": '[{"name": "f"}]'}).unread == ["answers"]
    assert not jsonl({"a": {"b": "Q"}, "output": "A"}, fields={"instruction": "a.b"}).unread


def test_words_without_weight_are_not_learned(tmp_path: Path) -> None:
    none = [{**m, "weight": 0} for m in TALK]
    (tmp_path / "x.jsonl").write_text(
        "".join(json.dumps({"messages": m}) + "\n" for m in ([*none[:3], *TALK[3:]], none))
    )
    found = read_examples(str(tmp_path / "x.jsonl"))
    assert [m.get("weight") for m in found.conversations[0].messages] == [None, None, 0, None, None]
    assert found.refused == {"without words of a weight": 1}


def test_thoughts_of_the_last_turn_are_told_apart(jsonl: Write) -> None:
    last = {"role": "assistant", "content": "Europa.", "reasoning_content": "Jove's."}
    (seed,) = jsonl({"messages": [*TALK[:4], last]}).seeds
    assert seed.thoughts == "Jove's." and seed.id == jsonl({"messages": TALK}).seeds[0].id
    items = [item("reasoning", summary=[item("summary_text", text="Jove's.")]), TALK[4]]
    assert jsonl({"input": TALK[:4], "output": items}).seeds[0].thoughts == "Jove's."


def test_fine_tuning_leaves_out_what_is_no_unicode(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"prompt,answer\nName a past\xe9l.,Slavia.\nName a moon.,Io.\n")
    found = read_examples(str(tmp_path / "x.csv"))
    assert len(found.conversations) == 1 and found.refused == {"encoding": 1}


def test_fine_tuning_reads_the_same_conversations(tmp_path: Path) -> None:
    records = [*TALKS.values(), *CALLS.values(), {"messages": ASKED[:2], "tools": TOOLS}, {"messages": [SYSTEM]}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    found = read_examples(str(tmp_path / "x.jsonl"))
    talks, calls = len(TALKS), len(CALLS)
    assert all(c.messages == TALK for c in found.conversations[:talks])
    arguments = [c.messages[1]["tool_calls"][0]["function"]["arguments"] for c in found.conversations[talks:]]
    assert arguments == [{"city": "Oslo"}] * (calls + 1), "a call at the end is what is learned"
    assert all(c.tools == TOOLS for c in found.conversations[talks:])
    assert found.refused == {"empty_instruction": 1}
    assert found.aside["rejected answers"] == sum("rejected" in r for r in records)


TEXTS = st.one_of(
    st.none(),
    st.integers(),
    st.sampled_from(
        (
            "",
            " ",
            "Add 2.",
            "<think>two</think>4",
            "I think so.",
            "<think>",
            "no input",
            "[1]",
            "`<think>` is a mark",
            "Here's my thought process: two. Here's my response: 4",
            "analysis two assistantfinal4",
            "◁think▷two◁/think▷4",
            "[THINK]two[/THINK]4",
            "\u200b",
        )
    ),
    st.text(max_size=9),
)


@given(st.dictionaries(st.sampled_from(("instruction", "input", "response", "system", "rejected")), TEXTS))
def test_the_short_way_reads_as_the_long_one(values: dict[str, Any]) -> None:
    """Of plain records, which nearly all are; it leaves every other to the long one."""
    plain = conversations.read_plain(values)
    if plain:
        found = conversations.read(values)
        asked, answer = plain
        turns = [("user", asked), *([("assistant", answer)] if answer else [])]
        assert [(t.role, t.content) for t in found.turns] == turns
        assert not found.tools and not found.aside and not any(t.thoughts for t in found.turns)


def test_the_short_way_is_taken() -> None:
    assert conversations.read_plain({"instruction": "Add.", "input": "2 and 3", "response": "I think 5. "}) == (
        "Add.\n\n2 and 3",
        "I think 5.",
    )
