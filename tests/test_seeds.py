"""Seeds: layouts, rules, garbage. Whatever a file holds, every record is accepted or rejected, nothing else."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gra_hpc import seeds, sources
from gra_hpc.config import DOMAINS, SeedsConfig
from gra_hpc.errors import ReleaseError, SeedError, StorageError
from gra_hpc.records import Record, record_schema
from gra_hpc.seeds import SeedSet, load

ROOT = Path(__file__).parents[1]
ALPACA = {"instruction": "Add the numbers.", "input": "2 and 3", "output": "5"}

Write = Callable[..., SeedSet]


def balanced(result: SeedSet) -> SeedSet:
    assert result.read == len(result.seeds) + len(result.rejects)
    assert sum(result.reasons.values()) == len(result.rejects)
    assert len({s.id for s in result.seeds}) == len(result.seeds)
    return result


def load_file(path: Path, **settings_: Any) -> SeedSet:
    return balanced(load(SeedsConfig(path=str(path), **settings_)))


@pytest.fixture
def jsonl(tmp_path: Path) -> Write:
    """Load records, or raw lines, written to a JSONL file."""

    def write(*lines: object, **settings_: Any) -> SeedSet:
        encoded = [line if isinstance(line, bytes) else orjson.dumps(line) for line in lines]
        (tmp_path / "s.jsonl").write_bytes(b"\n".join(encoded) + b"\n")
        return load_file(tmp_path / "s.jsonl", **settings_)

    return write


def reasons(result: SeedSet) -> list[tuple[int, str]]:
    return [(r.line, r.reason) for r in result.rejects]


# Layouts


@pytest.mark.parametrize(
    ("record", "instruction", "response"),
    [
        (ALPACA, "Add the numbers.\n\n2 and 3", "5"),
        ({"instruction": "Say hi.", "input": "", "output": "Hi", "text": "..."}, "Say hi.", "Hi"),
        ({"instruction": "Say hi.", "input": "<noinput>", "output": "Hi"}, "Say hi.", "Hi"),
        ({"Instruction": "Say hi.", "Response": "Hi"}, "Say hi.", "Hi"),
        (
            {"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada"},
            "Who?\n\nAda wrote it.",
            "Ada",
        ),
        (
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            "Q",
            "A",
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "gpt", "value": "Hello!"},
                    {"from": "human", "value": "Q"},
                    {"from": "gpt", "value": "A"},
                    {"from": "human", "value": "Q2"},
                ]
            },
            "Be brief.\n\nQ",
            "A",
        ),
        (
            {
                "prompt": "x",
                "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
            },
            "Q",
            "A",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}]}, "Q", ""),
        ({"messages": [{"role": "user", "content": "Q"}, {"role": "user", "content": "Q2"}]}, "Q", ""),
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


def test_unknown_layout_names_the_columns_and_what_to_type(jsonl: Write) -> None:
    with pytest.raises(SeedError) as e:
        jsonl({"title": "T", "body": "B"}, {"title": "T2", "extra": 1})
    assert "found: title, body, extra" in e.value.what
    assert e.value.then.endswith("seeds.fields.instruction=title seeds.fields.response=body")
    assert "\n" not in str(e.value)
    assert reasons(jsonl(ALPACA, {"title": "T"})) == [
        (2, "unknown_layout")
    ]  # one record of another kind: a reject


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"instructions": "q"}, "did you mean instruction"),
        (
            {"instruction": "quest"},
            "no record has the field quest of seeds.fields.instruction; found: question, answer",
        ),
        ({"response": "answr"}, "seeds.fields.response=answer"),
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
        ({"conversations": None}, "empty_instruction", "nothing printable"),
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
    assert jsonl({"instruction": "ﬁne１"}, {"instruction": "fine1"}).reasons == {
        "duplicate": 1
    }  # Unicode form


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


# Files


def test_byte_order_mark_blank_lines_and_windows_line_ends(tmp_path: Path) -> None:
    lines = [
        b"\xef\xbb\xbf" + orjson.dumps({"instruction": "a"}),
        b"",
        b"  ",
        orjson.dumps({"instruction": "b"}),
    ]
    (tmp_path / "s.jsonl").write_bytes(b"\r\n".join(lines))
    assert [s.source for s in load_file(tmp_path / "s.jsonl").seeds] == ["s.jsonl:1", "s.jsonl:4"]
    (tmp_path / "s.csv").write_bytes(b"\xef\xbb\xbfinstruction,output\r\na,b\r\n\r\n")
    assert [s.instruction for s in load_file(tmp_path / "s.csv").seeds] == ["a"]


def test_huge_line_is_skipped_without_being_read(jsonl: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LINE_BYTES", 1000)
    last = {"instruction": "x" * 5000}
    result = jsonl({"instruction": "a"}, {"instruction": "x" * 5000}, {"instruction": "y" * 900}, last)
    assert reasons(result) == [(2, "long_line"), (4, "long_line")]
    assert len(result.seeds) == 2


@pytest.mark.parametrize(
    "content",
    [
        [ALPACA, {"instruction": "b"}, 3],
        {"data": [ALPACA, {"instruction": "b"}, 3]},
        {"version": 1, "train": [ALPACA, {"instruction": "b"}, 3]},
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_json(tmp_path: Path, content: object, indent: int | None) -> None:
    (tmp_path / "s.json").write_text(json.dumps(content, indent=indent))
    result = load_file(tmp_path / "s.json")
    assert [s.source for s in result.seeds] == ["s.json:1", "s.json:2"]
    assert reasons(result) == [(3, "not_an_object")]


def test_json_of_one_record_and_of_lines(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(ALPACA))
    assert load_file(tmp_path / "one.json").read == 1
    (tmp_path / "lines.json").write_text(
        f"\n{json.dumps(ALPACA)}\n{{broken\n{json.dumps({'instruction': 'b'})}\n"
    )
    assert reasons(load_file(tmp_path / "lines.json")) == [(3, "malformed")]


def test_csv(tmp_path: Path) -> None:
    rows = [
        b"instruction,input,output",
        b'"Line one\nline two",x,y',
        b"too,few",
        b"a,b,c,d",
        b'"he said ""hi""",,z',
        b"\xe9t\xe9,x,y",
        b'"quote"broken,x,y',
        b",x,y",
        b"last,x,y",
    ]
    (tmp_path / "s.csv").write_bytes(b"\n".join(rows))
    result = load_file(tmp_path / "s.csv")
    assert [(s.source, s.instruction) for s in result.seeds] == [
        ("s.csv:2", "Line one\nline two\n\nx"),
        ("s.csv:6", 'he said "hi"'),
        ("s.csv:10", "last\n\nx"),
    ]
    assert reasons(result) == [
        (4, "malformed"),
        (5, "malformed"),
        (7, "encoding"),
        (8, "malformed"),
        (9, "empty_instruction"),
    ]
    assert result.rejects[0].detail == "2 columns, expected 3"
    (tmp_path / "s.tsv").write_text("instruction\toutput\na, b\tc\n")
    assert load_file(tmp_path / "s.tsv").seeds[0].instruction == "a, b"


def test_csv_with_an_open_quote_ends(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text('instruction,output\na,b\n"never closed,c\nd,e\n')
    result = load_file(tmp_path / "s.csv")
    assert len(result.seeds) == 1 and reasons(result) == [(3, "malformed"), (4, "malformed")]


def test_csv_without_an_instruction_column(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("title;body\na;b\n")
    with pytest.raises(SeedError, match="found: title;body"):
        load_file(tmp_path / "s.csv")
    (tmp_path / "s.csv").write_text("instruction,instruction\na,b\n")
    with pytest.raises(SeedError, match="column instruction is there twice"):
        load_file(tmp_path / "s.csv")


def test_parquet(tmp_path: Path) -> None:
    columns = {
        "image": [b"\0\1"] * 4,  # other columns are not decoded
        "instruction": ["a", None, "<|im_end|>", "b"],
        "output": ["x", "y", "z", None],
        "keywords": [["k"], None, None, ["k", "l"]],
    }
    pq.write_table(pa.table(columns), tmp_path / "s.parquet", row_group_size=2)
    result = load_file(tmp_path / "s.parquet")
    assert [(s.source, s.keywords) for s in result.seeds] == [
        ("s.parquet:1", ("k",)),
        ("s.parquet:4", ("k", "l")),
    ]
    assert reasons(result) == [(2, "empty_instruction"), (3, "control_token")]
    pq.write_table(pa.table({"n": [1, 2], "title": ["a", "b"]}), tmp_path / "s.parquet")
    with pytest.raises(SeedError, match="found: n, title"):
        load_file(tmp_path / "s.parquet")
    numbers = load_file_of_numbers(tmp_path)
    assert numbers.reasons == {"wrong_type": 2}


def load_file_of_numbers(tmp_path: Path) -> SeedSet:
    pq.write_table(pa.table({"instruction": [1, 2]}), tmp_path / "s.parquet")
    return load_file(tmp_path / "s.parquet")


def test_parquet_with_bytes_that_are_no_text(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xe9t\xe9", b"fine"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())  # Arrow does not check
    pq.write_table(pa.table({"instruction": text}), tmp_path / "s.parquet")
    result = load_file(tmp_path / "s.parquet")
    assert [s.instruction for s in result.seeds] == ["good", "fine"]
    assert reasons(result) == [(2, "encoding")]


def test_directory_of_files(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("instruction,output\nfrom csv,x\n")
    (tmp_path / "a.jsonl").write_text('{"instruction": "from jsonl"}\nbroken\n')
    pq.write_table(pa.table({"prompt": ["from parquet"]}), tmp_path / "c.parquet")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "manifest.json").write_text("{}")
    result = load_file(tmp_path)
    assert [s.source for s in result.seeds] == ["a.jsonl:1", "b.csv:2", "c.parquet:1"]
    assert [(r.file, r.line) for r in result.rejects] == [("a.jsonl", 2)]


def test_relative_paths_start_here_then_at_the_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(SeedsConfig(path="seeds/demo.jsonl")).seeds  # the project's
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds/demo.jsonl").write_text('{"instruction": "mine"}\n')
    assert load(SeedsConfig(path="seeds/demo.jsonl")).seeds[0].instruction == "mine"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("s.jsonl", b"", "no record in it"),
        ("s.jsonl", b"\n \n", "no record in it"),
        ("s.json", b"", "no record in it"),
        ("s.json", b"[]", "no record in it"),
        ("s.csv", b"", "no record in it"),
        ("s.csv", b"instruction,output\n", "no record in it"),
        ("s.json", b"[\n{},\n{]\n", "s.json line 3: not JSON"),
        ("s.json", b'"text"', "str, expected a list of objects"),
        ("s.json", b'["\xff"]', "not UTF-8"),
        ("s.parquet", b"", "not readable as Parquet"),
        ("s.parquet", b"PAR1 nonsense PAR1", "not readable as Parquet"),
        ("s.jsonl", '{"instruction": "a"}'.encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
        ("s.csv", "instruction\na".encode("utf-16"), "UTF-16"),
        ("s.txt", b"a", "unknown kind of file"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SeedError) as e:
        load_file(tmp_path / name)
    assert words in str(e.value) and name in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "absent.jsonl",
        "a/b/c",
        "../no-such-seeds",
        "/absent/x",
        "x\0y.jsonl",
        "~nobody/x.csv",
        "x" * 999,
        "x" * 999 + ".csv",
    ],
)
def test_no_such_file(path: str) -> None:
    with pytest.raises(SeedError, match="no such file or directory"):
        load(SeedsConfig(path=path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text("{}")
    (tmp_path / "s.jsonl").chmod(0)
    with pytest.raises(SeedError, match="Permission denied"):
        load_file(tmp_path / "s.jsonl")


def test_datasets_from_disk_and_by_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"instruction": f"task {i}", "output": "x" if i else "<|im_end|>"} for i in range(2000)]
    datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "saved")
    result = load_file(tmp_path / "saved", split="test")
    assert result.read == 2000 and len(result.seeds) == 1999
    assert reasons(result) == [(1, "control_token")]
    assert result.seeds[-1].source.endswith(":2000")
    with pytest.raises(SeedError, match="KeyError"):
        load_file(tmp_path / "saved", split="train")

    (tmp_path / "release/data").mkdir(parents=True)
    for split in ("train", "validation"):
        pq.write_table(
            pa.table({"instruction": [split], "response": ["x"]}),
            tmp_path / f"release/data/{split}-0.parquet",
        )
    (tmp_path / "release/manifest.json").write_text("{}")
    assert [s.instruction for s in load_file(tmp_path / "release").seeds] == ["train"]
    assert [s.instruction for s in load_file(tmp_path / "release", split="validation").seeds] == [
        "validation"
    ]
    with pytest.raises(SeedError, match="datasets cannot load it"):
        load_file(tmp_path / "release", split="absent")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(SeedError, match="datasets cannot load it"):
        load_file(tmp_path / "nothing")


def test_hub_dataset_out_of_reach_is_one_line(tmp_path: Path) -> None:
    code = (
        "from gra_hpc.seeds import load; from gra_hpc.config import SeedsConfig\n"
        "from gra_hpc.errors import SeedError\n"
        "try: load(SeedsConfig(path='some-org/some-data', name='main'))\n"
        "except SeedError as e: print(e)"
    )
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith("some-org/some-data (main, train): datasets cannot load it: ")
    assert "seeds.split" in line


def test_reading_files_needs_no_heavy_module(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps(ALPACA))
    code = (
        "import sys; from gra_hpc.seeds import load; from gra_hpc.config import SeedsConfig\n"
        f"load(SeedsConfig(path={str(tmp_path / 's.jsonl')!r}))\n"
        "assert not {'torch', 'pyarrow', 'datasets', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The project's own seeds, and a well-known set where it lies beside the project


def test_demo_seeds() -> None:
    path = ROOT / "configs/seeds/demo.jsonl"
    result = load_file(path)
    assert result.read == len(path.read_text().splitlines()) == 42
    assert not result.rejects
    given = [json.loads(line).get("domain") for line in path.read_text().splitlines()]
    assert set(given) - {None} == set(DOMAINS)
    assert 35 <= sum(s.described for s in result.seeds) <= 37
    for seed in result.seeds:
        assert seed.response and len(seed.summary.split()) <= 30
        assert not seed.keywords or len(seed.keywords) == 3


def test_self_instruct_seed_tasks() -> None:
    path = ROOT.parent / "shared/data/seed_tasks.jsonl"
    if not path.is_file():
        pytest.skip("seed_tasks.jsonl is not beside the project")
    result = load_file(path)
    assert result.read == 175 and not result.rejects
    assert all(s.response for s in result.seeds)


# Garbage

NAMES = """instruction input output response instances messages conversations role content from value prompt domain
keywords summary data text"""
FIELD_NAMES = st.sampled_from(NAMES.split()) | st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELD_NAMES, inner, max_size=4),
    max_leaves=8,
)
RECORDS = st.dictionaries(FIELD_NAMES, VALUES, max_size=5)
FIELDS = st.dictionaries(
    st.sampled_from(["instruction", "response", "messages", "domain"]), FIELD_NAMES, max_size=2
)
GARBAGE = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def survives(path: Path, **settings_: Any) -> SeedSet | None:
    """Loading ends with a balanced set or one clear line."""
    try:
        result = load_file(path, **settings_)
    except SeedError as e:
        assert e.what and "\n" not in str(e)
        return None
    seeds.write_rejects(path.with_name("rejects.out"), result.rejects)
    seeds.write_records(path.with_name("seeds.out"), result.seeds)
    assert list(seeds.read_records(path.with_name("seeds.out"))) == result.seeds
    return result


@GARBAGE
@given(data=st.binary(max_size=300), suffix=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet"]))
def test_any_bytes(tmp_path: Path, data: bytes, suffix: str) -> None:
    (tmp_path / f"s{suffix}").write_bytes(data)
    survives(tmp_path / f"s{suffix}")


@GARBAGE
@given(lines=st.lists(RECORDS | VALUES | st.binary(max_size=30), max_size=6), fields=FIELDS)
def test_any_json(tmp_path: Path, lines: list[Any], fields: dict[str, str]) -> None:
    encoded = [
        line.replace(b"\n", b"") if isinstance(line, bytes) else json.dumps(line).encode() for line in lines
    ]
    data = b"\n".join(encoded)
    (tmp_path / "s.jsonl").write_bytes(data)
    result = survives(tmp_path / "s.jsonl", fields=fields)
    if result:
        assert result.read == sum(bool(line.strip()) for line in data.removeprefix(sources.BOM).split(b"\n"))
    (tmp_path / "s.json").write_bytes(json.dumps([x for x in lines if not isinstance(x, bytes)]).encode())
    survives(tmp_path / "s.json", fields=fields, duplicates="keep")


@GARBAGE
@given(rows=st.lists(st.lists(st.text(max_size=12), min_size=1, max_size=4), max_size=6))
def test_any_csv(tmp_path: Path, rows: list[list[str]]) -> None:
    with (tmp_path / "s.csv").open("w", newline="", encoding="utf-8", errors="surrogatepass") as f:
        csv.writer(f).writerows([["instruction", "output"], *rows])
    survives(tmp_path / "s.csv")


@GARBAGE
@given(cut=st.integers(0, 700), at=st.integers(0, 700), byte=st.integers(0, 255))
def test_damaged_parquet(tmp_path: Path, cut: int, at: int, byte: int) -> None:
    pq.write_table(pa.table({"instruction": ["a", "b"], "output": ["x", "y"]}), tmp_path / "whole.parquet")
    data = bytearray((tmp_path / "whole.parquet").read_bytes())
    (tmp_path / "s.parquet").write_bytes(data[: len(data) - 1 - cut % len(data)])
    survives(tmp_path / "s.parquet")
    data[at % len(data)] = byte
    (tmp_path / "s.parquet").write_bytes(data)
    survives(tmp_path / "s.parquet")


# Tables


def many(count: int) -> Iterable[Record]:
    for i in range(count):
        yield Record(
            f"{i:032x}",
            f"do {i}",
            "é" * (i % 3),
            "math",
            ("a", str(i))[: i % 3],
            "s",
            i / 7 or None,
            2,
            "x",
            "f:1",
        )


def test_records_go_through_a_table(tmp_path: Path) -> None:
    count = 2 * seeds.BATCH + 5
    assert seeds.write_records(tmp_path / "pool.parquet", many(count)) == count
    assert list(seeds.read_records(tmp_path / "pool.parquet")) == list(many(count))
    assert pq.read_schema(tmp_path / "pool.parquet").equals(record_schema())
    assert pq.ParquetFile(tmp_path / "pool.parquet").num_row_groups == 3
    assert seeds.write_records(tmp_path / "none.parquet", []) == 0
    assert list(seeds.read_records(tmp_path / "none.parquet")) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["none.parquet", "pool.parquet"]
    first = (tmp_path / "pool.parquet").read_bytes()
    seeds.write_records(tmp_path / "pool.parquet", many(count))
    assert (tmp_path / "pool.parquet").read_bytes() == first


def test_a_failed_write_leaves_the_old_table(tmp_path: Path) -> None:
    def fails() -> Iterable[Record]:
        yield from many(10)
        raise OSError(28, "No space left on device")

    seeds.write_records(tmp_path / "pool.parquet", many(3))
    with pytest.raises(StorageError, match="no space left"):
        seeds.write_records(tmp_path / "pool.parquet", fails())
    assert len(list(seeds.read_records(tmp_path / "pool.parquet"))) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["pool.parquet"]


def test_a_damaged_table_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "pool.parquet").write_bytes(b"PAR1")
    for name in ("pool.parquet", "absent.parquet"):
        with pytest.raises(ReleaseError, match=name):
            list(seeds.read_records(tmp_path / name))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ReleaseError, match="not a table of records"):
        list(seeds.read_records(tmp_path / "other.parquet"))


def test_rejects_file(tmp_path: Path, jsonl: Write) -> None:
    seeds.write_rejects(tmp_path / "r.jsonl", jsonl(b"nonsense\xff", ALPACA).rejects)
    (line,) = (tmp_path / "r.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "file": "s.jsonl",
        "line": 1,
        "reason": "encoding",
        "detail": "not UTF-8: byte 0xff at 9",
        "excerpt": "nonsense\ufffd",
    }
