"""Seeds by the million: in columns, in a file beyond some size, and the short ways to them are as good as the long."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gra_hpc.config.settings import SeedsConfig
from gra_hpc.records import Record, digest, seed_id
from gra_hpc.sources import plain, seed_table
from gra_hpc.sources import seeds as seeds_reader
from gra_hpc.sources.first_seen import FirstSeen, Places
from gra_hpc.sources.layouts import Layout
from gra_hpc.sources.seed_table import Seed, Seeds
from gra_hpc.sources.seeds import check_text, read_records, write_records
from gra_hpc.sources.texts import Refused
from gra_hpc.text import normal_form, screen


def a_seed(number: int, **others: Any) -> Seed:
    told = Seed(seed_id(f"Name {number}.", "It.", 0), f"Name {number}.", "It.", "", (), "", f"s.jsonl:{number}", "", "")
    return told._replace(**others)


MANY = [
    *(a_seed(i) for i in range(10)),
    a_seed(10, domain="qa", keywords=("a", "b"), summary="One."),
    a_seed(11, domain="qa", keywords=("é",)),
    a_seed(12, response=""),
    *(a_seed(i, thoughts="Hm.", context='{"messages":[]}') for i in range(13, 15)),
]


SAID = ("id", "instruction", "response", "source")


@pytest.mark.parametrize("most", [1 << 20, 1], ids=["memory", "file"])
@pytest.mark.parametrize("batch", [4, 5, 100])
def test_seeds_are_the_same_in_memory_and_in_a_file(
    batch: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed_table, "BATCH", batch)
    monkeypatch.setattr(seed_table, "MOST_IN_MEMORY", most)
    seeds = Seeds(tmp_path / "run")
    for number, seed in enumerate(MANY):
        assert len(seeds) == number
        seeds.add(seed)
    records = [s.record for s in MANY]
    assert list(seeds) == records == [seeds[i] for i in range(len(MANY))] and seeds[-1] == records[-1]
    assert seeds[2:13:3] == records[2:13:3]
    assert list(seeds.texts()) == [(s.instruction, s.response) for s in MANY]
    assert list(seeds.ids()) == [s.id for s in MANY]
    assert (seeds.described, seeds.with_thoughts, seeds.with_context, seeds.unanswered) == (1, 2, 2, 1)
    with pytest.raises(IndexError):
        seeds[len(MANY)]
    assert not list(tmp_path.iterdir())  # the file has no name


def test_long_seeds_are_laid_out_by_their_text_and_are_in_memory_no_more_than_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed_table, "BATCH", 8)
    monkeypatch.setattr(seeds_reader, "BATCH", 8)
    monkeypatch.setattr(seed_table, "MOST_TEXT", 1000)
    monkeypatch.setattr(seed_table, "MOST_IN_MEMORY", 4000)
    seeds = Seeds(tmp_path)
    given = [a_seed(i, response="It." * 100, keywords=("a" * (i % 3),)) for i in range(21)]
    for seed in given:
        seeds.add(seed)
        rolled = seeds._file._rolled  # type: ignore[attr-defined]
        assert sum(len(s.response) for s in seeds._tail) < 1000 + len(seed.response)
        assert rolled or sum(size for _, size in seeds._batches) <= 4000
    assert rolled
    assert [seeds._starts[i] for i in range(4)] == [0, 3, 6, 8]
    records = [s.record for s in given]
    assert list(seeds) == records == [seeds[i] for i in range(21)]
    assert len(seeds) == 21
    write_records(tmp_path / "b", records)
    seeds.write(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()  # as if batches had been of `BATCH`


@pytest.mark.parametrize("most", [1, 150, 10_000])
def test_seeds_that_come_together_lie_as_if_one_by_one(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_table, "BATCH", 8)
    monkeypatch.setattr(seed_table, "MOST_TEXT", most)
    one, together = Seeds(), Seeds()
    told = [a_seed(i, response="It." * (i % 5)) for i in range(40)]
    for begin, end in ((0, 1), (1, 20), (20, 20), (20, 33), (33, 40)):
        for seed in told[begin:end]:
            one.add(seed)
        together.extend(*([getattr(s, name) for s in told[begin:end]] for name in SAID))
        assert (together._starts, together._tail, together._text) == (one._starts, one._tail, one._text)
        assert (together.digest, together.unanswered, list(together)) == (one.digest, one.unanswered, list(one))


def test_seeds_are_written_as_other_records_are(tmp_path: Path) -> None:
    for seeds, few in ((Seeds(), MANY[:12]), (Seeds(), MANY)):
        for seed in few:
            seeds.add(seed)
        both = len(few) == len(MANY)
        seeds.write(tmp_path / "a")
        write_records(tmp_path / "b", [s.record for s in few], thoughts=both, context=both)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        assert list(read_records(tmp_path / "a")) == list(seeds)


def test_digest_of_seeds_is_that_of_their_parts() -> None:
    def of(records: Sequence[Record]) -> str:
        import hashlib

        state = hashlib.blake2b(digest_size=16)
        for s in records:
            parts = [s.id, s.domain, list(s.keywords), s.summary, *([s.thoughts] if s.thoughts else [])]
            state.update(bytes.fromhex(digest(*parts)))
        return state.hexdigest()

    seeds = Seeds()
    for seed in MANY:
        seeds.add(seed)
    assert seeds.digest == of(list(seeds))


@given(st.lists(st.lists(st.integers(0, 3000), max_size=2000), max_size=5))
def test_first_seen_is_what_a_dict_says(batches: list[list[int]]) -> None:
    seen, first = FirstSeen(), dict[int, int]()
    for texts in batches:
        expected = [first.setdefault(text, len(seen) + i) for i, text in enumerate(texts)]
        # names that begin alike meet at one place of the table
        assert seen.add([(t % 7).to_bytes(8, "little") + t.to_bytes(8, "little") for t in texts]) == expected


def test_many_texts_make_room() -> None:
    seen = FirstSeen()
    names = [bytes.fromhex(digest(i)) for i in range(9000)]
    assert seen.add(names[:3000]) + seen.add(names[3000:]) == list(range(9000))
    assert seen.add(names[::-1]) == list(range(9000))[::-1] and len(seen) == 18_000


def test_places_of_several_files() -> None:
    places = Places()
    for file, line in (("a", 1), ("a", 3), ("b", 1), ("a", 9)):
        places.add(file, line)
    assert [places[i] for i in range(4)] == ["a:1", "a:3", "b:1", "a:9"]


NAMES = ("instruction", "input", "Output", "prompt", "response", "system", "id", "domain", "messages", "label", "other")
SPECIAL = re.compile("<s>|\\[INST\\]")
VALUES = st.one_of(
    st.sampled_from((None, 1, True, 0.5, "", " ", "\u00a0", "Add 2.", "[1]", "<noinput>", "\u200b", "<think>a")),
    st.text(max_size=5),
)


@settings(max_examples=60)
@given(
    st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES), max_size=4),
    st.sampled_from(({}, {"instruction": "other"}, {"input": ""}, {"response": "a.b"}, {"system": "system"})),
)
def test_plain_records_are_read_as_all_others(records: list[dict[str, Any]], fields: dict[str, str]) -> None:
    short, long = Layout(fields), Layout(fields)
    for record, pair in zip(records, plain.pairs(records * plain.FEW, short, 4, SPECIAL), strict=False):
        if pair:
            found = long.texts(record)
            assert (found.instruction, found.response) == pair
            assert (found.domain, found.keywords, found.summary, found.thoughts) == ("", (), "", "")
            assert found.context == "" and found.aside == ()
            for text in pair:
                check_text("text", text, 4, SPECIAL)
        for layout in (short, long):
            with suppress(Refused):
                layout.texts(record)
    assert (short.missing, short.read, bool(short.known)) == (long.missing, long.read, bool(long.known))


def test_plain_records_take_the_short_way() -> None:
    def read(*records: dict[str, Any]) -> list[tuple[str, str] | None]:
        return plain.pairs(records * plain.FEW, Layout({}), 40, SPECIAL)[: len(records)]

    assert read({"instruction": " Add.", "input": "", "output": "5", "id": 7}) == [("Add.", "5")]
    assert read(
        {"instruction": "Add.", "input": None, "output": "5"},
        {"instruction": "Add.", "input": "2 and 3", "output": "a < b"},
        {"instruction": "Add.", "input": "", "output": " "},
        {"question": "Why?", "answer": "é"},
    ) == [("Add.", "5"), ("Add.\n\n2 and 3", "a < b"), ("Add.", ""), ("Why?", "é")]
    others: list[dict[str, Any]] = [{"instruction": "Add.", "output": "5", "domain": "math"}, {}, {"input": [1]}]
    bad = [" ", "\0", "a" * 41, "\ud800", "a<s>b", "a\0b"]
    assert read(*others, *({"instruction": text, "output": "5"} for text in bad)) == [None] * 9
    for said in (*bad[1:], "<think>a</think>b", "Here is my thought process: a Here is my response: b"):
        record = {"instruction": "Add.", "output": said}
        assert read(record, {"instruction": "Add.", "output": "5"}) == [None, ("Add.", "5")]


ODD = (
    b'{"instruction": "Add %d.", "input": "", "output": "It is %d!"}',
    b'{"instruction": "Add.", "input": "2 and 3", "output": "5"}',
    b' {"instruction": "Say x-%d.", "input": null, "output": "f(%d) = 3"} ',
    b'{"output": "b\\u00e9 %d", "instruction": "\xc3\xa9t\xc3\xa9 %d"}',
    b'{"instruction": "add %d", "input": "<noinput>", "output": "it is %d"}',
    b'{"instruction": "A.", "output": "\\u0000%d", "id": %d}',
    b'{"instruction": "B \\ud83d%d.", "output": "%d"}',
    b'{"instruction": "C%d.", "output": "<think>a</think>%d"}',
    b'{"instruction": "D%d.", "output": "a <|im_end|>%d"}',
    b'{"instruction": %d, "output": 12345678901234567890.%d}',
    b'{"instruction": "E.", "output": {"nested": [%d, NaN, %d]}}',
    b'{"instruction": "F%d.", "output": 0.5, "score": 12345678901234567890%d}',
    b'{"instruction": "G%d.", "output": "", "domain": "math", "keywords": ["%d"]}',
    b'{"messages": [{"role": "user", "content": "H%d"}, {"role": "assistant", "content": "%d"}]}',
    b'{"instruction": "", "output": "%d%d"}',
    b"",
    b" \x0b{}",
    b"[1]",
    b"7",
    b'{"instruction": "cut',
    b'{"instruction": "\xff"}',
    b'{"instruction": "' + b"long " * 60 + b'"}',
)


@pytest.mark.parametrize("keep", ["keep", "reject"])
def test_a_file_is_the_same_line_by_line_and_in_blocks(
    keep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd lines between plain ones: the same seeds, rejects and counts, whichever way they are read."""
    draw = random.Random(7)
    lines = [draw.choice(ODD[:5] if draw.random() < 0.9 else ODD) for _ in range(1500)]
    lines = [b.replace(b"%d", b"%d" % draw.randrange(200), 1).replace(b"%d", b"3") for b in lines]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines[:700]))
    (tmp_path / "b.jsonl").write_bytes(b"\r\n".join(lines[700:]))
    monkeypatch.setattr("gra_hpc.sources.lines.LINE_BYTES", 256)
    monkeypatch.setattr(seeds_reader, "TOGETHER", 100)
    config = SeedsConfig(path=str(tmp_path), duplicates=keep)

    def read(path: Path) -> list[Any]:
        found = seeds_reader.load(config)
        found.seeds.write(path)
        return [path.read_bytes(), found.rejects, found.read, found.digest, found.aside, found.unread, found.reasons]

    quick = read(tmp_path / "quick")
    monkeypatch.setattr(seeds_reader, "TOGETHER", 7)  # blocks of one line
    monkeypatch.setattr(plain, "pairs", lambda values, *_: [None] * len(values))
    monkeypatch.setattr(screen, "compared", normal_form.compared)
    monkeypatch.setattr(
        Seeds,
        "extend",
        lambda seeds, *columns: [
            seeds.add(Seed(*given, "", (), "", source, "", "")) for *given, source in zip(*columns, strict=True)
        ],
    )
    assert quick == read(tmp_path / "slow")
    assert len(quick[-1]) == 8 + (keep == "reject") and quick[2] > 1400
