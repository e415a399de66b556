"""What is said of seeds of which most records were rejected: how many for which reason, and what mends the first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gra_hpc.sources import mistaken
from gra_hpc.sources.files import find_file
from gra_hpc.sources.layouts import NOT_OBJECT, UNKNOWN_LAYOUT
from gra_hpc.sources.rows import ENCODING, MALFORMED
from gra_hpc.terminal import shown


def counts(reasons: Mapping[str, int]) -> str:
    """`29 encoding, 1 duplicate`: the most frequent first."""
    return ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items(), key=lambda pair: -pair[1]))


def most(seeds: int, reasons: Mapping[str, int]) -> str:
    """That most records were rejected, and why; empty: most are seeds."""
    rejected = sum(reasons.values())
    return f"{rejected} of {seeds + rejected} records rejected ({counts(reasons)})" if rejected > seeds else ""


def remedy(path: str, reasons: Mapping[str, int], otherwise: str) -> str:
    """What mends the most frequent reason.

    Args:
        path: `seeds.path`.
        otherwise: what to do about a reason that has no remedy of its own.
    """
    first = max(reasons, key=lambda reason: reasons[reason])
    if first in (MALFORMED, NOT_OBJECT) and (other := mistaken.remedy(path)):
        return other
    if first == ENCODING:
        file = find_file(path)
        suffix = Path(path).suffix if file and file.is_file() else ".jsonl"
        name = shown(str(file)) if file and file.is_file() else "FILE"
        return (
            f"if they are in Latin-1, as Excel and old exports write it: iconv -f WINDOWS-1252 -t UTF-8 {name} >"
            f" new{suffix}, then seeds.path=new{suffix}"
        )
    own = {
        UNKNOWN_LAYOUT: "say which field holds what: seeds.fields.instruction=FIELD seeds.fields.response=FIELD",
        "oversized": "longer ones are taken with seeds.max_chars=N",
        "duplicate": "they are kept with seeds.duplicates=keep",
    }
    return own.get(first, otherwise)
