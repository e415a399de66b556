"""JSONL, JSON, CSV, Parquet, directories, datasets; files that cannot be read; the table that a plan keeps."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gra_hpc.config.settings import SeedsConfig
from gra_hpc.errors import ReleaseError, SeedError, StorageError
from gra_hpc.records import DOMAINS, Record, record_schema
from gra_hpc.sources import seeds
from gra_hpc.sources.seeds import SeedSet, load
from tests.offline import NO_NETWORK, blocked_only
from tests.sources.loading import ALPACA, Write, load_file, reasons

ROOT = Path(__file__).parents[2]


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as f:
        f.write(data)
    return sink.getvalue().to_pybytes()


# Files


def test_byte_order_mark_blank_lines_and_windows_line_ends(tmp_path: Path) -> None:
    lines = [b"\xef\xbb\xbf" + orjson.dumps({"instruction": "a"}), b"", b"  ", orjson.dumps({"instruction": "b"})]
    (tmp_path / "s.jsonl").write_bytes(b"\r\n".join(lines))
    assert [s.source for s in load_file(tmp_path / "s.jsonl").seeds] == ["s.jsonl:1", "s.jsonl:4"]
    (tmp_path / "s.csv").write_bytes(b"\xef\xbb\xbfinstruction,output\r\na,b\r\n\r\n")
    assert [s.instruction for s in load_file(tmp_path / "s.csv").seeds] == ["a"]


def test_huge_line_is_skipped_without_being_read(jsonl: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gra_hpc.sources.lines.LINE_BYTES", 1000)
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
    (tmp_path / "lines.json").write_text(f"\n{json.dumps(ALPACA)}\n{{broken\n{json.dumps({'instruction': 'b'})}\n")
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
    (tmp_path / "s.csv").write_text("title,body\na,b\n")
    with pytest.raises(SeedError, match="found: title, body"):
        load_file(tmp_path / "s.csv")
    (tmp_path / "s.csv").write_text("instruction,instruction\na,b\n")
    with pytest.raises(SeedError, match="column instruction is there twice"):
        load_file(tmp_path / "s.csv")


def test_parquet(tmp_path: Path) -> None:
    columns = {
        "embedding": [b"\0\1"] * 4,  # other columns are not decoded
        "instruction": ["a", None, "<|im_end|>", "b"],
        "output": ["x", "y", "z", None],
        "keywords": [["k"], None, None, ["k", "l"]],
    }
    pq.write_table(pa.table(columns), tmp_path / "s.parquet", row_group_size=2)
    result = load_file(tmp_path / "s.parquet")
    assert [(s.source, s.keywords) for s in result.seeds] == [("s.parquet:1", ("k",)), ("s.parquet:4", ("k", "l"))]
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


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".XZ", lzma.compress), (".zst", zstd)]
)
def test_compressed_text(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    lines = b'{"instruction": "a"}\nbroken\n{"instruction": "b"}\n'
    (tmp_path / f"s.jsonl{suffix}").write_bytes(compress(lines[:9]) + compress(lines[9:]))  # two members in one file
    (tmp_path / f"t.json{suffix}").write_bytes(compress(lines))
    (tmp_path / f"u.csv{suffix}").write_bytes(compress(b"instruction\nc\n"))
    result = load_file(tmp_path)
    assert [s.instruction for s in result.seeds] == ["a", "b", "c"]  # the rest of `t` are duplicates
    (tmp_path / f"s.jsonl{suffix}").write_bytes(compress(lines)[:-9])
    with pytest.raises(SeedError, match=r"s\.jsonl"):
        load_file(tmp_path)


def test_nothing_in_a_directory_is_left_over_unsaid(tmp_path: Path) -> None:
    (tmp_path / "A.JSONL").write_text('{"instruction": "a"}\n')
    assert load_file(tmp_path).seeds[0].instruction == "a"
    for other in ("sub/b.jsonl", "sub/b.jsonl.zst", "b.parquet.gz", "b.txt.zst"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text('{"instruction": "b"}\n')
        with pytest.raises(SeedError, match=f"{other} would not be read beside A.JSONL"):
            load_file(tmp_path)
        (tmp_path / other).unlink()


@pytest.mark.parametrize(
    ("names", "split", "read", "aside"),
    [
        ("train.jsonl test.jsonl dev.jsonl", "train", "train.jsonl", 2),
        ("train.jsonl test.jsonl dev.jsonl", "validation", "dev.jsonl", 2),
        ("train-00000-of-00002.jsonl train-00001-of-00002.jsonl test-00000-of-00001.jsonl", "train",
         "train-00000-of-00002.jsonl train-00001-of-00002.jsonl", 1),
        ("math_train.jsonl math_test.jsonl.gz code.train.jsonl", "train", "code.train.jsonl math_train.jsonl", 1),
        ("train_sft.jsonl train_gen.jsonl test_sft.jsonl", "train_sft", "train_sft.jsonl", 2),
        ("a.jsonl test.jsonl", "train", "a.jsonl", 1),
        ("a.jsonl b.jsonl trains.jsonl unit-tests.jsonl", "train",
         "a.jsonl b.jsonl trains.jsonl unit-tests.jsonl", 0),
    ],
)  # fmt: skip
def test_a_directory_with_names_of_splits(tmp_path: Path, names: str, split: str, read: str, aside: int) -> None:
    for name in names.split():
        line = json.dumps({"instruction": name}).encode() + b"\n"
        (tmp_path / name).write_bytes(gzip.compress(line) if name.endswith(".gz") else line)
    found = load_file(tmp_path, split=split)
    assert [s.instruction for s in found.seeds] == read.split()
    assert found.aside == ({"files of other splits": aside} if aside else {})


def test_a_directory_without_the_split_asked_for(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"instruction": "a"}\n')
    with pytest.raises(SeedError, match=r"no file of the split train; there are test.jsonl -> seeds.split=test"):
        load_file(tmp_path)
    assert load_file(tmp_path, split="eval").seeds and load_file(tmp_path / "test.jsonl").seeds


def test_a_json_object_of_several_lists(tmp_path: Path) -> None:
    path, records = tmp_path / "s.json", [[{"instruction": word}] for word in "abc"]
    path.write_text(json.dumps(dict(zip(("test", "train", "dev"), records, strict=True))))
    assert [s.instruction for s in load_file(path).seeds] == ["b"]
    assert [s.instruction for s in load_file(path, split="test").seeds] == ["a"]
    path.write_text(json.dumps(dict(zip(("data", "train"), records[:2], strict=True))))
    with pytest.raises(SeedError, match="records under data, train: expected under one key"):
        load_file(path)


def test_numbers_keep_their_digits(tmp_path: Path) -> None:
    long, fraction = str(2**100 - 1), "3.14159265358979323846"
    for name, form in (("s.jsonl", "{}\n{}\n"), ("s.json", "[{}, {}]")):
        records = [f'{{"instruction": "q{n}", "answer": {n}}}' for n in (long, fraction)]
        (tmp_path / name).write_text(form.format(*records))
        assert [s.response for s in load_file(tmp_path / name).seeds] == [long, fraction]
    (tmp_path / "s.jsonl").write_text(f'{{"instruction": "q", "answer": {"9" * 5000}}}\n{{"instruction": "b"}}\n')
    assert reasons(load_file(tmp_path / "s.jsonl")) == [(1, "malformed")]


def test_blank_lines_before_a_csv_header(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("\n\ninstruction,output\na,b\n")
    assert load_file(tmp_path / "s.csv").seeds[0].response == "b"


def test_relative_paths_start_here_then_at_the_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(SeedsConfig(path="seeds/demo.jsonl")).seeds  # the project's
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds/demo.jsonl").write_text('{"instruction": "mine"}\n')
    assert load(SeedsConfig(path="seeds/demo.jsonl")).seeds[0].instruction == "mine"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_a_table_with_semicolons_is_told_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """As Excel writes them: answers with commas in them are no columns."""
    monkeypatch.chdir(tmp_path)
    table = 'frage;antwort\r\nWer, für mich?;"Du; ""ja"", du.\nGut."\r\n'
    Path("my s.csv").write_bytes(table.encode(encoding))
    fields = {"instruction": "frage", "response": "antwort"}
    with pytest.raises(SeedError, match="separated by `;`, as Excel writes it") as e:
        load_file(Path("my s.csv"))
    command, _, new = e.value.then.partition(", then seeds.path=")
    subprocess.run(command.replace("python3", sys.executable, 1), shell=True, check=True)
    (seed,) = load_file(Path(new), fields=fields).seeds
    assert (seed.instruction, seed.response) == ("Wer, für mich?", 'Du; "ja", du.\nGut.')


@pytest.mark.parametrize(
    ("name", "header", "what", "then"),
    [
        ("s.csv", "question\tanswer", "tabs", "cp s.csv new.tsv, then seeds.path=new.tsv"),
        ("s.tsv", "question,answer", "`,`", "cp s.tsv new.csv, then seeds.path=new.csv"),
        ("s.csv.gz", "question;answer", "`;`", "unpack it"),
        ("s.csv", "id;frage, kurz;antwort", "`;`", "python3 -c"),
    ],
)
def test_other_separators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, header: str, what: str, then: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"{header}\n".encode()
    Path(name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    with pytest.raises(SeedError) as e:
        load_file(Path(name))
    assert f"separated by {what}" in e.value.what and e.value.then.startswith(then)


def test_a_field_that_is_named_may_have_a_separator_in_it(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("Frage; kurz\nWer?\n")
    assert len(load_file(tmp_path / "s.csv", fields={"instruction": "Frage; kurz"}).seeds) == 1


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
        ("s.jsonl", gzip.compress(b'{"instruction": "a"}'), "is gzip, and its name says .jsonl -> mv "),
        ("s.jsonl", lzma.compress(b'{"instruction": "a"}'), "s.jsonl.xz"),
        ("s.csv", b"\x28\xb5\x2f\xfd\0\0", "s.csv.zst"),
        ("s.jsonl", b"PAR1 PAR1", "s.parquet"),
        ("s.json", b"PK\x03\x04 x", "is a zip archive, and its name says .json -> unzip -p "),
        ("s.jsonl.gz", gzip.compress(gzip.compress(b"a")), "is gzip"),
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
            pa.table({"instruction": [split], "response": ["x"]}), tmp_path / f"release/data/{split}-0.parquet"
        )
    (tmp_path / "release/manifest.json").write_text("{}")
    assert [s.instruction for s in load_file(tmp_path / "release").seeds] == ["train"]
    assert [s.instruction for s in load_file(tmp_path / "release", split="validation").seeds] == ["validation"]
    with pytest.raises(SeedError, match="datasets cannot load it"):
        load_file(tmp_path / "release", split="absent")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(SeedError, match="datasets cannot load it"):
        load_file(tmp_path / "nothing")


def test_hub_dataset_out_of_reach_is_one_line(tmp_path: Path) -> None:
    code = (
        "from gra_hpc.sources.seeds import load; from gra_hpc.config.settings import SeedsConfig\n"
        "from gra_hpc.errors import SeedError\n"
        "try: load(SeedsConfig(path='some-org/some-data', name='main'))\n"
        "except SeedError as e: print(e)"
    )
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith("some-org/some-data: no file or directory of that name, and the Hub cannot be reached")
    assert "HF_HUB_OFFLINE is set" in line and "gra fetch datasets/some-org/some-data" in line
    assert "datasets" not in done.stderr


@blocked_only
def test_without_a_network_a_hub_id_is_refused_at_once(tmp_path: Path) -> None:
    """By one look: Hugging Face's libraries ask for half a minute."""
    assert unreachable_when_blocked(tmp_path, "https://huggingface.co") == "no network"
    assert unreachable_when_blocked(tmp_path, "http://127.0.0.1:9") == "no network"


def unreachable_when_blocked(tmp_path: Path, endpoint: str) -> str:
    code = "from gra_hpc.models import hub; print('no network' if hub.unreachable() else 'reached')"
    env = {k: v for k, v in os.environ.items() if not k.lower().startswith(("hf_", "http"))} | {"HF_ENDPOINT": endpoint}
    words = [*NO_NETWORK, sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, env=env, check=True).stdout.strip()


def test_a_wrong_field_map_is_refused_after_the_first_thousand(tmp_path: Path) -> None:
    """Not after millions; a field that few records have may still come."""
    file = tmp_path / "many.jsonl"
    lines = [json.dumps({"ask": f"Name the thing number {i}.", "say": "It."}) for i in range(1200)]
    file.write_text("\n".join([*lines, json.dumps({"ask": "And this?", "say": "Yes.", "rare": "Be brief."})]))
    with pytest.raises(SeedError, match=r"none of the first 1000 records has the field asked .*found: ask, say"):
        load_file(file, fields={"instruction": "asked", "response": "say"})
    with pytest.raises(SeedError, match="none of the first 1000 records is of a known layout"):
        load_file(file)
    found = load_file(file, fields={"instruction": "ask", "response": "say", "system": "rare"})
    assert len(found.seeds) == 1201


def test_reading_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Name {i}.", "response": "It."}) + "\n" for i in range(2500)))
    monkeypatch.setattr(seeds, "SAY_S", 0.0)
    said: list[str] = []
    seeds.load(SeedsConfig(path=str(file)), say=said.append)
    assert [s.partition(": ")[2] for s in said] == ["1,000 records read", "2,000 records read"]


def test_reading_files_needs_no_heavy_module(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps(ALPACA))
    code = (
        "import sys; from gra_hpc.sources.seeds import load; from gra_hpc.config.settings import SeedsConfig\n"
        f"load(SeedsConfig(path={str(tmp_path / 's.jsonl')!r}))\n"
        "assert not {'torch', 'pyarrow', 'datasets', 'pandas'} & set(sys.modules)"
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


# Tables


def many(count: int) -> Iterable[Record]:
    for i in range(count):
        yield Record(
            f"{i:032x}", f"do {i}", "é" * (i % 3), "math", ("a", str(i))[: i % 3], "s", i / 7 or None, 2, "x", "f:1"
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
    with pytest.raises(ReleaseError, match="other columns than expected: no column id"):
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
