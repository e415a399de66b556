"""From a model's answer to a value, tolerant of what small models wrap around it; strict about what is inside."""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Any

import orjson

from gra_hpc.records import CRITERIA, INSTRUCTION_CRITERIA
from gra_hpc.text import lists

_FENCE = re.compile(r"\A```[\w-]*\n(.*?)\n?```\s*\Z", re.S)
_THING = r"(?:task|instruction|prompt|question|keywords?|topic|summary)"
_WRAPPING = (
    # Only what speaks of the answer itself: a task may begin with "Here is a list of numbers:" or "Of course".
    re.compile(r"\A(?:sure|certainly|of course)(?:!|[,.]?(?=\s+here(?:'s| is| are)\b))\s*", re.I),
    re.compile(rf"\Ahere(?:'s| is| are)\b[^\n:]{{0,40}}\b{_THING}\b[^\n:]{{0,60}}:\s*", re.I),
    re.compile(r"\A[*_#\s]*(?:(?:new|the)\s+)?(?:task|instruction|keywords?|summary)\s*(?:[*_]+\s*)?:[*_]*\s*", re.I),
)
_AROUND = " \t.*_`\"'“”:-"
_MARKS = re.compile(r'[{}"\\]')
_PARSED = 8 << 20
"""Characters of an answer that are tried as JSON, all tries together."""
_QUOTES = {'"': '"', "“": "”", "'": "'", "«": "»", "„": "“”", "「": "」", "『": "』", "‹": "›", "»": "«"}
_LABEL = re.compile(r"\A[^\W\d_ ]+(?: [^\W\d_]+){0,3}\s*：\s*")
"""A word or two before a full-width colon, in whatever language: `关键词：`."""


class Unparsable(ValueError):
    """An answer without the value asked for; the message says what is wrong with it, in a few words."""


def text(answer: str) -> str:
    """Free text without a wrapping fence, label or quotes.

    Raises:
        Unparsable: when nothing is left.
    """
    out = verbatim(answer)
    if m := _FENCE.match(out):
        out = m.group(1).strip()
    for wrapping in _WRAPPING:
        out = wrapping.sub("", out, count=1).strip()
    if len(out) > 1 and out[-1] in _QUOTES.get(out[0], "\n") and not {out[0], out[-1]} & set(out[1:-1]):
        out = out[1:-1].strip()
    if not out:
        raise Unparsable("empty answer")
    return out


def verbatim(answer: str) -> str:
    """A response as it is, without outer white space.

    Raises:
        Unparsable: when nothing is left.
    """
    out = answer.strip()
    if not out:
        raise Unparsable("empty answer")
    return out


def keywords(answer: str, count: int, taken: Iterable[str] = ()) -> tuple[str, ...]:
    """The first `count` different keywords, in a list of any form (`lists.items`), that are not taken already.

    Raises:
        Unparsable: when there are fewer.
    """
    body = _LABEL.sub("", text(answer), count=1)
    seen = {fold(w) for w in taken}
    out: list[str] = []
    for part in lists.items(body):
        word = _bare(re.sub(r"\s+", " ", part))
        if not word or len(word) > 60 or _length(word) > 6 or fold(word) in seen:
            continue
        seen.add(fold(word))
        out.append(word)
    if len(out) < count:
        raise Unparsable(f"fewer than {count} new keywords")
    return tuple(out[:count])


def _bare(word: str) -> str:
    """A keyword without the punctuation around it; C# and C++ keep their own."""
    while word and (word[0] in _AROUND + "#" or (not word[0].isascii() and _is_mark(word[0]))):
        word = word[1:]
    while word and (word[-1] in _AROUND or (not word[-1].isascii() and _is_mark(word[-1]))):
        word = word[:-1]
    return word


def _is_mark(char: str) -> bool:
    return unicodedata.category(char).startswith(("P", "Z"))


def _length(word: str) -> int:
    """Words of a keyword; of a script with wide letters, which has no spaces, three letters or so are one."""
    return len(word.split()) + (_wide(word) // 3 if not word.isascii() else 0)


def _wide(text: str) -> int:
    """Letters that take two columns: Chinese, Japanese, Korean."""
    return sum(unicodedata.east_asian_width(c) in "WF" for c in text)


def fold(word: str) -> str:
    """A keyword for comparison."""
    return " ".join(word.casefold().split())


def summary(answer: str, words: int) -> str:
    """One line of at most so many words; in a script with wide letters, which has no spaces, three are one.

    Raises:
        Unparsable: when it is empty.
    """
    line = next((s.strip() for s in text(answer).splitlines() if s.strip()), "")
    if not line:
        raise Unparsable("empty answer")
    parts = line.split()
    short = " ".join(parts[:words])
    if not short.isascii() and 2 * _wide(short) > len(short):
        return short[: 3 * words]
    return short


def json_object(answer: str, keys: Iterable[str] = ()) -> dict[str, Any]:
    """The last JSON object in an answer that has one of the keys, also inside prose or a fence.

    Models draft, and write what they mean at the end. What stands within an object is no object of its own.

    Args:
        keys: those of which one is enough; none: the first object.

    Raises:
        Unparsable: when there is none.
    """
    try:
        found = [orjson.loads(answer)]
    except orjson.JSONDecodeError:
        found = []
    if not found or not isinstance(found[0], dict):
        found = list(_objects(answer)) if keys else [_first_object(answer)]
    objects = [value for value in found if isinstance(value, dict)]
    if not objects:
        raise Unparsable("no JSON object")
    wanted = frozenset(keys)
    return next((value for value in reversed(objects) if wanted & value.keys()), objects[0])


def _first_object(answer: str) -> Any:
    """What the first `{` encloses that is JSON, up to its own `}`; none if there is none."""
    return next(_objects(answer), None)


def _objects(answer: str) -> Iterator[Any]:
    """What each `{` encloses that is JSON, up to its own `}`, and stands in no other such.

    A brace inside quotes does not count, and whether there are quotes around it depends on where one begins to read: so
    each `{` has its own reading of what follows.
    """
    budget = max(_PARSED, len(answer))
    free = 0
    for start, end in _enclosed(answer):
        if start < free:
            continue
        budget -= end + 1 - start
        if budget < 0:
            return
        try:
            value = orjson.loads(answer[start : end + 1])
        except orjson.JSONDecodeError:
            continue
        free = end + 1
        yield value


class _Readings:
    """Readings of a text that are in the same state, by their depth: how many `{` of theirs are open."""

    def __init__(self) -> None:
        self.shift = 0
        self.heap: list[tuple[int, int]] = []
        """Depth less `shift`, and the place of the `{` where the reading began."""

    def take(self, other: _Readings) -> None:
        """Join the readings of another one; the smaller part moves."""
        if len(self.heap) < len(other.heap):
            self.shift, self.heap, other.shift, other.heap = other.shift, other.heap, self.shift, self.heap
        for depth, start in other.heap:
            heappush(self.heap, (depth + other.shift - self.shift, start))
        other.heap.clear()

    def open(self, start: int) -> None:
        """All are a brace deeper, and one more begins."""
        self.shift += 1
        heappush(self.heap, (1 - self.shift, start))

    def close(self) -> Iterator[int]:
        """All are a brace less deep; those that end."""
        self.shift -= 1
        while self.heap and self.heap[0][0] + self.shift == 0:
            yield heappop(self.heap)[1]


def _enclosed(text: str) -> Iterator[tuple[int, int]]:
    """Each `{` and the `}` that closes it in its own reading, in the order of the `{`. Time: n log n.

    Readings differ in their depth and in one of three states: outside quotes, inside, behind a backslash there.
    """
    outside, inside, escaped = _Readings(), _Readings(), _Readings()
    starts = deque[int]()
    ends: dict[int, int] = {}
    last = -1
    for m in _MARKS.finditer(text):
        at, mark = m.start(), m[0]
        if at > last + 1:  # what was behind the backslash is over
            inside.take(escaped)
        last = at
        if mark == "\\":
            inside, escaped = escaped, inside
        elif mark == '"':
            outside, inside = inside, outside
            inside.take(escaped)
        else:
            inside.take(escaped)
            if mark == "{":
                outside.open(at)
                starts.append(at)
            else:
                ends.update((start, at) for start in outside.close())
        while starts and starts[0] in ends:
            start = starts.popleft()
            yield start, ends.pop(start)
    for start in starts:
        if start in ends:
            yield start, ends[start]


def plain(value: Any) -> str:
    """A value of an answer where a text belongs.

    Raises:
        Unparsable: it is nested too deeply, or holds a NUL (JSON can write one that the answer does not show).
    """
    try:
        found = str(value)
    except RecursionError:
        raise Unparsable("nested too deeply") from None
    if "\0" in found:
        raise Unparsable("NUL character")
    return found


def scores(answer: str, criteria: Sequence[str], low: int, high: int) -> tuple[dict[str, int], str]:
    """Scores by criterion, and the comment.

    Raises:
        Unparsable: a criterion missing, one too many, or a score that is not an integer from low to high.
    """
    value = json_object(answer, (*criteria, "scores"))
    inner = value.get("scores")
    if isinstance(inner, list):  # the paper's own examples show lists, some of the wrong length
        if len(inner) != len(criteria):
            raise Unparsable(f"{len(inner)} scores where {len(criteria)} are needed")
        inner = dict(zip(criteria, inner, strict=True))
    given = inner if isinstance(inner, dict) else value
    out: dict[str, int] = {}
    for name in criteria:
        score = given.get(name)
        if isinstance(score, float) and score.is_integer():
            score = int(score)
        if isinstance(score, bool) or not isinstance(score, int) or not low <= score <= high:
            raise Unparsable(f"no integer score from {low} to {high} for {name}")
        out[name] = score
    extra = [
        k for k, v in given.items() if k not in criteria and isinstance(v, (int, float)) and not isinstance(v, bool)
    ]
    if extra:
        raise Unparsable(f"a score too many: {extra[0][:30]}")
    return out, plain(value.get("comment", "")).strip()


def instruction_scores(answer: str, criteria: Sequence[str] = INSTRUCTION_CRITERIA) -> tuple[dict[str, int], str]:
    """Scores of 0 or 1, and the comment."""
    return scores(answer, criteria, 0, 1)


def response_scores(answer: str, criteria: Sequence[str] = CRITERIA) -> tuple[dict[str, int], str]:
    """Scores from 1 to 10, and the comment."""
    return scores(answer, criteria, 1, 10)
