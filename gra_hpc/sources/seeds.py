"""Seeds: records of any layout brought into one form, each accepted or rejected by a stated rule.

Layouts recognised, by the names of a record's fields (upper or lower case):

    alpaca          instruction, input, output
    described       instruction, response, domain, keywords, summary
    self-instruct   instruction, instances: [{input, output}]    (the first instance counts)
    chat            messages or conversations, in the dialects of `dialects`
    pair            prompt, question, query, problem or input, with response, output, completion, answer or solution;
                    each may be messages
    preference      prompt, chosen, rejected: chosen is the response

each with system (also system_prompt, ...), history and tools. Any other: `seeds.fields`; what it leaves out is looked
for under the names above. A field that is null, as tables have it, is not there. Instruction and input (also `context`)
are joined as paragraphs. A record without a response is a seed too. What a record says of domain, keywords and summary
is kept where it is usable; the rest is left to round 0.

A record is carried whole: instruction and response are its last exchange, and all that stands before the response is
the seed's context, where it is more than the instruction. What is left aside (rejected answers and their like) is
counted by kind.

A record is rejected, with its line and the reason, when it is
    malformed, long_line, encoding   no JSON or CSV row; not UTF-8; holds a NUL
    not_an_object, unknown_layout    no fields; none of the fields above
    wrong_type                       a text that is a list, an object, a truth value; an instruction that is a number
    empty_instruction, empty_turn    nothing printable in it; in a turn before the last
    unknown_turn, not_text           a turn of a role that no dialect has; images, sound, files
    other_prompt, ends_with_call     an answer that begins with another prompt; no text at the end, but a tool's call
    oversized                        instruction, response or context longer than `seeds.max_chars`
    control_token                    a special token of one of the committee's models, as text: it might end a prompt
    thoughts                         a response that is thoughts without an end, or has marks of thoughts within it
    duplicate                        the same text as an earlier record, by the merge's rule (`text.normal_form`)

The thoughts that a response was made with are told apart from it: at its beginning in the marks of any family, in the
message's `reasoning_content` or `reasoning`, or in a field of one of these names. A seed's id is without them.
"""

from __future__ import annotations

import gc
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson

from gra_hpc.config.settings import SeedsConfig
from gra_hpc.conversation import shown
from gra_hpc.errors import SeedError
from gra_hpc.models import special_tokens
from gra_hpc.parquet import column, open_table, whole_table
from gra_hpc.records import CODING, DOMAINS, Record, optional_columns, record_schema, seed_id
from gra_hpc.sources import plain
from gra_hpc.sources.files import excerpt
from gra_hpc.sources.layouts import NOT_OBJECT, Layout, Texts
from gra_hpc.sources.rows import ENCODING, Row, Source
from gra_hpc.sources.seed_table import BATCH, Seed, Seeds
from gra_hpc.sources.texts import Refused
from gra_hpc.storage import whole_file

OVERSIZED, CONTROL_TOKEN, DUPLICATE = "oversized", "control_token", "duplicate"

SYNONYMS = {
    "coding": "code programming code_generation software software_engineering debugging python",
    "math": "maths mathematics mathematical arithmetic algebra geometry math_word_problems",
    "qa": "q_a question_answering open_qa closed_qa general_qa factual knowledge general_knowledge trivia",
    "reasoning": "logic logical_reasoning commonsense commonsense_reasoning causal_reasoning reasoning_tasks",
    "role_play": "roleplay role_playing roleplaying rp persona character",
    "language": "nlp translation summarization summarisation classification language_tasks rewriting editing",
    "creation": "creative creative_writing writing creative_generation story_writing content_creation brainstorming",
}
"""Other names of the domains, by domain."""

TOGETHER = 1000
"""Records whose texts are normalised together."""
SAY_S = 5.0
"""Seconds between two words about how far reading is."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is no seed."""

    file: str
    line: int
    """First line in a text file, else the record's number; both start at 1."""
    reason: str
    detail: str
    excerpt: str


@dataclass(frozen=True)
class SeedSet:
    """What was read. Every record is either a seed or a reject: `read == len(seeds) + len(rejects)`."""

    seeds: Seeds
    rejects: list[Reject]
    read: int
    """Records read."""
    digest: str
    """Digest of the seeds and their order; what was rejected, and where the seeds lay, does not count."""
    source: str
    """What was read, for people."""
    aside: dict[str, int] = field(default_factory=dict)
    """What was left aside, by its kind: in how many seeds' records; of files, how many."""
    unread: list[str] = field(default_factory=list)
    """Fields that nothing was read from."""

    @property
    def reasons(self) -> dict[str, int]:
        """Rejects by reason, the most frequent first."""
        return dict(Counter(r.reason for r in self.rejects).most_common())


def load(
    config: SeedsConfig,
    domains: Sequence[str] = DOMAINS,
    scratch: str = "",
    special: Callable[[], re.Pattern[str]] = lambda: special_tokens.COMMON,
    say: Callable[[str], object] = lambda _: None,
    beside: Path | None = None,
) -> SeedSet:
    """Read the seed dataset.

    Args:
        config: where it is, its field map, limits and rule for duplicates.
        domains: the names that `Record.domain` may have.
        scratch: `site.scratch`: a Hub dataset that was staged there is read without the network.
        special: gives what finds a special token of the committee's models (`special_tokens.pattern`). Asked once there
            is a record: of seeds that are not there it is told before of models that are not.
        say: told how far it is, now and then, where it takes long.
        beside: the run's directory, beside which lies what of the seeds is not kept in memory.

    Returns:
        All seeds and rejects, in the order of the source. There may be no seed among them.

    Raises:
        SeedError: nothing there, not readable at all, no record in it, or fields that no rule knows.
        OSError: no room for seeds beside the run.
    """
    with collections_paused():
        return _load(config, domains, scratch, special, say, Seeds(beside))


class Said(NamedTuple):
    """What a row says that may be a seed."""

    instruction: str
    response: str
    domain: str = ""
    """In the record's own words."""
    keywords: tuple[str, ...] = ()
    summary: str = ""
    thoughts: str = ""
    context: str = ""
    aside: tuple[str, ...] = ()


_NOTHING_ELSE = Said("", "")[2:]
_AS_SAID = cast(Callable[[Iterable[Any]], Said], partial(tuple.__new__, Said))
"""What a row says, of all fields, in a third of the time."""


def _load(
    config: SeedsConfig,
    domains: Sequence[str],
    scratch: str,
    special: Callable[[], re.Pattern[str]],
    say: Callable[[str], object],
    seeds: Seeds,
) -> SeedSet:
    layout = Layout(config.fields)
    ahead = 1 if config.limit else TOGETHER // 4
    source = Source(config.path, config.name, config.split, config.revision, layout.wanted, scratch, ahead)
    intake = _Intake(config, domains, seeds)
    aside = intake.aside
    marks, rows = None, iter(source)
    read, objects = 0, False
    due = time.monotonic() + SAY_S
    wanted = min(TOGETHER, config.limit or TOGETHER)
    while batch := list(islice(rows, wanted)):
        marks = marks or special()
        objects = objects or any(isinstance(row.value, dict) for row in batch)
        found = _all_said(batch, layout, config.max_chars, marks)
        read += len(batch)
        if read == TOGETHER and objects:
            layout.check(source, TOGETHER)
        if read % TOGETHER == 0 and time.monotonic() >= due:
            say(f"{source.label}: {read:,} records read")
            due = time.monotonic() + SAY_S
        intake.take(batch, found)
        # texts are normalised together, and nothing is read beyond what a limit needs
        wanted = TOGETHER - read % TOGETHER
        if config.limit and not (wanted := min(wanted, config.limit - len(seeds))):
            break
    if strange := intake.strange:
        named = ", ".join(excerpt(name)[:40] for name, _ in strange.most_common(3))
        aside[f"domains that are none of the method's ({named}{', ...' if len(strange) > 3 else ''})"] = strange.total()
    if source.other_splits:
        aside["files of other splits"] = len(source.other_splits)
    if not read:
        raise SeedError(f"{source.label}: no record in it", "check seeds.path")
    if objects:
        layout.check(source)
    told = dict(aside.most_common())
    return SeedSet(seeds, intake.rejects, read, seeds.digest, source.label, told, layout.unread(source))


class _Intake:
    """What becomes of rows, in their order: seeds and rejects."""

    def __init__(self, config: SeedsConfig, domains: Sequence[str], seeds: Seeds) -> None:
        from gra_hpc.sources.first_seen import FirstSeen, Places

        self.config, self.domains, self.seeds = config, domains, seeds
        self.rejects: list[Reject] = []
        self.aside: Counter[str] = Counter()
        self.strange: Counter[str] = Counter()
        """Domains that are none of the method's."""
        self._seen, self._places = FirstSeen(), Places()
        self._again: Counter[int] = Counter()
        """Seeds of the same text as an earlier one, by its number."""

    def take(self, rows: Sequence[Row], found: Sequence[Said | Refused]) -> None:
        """Further rows, and what each says."""
        number = len(self._seen)
        firsts = iter(self._seen.add(same_text([f for f in found if isinstance(f, Said)], self.domains)))
        together: list[tuple[Row, Said]] = []
        for row, said in zip(rows, found, strict=True):
            if not isinstance(said, Said):
                self.rejects.append(Reject(row.file, row.line, said.reason, said.detail, said.excerpt))
                continue
            first = next(firsts)
            if first == number and said[2:] == _NOTHING_ELSE and (not together or together[-1][0].file == row.file):
                together.append((row, said))
            else:
                self._add(together)
                together = []
                self._places.add(row.file, row.line)
                self._take(row, said, first, first != number)
            number += 1
        self._add(together)

    def _add(self, together: Sequence[tuple[Row, Said]]) -> None:
        """Seeds of one file, of which nothing is said but their texts, which are not those of earlier ones."""
        if together:
            rows, found = zip(*together, strict=True)
            lines, file = [row.line for row in rows], rows[0].file
            self._places.extend(file, lines)
            instructions, responses = [said.instruction for said in found], [said.response for said in found]
            ids = [seed_id(a, b, 0) for a, b in zip(instructions, responses, strict=True)]
            self.seeds.extend(ids, instructions, responses, [f"{file}:{line}" for line in lines])

    def _take(self, row: Row, said: Said, first: int, again: bool) -> None:
        times = 0
        if again:
            if self.config.duplicates == "reject":
                detail = f"same text as {self._places[first]}"
                self.rejects.append(Reject(row.file, row.line, DUPLICATE, detail, excerpt(said.instruction)))
                return
            self._again[first] += 1
            times = self._again[first]
        domain = ""
        if said.domain and not (domain := domain_name(said.domain, self.domains)):
            self.strange[said.domain] += 1
        id_ = seed_id(said.instruction, said.response, times, said.context)
        told = (said.keywords, said.summary, f"{row.file}:{row.line}", said.thoughts, said.context)
        self.seeds.add(Seed(id_, said.instruction, said.response, domain, *told))
        if said.aside:
            self.aside.update(dict.fromkeys(said.aside, 1))


@contextmanager
def collections_paused() -> Iterator[None]:
    """Without the collection of circles of garbage: millions of records that stay are looked through again and again,
    for nothing."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _all_said(rows: Sequence[Row], layout: Layout, max_chars: int, special: re.Pattern[str]) -> list[Said | Refused]:
    """What each row says, or why it is no seed, but for duplicates."""
    pairs = plain.pairs([row.value for row in rows], layout, max_chars, special)
    return [
        _AS_SAID((*pair, *_NOTHING_ELSE)) if pair else _said(row, layout, max_chars, special)
        for row, pair in zip(rows, pairs, strict=True)
    ]


def _said(row: Row, layout: Layout, max_chars: int, special: re.Pattern[str]) -> Said | Refused:
    """The same of one row."""
    try:
        found = accept(row, layout, max_chars, special)
    except Refused as e:
        return e
    described = (found.domain, found.keywords, found.summary)
    return Said(found.instruction, found.response, *described, found.thoughts, found.context, found.aside)


def accept(row: Row, layout: Layout, max_chars: int, special: re.Pattern[str]) -> Texts:
    """What a row says, if it may be a seed.

    Raises:
        Refused: by one of the rules, but for duplicates.
    """
    if row.problem:
        raise Refused(row.problem.reason, row.problem.detail, row.problem.excerpt)
    if not isinstance(row.value, dict):
        raise Refused(NOT_OBJECT, f"a {type(row.value).__name__}, expected an object", row.value)
    found = layout.texts(row.value)
    for name, value in found.named():
        if value:
            check_text(name, value, max_chars, special)
    if found.thoughts:
        check_text("thoughts", found.thoughts, len(found.thoughts), special)
    return found


def domain_name(value: object, domains: Sequence[str] = DOMAINS) -> str:
    """The domain that a word stands for (`Role Play`, `maths`), or nothing."""
    if not isinstance(value, str) or not value:
        return ""
    name = re.sub(r"[\W_]+", "_", value.casefold()).strip("_")
    if name in domains:
        return name
    return next((d for d, words in SYNONYMS.items() if name in words.split() and d in domains), "")


def check_text(name: str, value: str, max_chars: int, special: re.Pattern[str]) -> None:
    """Rules for one text.

    Raises:
        Refused: too long, not valid Unicode, or with a special token in it.
    """
    if len(value) > max_chars:
        raise Refused(OVERSIZED, f"{name} has {len(value)} characters, at most {max_chars}", value)
    if "\0" in value:
        raise Refused(ENCODING, f"NUL character in the {name}", value)
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise Refused(ENCODING, f"{name} is not valid UTF-8 at character {e.start + 1}", value) from None
    if match := special.search(value):
        raise Refused(CONTROL_TOKEN, f"{match[0]} in the {name}", value[max(0, match.start() - 40) :])


def same_text(found: Sequence[Said], domains: Sequence[str] = DOMAINS) -> list[bytes]:
    """What names the text of each record, by the merge's rule for the same text (`text.normal_form`): of context, or
    instruction, and response."""
    from gra_hpc.text.screen import compared
    from gra_hpc.text.words import text_digest

    coding = [bool(f.domain) and domain_name(f.domain, domains) == CODING for f in found]
    asked = [((shown(f.context) if f.context else "") or f.instruction).encode("utf-8", "replace") for f in found]
    answered = [f.response.encode() for f in found]
    texts = asked + answered
    # of punctuation alone nothing is left: such a text names itself
    names = [n or t for n, t in zip(compared(texts, coding * 2), texts, strict=True)]
    return list(map(text_digest, names[: len(found)], names[len(found) :]))


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """JSON lines: file, line, reason, detail, excerpt."""
    with whole_file(path) as file:
        for reject in rejects:
            file.write(orjson.dumps(reject, option=orjson.OPT_APPEND_NEWLINE))


def write_records(path: Path, records: Iterable[Record], thoughts: bool = False, context: bool = False) -> int:
    """A Parquet table of `records.record_schema`, whole or not at all, one batch in memory at a time.

    Args:
        thoughts: keep the records' thoughts.
        context: keep their contexts.

    Returns:
        Rows written.
    """
    import pyarrow as pa

    schema, rows, left = record_schema(thoughts, context), 0, iter(records)
    with whole_table(path, schema) as writer:
        while batch := list(islice(left, BATCH)):
            columns = [column([getattr(r, f.name) for r in batch], f.type) for f in schema]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            rows += len(batch)
    return rows


def read_records(path: Path) -> Iterator[Record]:
    """Records of such a table, one batch in memory at a time.

    Raises:
        ReleaseError: no such file, damaged, or another table.
    """
    with open_table(path, schema=record_schema(), optional=optional_columns()) as table:
        for batch in table.iter_batches(BATCH):
            for row in batch.to_pylist():
                row["keywords"] = tuple(row["keywords"] or ())
                yield Record(**row)
