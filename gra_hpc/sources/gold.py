"""Gold questions (`method.gold`): records whose verdict is known, by which Reviewers are judged.

A file of one object a record, of any kind that seeds may have (JSON lines, JSON, CSV, TSV, Parquet):

    {"instruction": "...", "response": "...", "verdict": "keep"}         or "reject"; with "domain" if it has one

Every record must be usable, and both verdicts must occur: whoever says yes to everything is right about all that are to
be kept. The first that is wrong refuses the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from gra_hpc.config.directories import looked
from gra_hpc.errors import ConfigError, SeedError, nearest
from gra_hpc.records import digest
from gra_hpc.sources.files import SUFFIXES, excerpt, kind_of
from gra_hpc.sources.rows import Row, Source
from gra_hpc.sources.seeds import check_text, domain_name
from gra_hpc.sources.texts import Refused, has_content, text
from gra_hpc.terminal import several

KEEP, REJECT = "keep", "reject"
VERDICTS = (KEEP, REJECT)
MOST = 10_000
"""Records of one file: every worker holds them all."""


@dataclass(frozen=True, slots=True)
class Gold:
    """One gold question."""

    id: str
    """Digest of its texts."""
    instruction: str
    response: str
    keep: bool
    """The known verdict: whether it is good enough to be kept."""
    domain: str = ""
    """One of the method's; empty: of none in particular."""
    source: str = ""
    """`file:line`."""


def read(path: str, domains: Sequence[str], max_chars: int, special: re.Pattern[str]) -> list[Gold]:
    """The questions of a file, in the order of their ids; without a path none.

    Args:
        domains: the method's.
        max_chars: longest text.
        special: finds a special token of the committee's models, which could end a prompt early.

    Raises:
        ConfigError: no such file, another one, or records that cannot be used, by their lines, all at once.
    """
    if not path:
        return []
    file = Path(path).expanduser()
    if not file.is_file() or kind_of(file) not in SUFFIXES:
        found = f"no such file{looked(path)}" if not file.exists() else "not a file of records"
        raise ConfigError(f"method.gold={path}: {found}, expected one of {', '.join(SUFFIXES)}", "name another")
    questions: dict[str, Gold] = {}
    wrong: list[tuple[str, str]] = []
    try:
        for row in Source(str(file.absolute())):
            try:
                one = _question(row, domains, max_chars, special)
            except Refused as e:
                wrong.append((e.detail, f"{path}:{row.line}"))
                if len(wrong) >= MOST:
                    break
                continue
            if first := questions.get(one.id):
                same = "the same record" if first.keep == one.keep else "the same record with another verdict"
                wrong.append((f"{same} as {first.source}", f"{path}:{row.line}"))
            questions[one.id] = one
            if len(questions) > MOST:
                raise ConfigError(f"{path}: more than {MOST:,} records", "a few hundred are enough: give fewer")
    except SeedError as e:
        raise ConfigError(e.what, _THEN) from None
    if wrong:
        raise ConfigError(several(wrong), _THEN)
    for verdict in VERDICTS:
        if not any(q.keep == (verdict == KEEP) for q in questions.values()):
            raise ConfigError(
                f"{path}: no record with the verdict {verdict}: a Reviewer that always says the other would be right",
                "add some; as many of both say most",
            )
    return [questions[i] for i in sorted(questions)]


_THEN = 'each record needs "instruction", "response" and "verdict": "keep" or "reject"'


def _question(row: Row, domains: Sequence[str], max_chars: int, special: re.Pattern[str]) -> Gold:
    """Raises Refused with what is wrong."""
    if row.problem:
        raise Refused(row.problem.reason, f"{row.problem.reason}: {row.problem.detail}")
    if not isinstance(row.value, dict):
        raise Refused("not_an_object", f"a {type(row.value).__name__}, expected an object")
    texts = {name: text(row.value.get(name), name) for name in ("instruction", "response", "verdict", "domain")}
    for name in ("instruction", "response"):
        if not has_content(texts[name]):
            raise Refused("empty", f"has no {name}")
        check_text(name, texts[name], max_chars, special)
    if (verdict := texts["verdict"].casefold()) not in VERDICTS:
        said = excerpt(texts["verdict"], 40) or "nothing"
        raise Refused("verdict", f"verdict is {said}, expected {KEEP} or {REJECT}")
    domain = domain_name(texts["domain"], domains)
    if texts["domain"] and not domain:
        said = excerpt(texts["domain"], 40)
        raise Refused("domain", f"domain is {said}{nearest(said, domains)}, expected one of {', '.join(domains)}")
    id_ = digest("gold", texts["instruction"], texts["response"], size=8)
    keep, source = verdict == KEEP, f"{row.file}:{row.line}"
    return Gold(id_, texts["instruction"], texts["response"], keep, domain, source)


def digest_of(questions: Iterable[Gold]) -> str:
    """Digest of the questions, wherever their file lay and in whatever order."""
    return digest(sorted([q.id, q.keep, q.domain] for q in questions))


def lines_of(questions: Iterable[Gold]) -> bytes:
    """The questions as JSON lines, for the run's directory."""
    return b"".join(orjson.dumps(asdict(q)) + b"\n" for q in questions)


def parse(lines: bytes) -> list[Gold]:
    """Questions out of such lines.

    Raises:
        ValueError, TypeError: other lines.
    """
    names = {f.name for f in fields(Gold)}
    found: list[dict[str, Any]] = [orjson.loads(line) for line in lines.splitlines()]
    return [Gold(**{k: v for k, v in one.items() if k in names}) for one in found]
