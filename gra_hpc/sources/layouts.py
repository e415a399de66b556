"""Layouts of records: which field holds what. What the fields say together is read by `conversations`."""

from __future__ import annotations

import difflib
import functools
import re
from dataclasses import dataclass
from typing import Any

from gra_hpc.conversation import Message, json_text, pack
from gra_hpc.errors import SeedError, nearest
from gra_hpc.sources import conversations, dialects
from gra_hpc.sources.conversations import Conversation
from gra_hpc.sources.dialects import Turn
from gra_hpc.sources.files import excerpt
from gra_hpc.sources.rows import Source
from gra_hpc.sources.texts import EMPTY, Refused, has_content, is_absent, paragraphs, says_nothing
from gra_hpc.text import lists

NOT_OBJECT, UNKNOWN_LAYOUT, ENDS_WITH_CALL = "not_an_object", "unknown_layout", "ends_with_call"

TARGETS: dict[str, tuple[str, ...]] = {
    "instruction": ("instruction", "prompt", "question", "query", "problem", "input"),
    "input": ("input", "context"),
    "response": ("response", "output", "completion", "answer", "solution", "chosen"),
    "messages": ("messages", "conversations", "conversation"),
    "instances": ("instances",),
    "system": ("system", "system_prompt", "system_message", "instructions"),
    "history": ("history",),
    "tools": ("tools", "functions"),
    "rejected": ("rejected",),
    "label": ("label",),
    "media": dialects.MEDIA,
    "domain": ("domain",),
    "keywords": ("keywords",),
    "summary": ("summary",),
    "thoughts": dialects.THINKING,
}
"""Names of source fields by what they hold; the first that holds something counts."""

MAPPABLE = tuple(t for t in TARGETS if t not in ("instances", "label"))
"""Keys of `seeds.fields`."""

ASKED = ("instruction", "input", "messages", "instances")
"""Targets that hold what is asked."""
MAX_KEYWORDS = 10
SHAPES = 4096
"""Kinds of plain records that are told by their fields at once."""
ABSENT, BLANK, TEXT, OTHER = range(4)
"""What a field of a plain record may hold."""
_NO_TEXT = re.compile(
    r"#|.*\bid|.*[_-](?:id|idx|no|nr)|(?-i:[a-z]+Id)|u?uid|guid|idx|index|nr|no|num(?:ber)?|row|key|unnamed:? *\d*|"
    r"(?:.*_)?(?:label|score|rating|split|source|url|lang(?:uage)?|date|time(?:stamp)?|category|type)",
    re.IGNORECASE,
)
"""Names of fields that hold no texts: identifiers, numbers and what else is said of a record in a word."""
_KINDS = {type(None): ABSENT, int: OTHER, bool: OTHER}
_PLAIN = {"instruction", "input", "response"}


@dataclass(frozen=True, slots=True)
class Texts:
    """What a record says, before the rules of `seeds` are applied."""

    instruction: str
    """What the user said last."""
    response: str
    """What the assistant said to it at the end; empty: nothing."""
    domain: str
    keywords: tuple[str, ...]
    summary: str
    thoughts: str = ""
    """What the response was thought out with."""
    before: tuple[Message, ...] = ()
    """The turns before the response."""
    tools: tuple[dict[str, Any], ...] = ()
    aside: tuple[str, ...] = ()
    """Kinds of things in the record that were left aside."""

    def named(self) -> list[tuple[str, str]]:
        """The texts that models get to see, by name."""
        out = [("instruction", self.instruction), ("response", self.response)]
        if self.summary:
            out.append(("summary", self.summary))
        if self.keywords:
            out.append(("keywords", ", ".join(self.keywords)))
        if self.tools or len(self.before) > 1:
            said = [m["content"] for m in self.before]
            called = [json_text(m["tool_calls"]) for m in self.before if "tool_calls" in m]
            out.append(("context", paragraphs(*said, *called, json_text(self.tools) if self.tools else "")))
        return out

    @property
    def context(self) -> str:
        """As `conversation.pack` makes it."""
        return pack(self.before, self.tools)


class Layout:
    """Which field of a record holds what.

    Args:
        fields: the user's map, from what a field holds to its name. Dots lead into nested objects; an empty name
            means that no field holds it.

    Raises:
        SeedError: a key that is not one of `MAPPABLE`.
    """

    def __init__(self, fields: dict[str, str]) -> None:
        for target in fields:
            if target not in MAPPABLE:
                raise SeedError(
                    f"seeds.fields.{target}: unknown key{nearest(str(target), MAPPABLE)}",
                    f"valid here: {', '.join(MAPPABLE)}",
                )
        if "instruction" in fields and "messages" in fields:
            raise SeedError("seeds.fields: instruction and messages are both given", "leave one of them out")
        self.fields = dict(fields)
        self.missing = {target: name for target, name in fields.items() if name}
        """Mapped fields that no record has had so far."""
        self.known = 0
        """Records with a field that could hold an instruction; of plain ones at least one."""
        self.read: set[str] = set()
        """Fields that some record was read from."""
        self._resolve = functools.lru_cache(maxsize=1024)(self._resolved)
        self._plain: dict[tuple[str | int | None, ...], tuple[str, str, str] | None] = {}
        """Fields of instruction, input and response, by a record's fields and the kind of what each holds; none: it
        may say more."""

    @property
    def wanted(self) -> set[str]:
        """Names of all fields that may be looked at."""
        names = {name for options in TARGETS.values() for name in options}
        return names | set(self.fields.values()) | {name.split(".")[0] for name in self.fields.values()}

    def _resolved(self, there: frozenset[str], full: frozenset[str]) -> dict[str, str]:
        """Source fields by target.

        Args:
            there: keys of a record with a value.
            full: those of them whose value is not blank.
        """
        by_name = {k.casefold(): k for k in sorted(there, reverse=True) if isinstance(k, str)}

        def first(*names: str) -> str | None:
            known = [by_name[n] for n in names if n in by_name]
            return next((k for k in known if k in full), known[0] if known else None)

        found = {target: name for target, names in TARGETS.items() if (name := first(*names))}
        *better, last = TARGETS["instruction"]
        if asked := first(*better) or first(last):  # a blank instruction is not made good by its input
            found["instruction"] = asked
        if "instruction" in self.fields or "messages" in self.fields:
            found = {t: n for t, n in found.items() if t not in ("instruction", "messages", "instances")}
        elif "messages" in found and "instruction" in found:
            if found["messages"] not in full and found["instruction"] in full:
                del found["messages"]
            elif found["instruction"] not in full or found["instruction"].casefold() != "instruction":
                # `prompt` beside messages only repeats them
                found = {t: n for t, n in found.items() if t not in ("instruction", "input", "instances")}
        found = {target: name for target, name in (found | self.fields).items() if name}
        if "input" in found and found["input"] in (found.get("instruction"), found.get("response")):
            del found["input"]
        if "response" in found and found["response"] == found.get("instruction"):
            del found["response"]
        return found

    def values(self, record: dict[str, Any]) -> dict[str, Any]:
        """What a record's fields hold, by target.

        Raises:
            Refused: no field that could hold what is asked.
        """
        there = frozenset([k for k, v in record.items() if type(v) is str or not is_absent(v)])
        full = frozenset([k for k in there if (v.strip() if type(v := record[k]) is str else not says_nothing(v))])
        places = self._resolve(there, full)
        if not _asks(places, record) and len(there) < len(record):
            places = self._resolve(frozenset(record), full)
        if not _asks(places, record):
            raise Refused(UNKNOWN_LAYOUT, f"fields: {excerpt(', '.join(map(str, record)))}", record)
        self.known += 1
        self.read.update(places.values())
        return {target: self._value(record, target, name) for target, name in places.items()}

    def plain_places(self, fields: tuple[str, ...], kinds: tuple[int | None, ...]) -> tuple[str, str, str] | None:
        """Fields of instruction, input (or "") and response (or "") of a record of texts that says nothing else.

        Args:
            fields: the record's.
            kinds: of what each holds (`kind_of`).
        """
        if None in kinds:
            return None
        shape = (*fields, *kinds)
        if shape not in self._plain:
            if len(self._plain) == SHAPES:
                return None
            self._plain[shape] = self._plain_fields(dict(zip(fields, kinds, strict=True)))
        if (names := self._plain[shape]) is not None:
            self.known += 1
        return names

    def _plain_fields(self, kinds: dict[str, int | None]) -> tuple[str, str, str] | None:
        """Fields of instruction, input (or "") and response (or ""), by the kind of what each field holds."""
        there = frozenset(k for k, kind in kinds.items() if kind != ABSENT)
        places = self._resolve(there, frozenset(k for k in there if kinds[k] != BLANK))
        texts = all(kinds.get(name) in (BLANK, TEXT) for name in places.values())
        if not texts or "instruction" not in places or not places.keys() <= _PLAIN:
            return None
        for target in places:
            self.missing.pop(target, None)
        self.read.update(places.values())
        return places["instruction"], places.get("input", ""), places.get("response", "")

    def conversation(self, record: dict[str, Any]) -> Conversation:
        """A record as a whole conversation.

        Raises:
            Refused: by one of the rules of `conversations`.
        """
        return conversations.read(self.values(record))

    def texts(self, record: dict[str, Any]) -> Texts:
        """The texts of a record.

        Raises:
            Refused: by one of the rules of `conversations`; nothing is asked; it ends with a call of a tool.
        """
        values = self.values(record)
        if plain := conversations.read_plain(values):
            said, answered = plain
            return Texts(said, answered, *_described(values), before=({"role": "user", "content": said},))
        found = conversations.read(values)
        before, answer = found.turns, Turn("assistant", "")
        if before[-1].role == "assistant":
            *before, answer = before
        if answer.calls:
            raise Refused(ENDS_WITH_CALL, f"ends with a call of {answer.calls[0][1]}, and a response is text", record)
        asked = next((t.content for t in reversed(before) if t.role == "user"), "")
        if not has_content(asked):
            raise Refused(EMPTY, "no message of the user before the response", record)
        return Texts(
            asked,
            answer.content,
            *_described(values),
            answer.thoughts,
            tuple(t.message for t in before),
            tuple(found.tools),
            tuple(found.aside),
        )

    def _value(self, record: dict[str, Any], target: str, name: str) -> Any:
        value: Any = record
        if name in record:
            value = record[name]
        else:
            for part in name.split("."):
                if not isinstance(value, dict) or part not in value:
                    return None
                value = value[part]
        self.missing.pop(target, None)
        return value

    def unread(self, source: Source) -> list[str]:
        """Fields of a source that nothing was read from."""
        read = self.read | {name.split(".")[0] for name in self.read}
        return [c for c in map(str, source.columns) if c not in read]

    def check(self, source: Source, first: int = 0) -> None:
        """Refuse a dataset in which no record has the fields needed.

        Args:
            first: only so many of its records have been read: what few records have may still come.

        Raises:
            SeedError: with the columns found and what to type.
        """
        columns = [str(c) for c in source.columns]
        found = f"found: {excerpt(', '.join(columns), 300)}"
        which = f"none of the first {first} records" if first else "no record"
        for target, name in self.missing.items():
            if first and target not in (*ASKED, "response"):
                continue
            raise SeedError(
                f"{source.label}: {which} has the field {name} of seeds.fields.{target}; {found}",
                f"for example: seeds.fields.{target}={self._instead(target, name, columns)}",
            )
        if not self.known:
            raise SeedError(
                f"{source.label}: {'no known layout' if not first else which + ' is of a known layout'}; {found}",
                f"say which field holds what, for example: {_guess(columns)}",
            )

    def _instead(self, target: str, name: str, columns: list[str]) -> str:
        """The field that may be meant by one that is not there: of the target's own names, then of a similar name; none
        that another target has taken."""
        taken = {n for t, n in self.fields.items() if t != target}
        free = [c for c in columns if c not in taken]
        own = (c for known in TARGETS[target] for c in free if c.casefold() == known)
        similar = difflib.get_close_matches(name, free, n=1, cutoff=0.0)
        return next(own, similar[0] if similar else "FIELD")


def kind_of(value: object) -> int | None:
    """What a field holds, if it may be one of a plain record."""
    if type(value) is str:
        return BLANK if not value or value.isspace() else TEXT
    return _KINDS.get(type(value))


def _guess(columns: list[str]) -> str:
    """A field map for fields of unknown names: the first that may be texts, in their order."""
    named = {name for names in TARGETS.values() for name in names}
    texts = [c for c in columns if not _NO_TEXT.fullmatch(c) and c.casefold() not in named]
    wanted = ["instruction"]
    if not any(c.casefold() in TARGETS["response"] for c in columns):
        wanted.append("response")
    pairs = zip(wanted, texts or ["FIELD"], strict=False)
    return " ".join(f"seeds.fields.{target}={name}" for target, name in pairs)


def _described(values: dict[str, Any]) -> tuple[str, tuple[str, ...], str]:
    """What a record says of its domain, keywords and summary."""
    domain, summary = values.get("domain"), values.get("summary")
    return (
        domain if isinstance(domain, str) else "",
        keywords(values.get("keywords")),
        summary.strip() if isinstance(summary, str) else "",
    )


def _asks(places: dict[str, str], record: dict[str, Any]) -> bool:
    """Whether a record has a field that could hold what is asked; an answer may hold the whole conversation."""
    return bool({"instruction", "messages"} & set(places)) or dialects.is_conversation(
        record.get(places.get("response", ""))
    )


def keywords(value: object) -> tuple[str, ...]:
    """Keywords out of a list, or a text with commas of any script; of any other type: none."""
    if isinstance(value, str):
        value = lists.split(value)
    if not isinstance(value, (list, tuple)):
        return ()
    words: dict[str, str] = {}
    for word in value:
        if isinstance(word, str) and has_content(word):
            words.setdefault(word.strip().casefold(), word.strip())
    return tuple(words.values())[:MAX_KEYWORDS]
