"""A shard's manifest, read back: what the sweep and the merge rest on is checked here, before anything is done."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from gra_hpc.errors import ReleaseError
from gra_hpc.records import COUNTS
from gra_hpc.run.directory import ATTEMPT_NAME, ShardDir
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import made_again
from gra_hpc.signatures.recorded import SignedTable
from gra_hpc.storage import checked, read_regular, unsealed

FORMAT = 1


class GoldAnswer(NamedTuple):
    """What a Reviewer said of a gold question (`run/gold.py`)."""

    question: str
    member: str
    points: int | None
    """Its scores added up; none where it had no answer that can be used."""


@dataclass(frozen=True)
class ShardManifest:
    """What a manifest says, every value of the type it must have."""

    fingerprint: str
    round: int
    shard: int
    attempt: str
    """The one that published: its tables count, and are named after it."""
    attempts: tuple[str, ...]
    """All attempts that it saw."""
    rows: int
    """Of the samples table, as `bytes` and `sha256`."""
    bytes: int
    sha256: str
    calls: dict[str, Any] | None
    """Bytes and SHA-256 of the calls table."""
    signatures: SignedTable | None
    """Of the accepted samples' texts; none: the merge makes them."""
    ledger: Ledger
    basis: str
    """What it rests on (`merged.basis_of`)."""
    digest: str
    """Hex SHA-256 of the manifest itself."""
    gold: tuple[GoldAnswer, ...] = ()
    """Answers to gold questions."""

    @classmethod
    def load(cls, shard: ShardDir, criteria: int = 0) -> ShardManifest:
        """The manifest of a published shard.

        Args:
            criteria: that the run's responses are scored by, where its answers to gold questions are counted.

        Raises:
            ReleaseError: it cannot be read, or is no manifest of a shard: which key, what is there, what was expected.
        """
        where = shard.manifest
        try:
            raw = read_regular(where)
        except OSError as e:
            raise ReleaseError(f"{where}: {e.strerror}", made_again(shard)) from None
        try:
            found = orjson.loads(raw)
            manifest = _checked(found, hashlib.sha256(raw).hexdigest(), criteria)
            unsealed(found)
            return manifest
        except (ValueError, TypeError) as e:  # TypeError: nested more deeply than any of ours
            raise ReleaseError(f"{where}: not a shard manifest ({e})", made_again(shard)) from None

    def samples_table(self, shard: ShardDir) -> Path:
        """The samples table, as it was published.

        Raises:
            ReleaseError: it is not.
        """
        return checked(
            shard.samples(self.attempt), {"bytes": self.bytes, "sha256": self.sha256}, lambda: made_again(shard)
        )

    def calls_table(self, shard: ShardDir) -> Path:
        """The calls table, as it was published.

        Raises:
            ReleaseError: it is not.
        """
        path = shard.calls(self.attempt)
        return checked(path, self.calls, lambda: made_again(shard)) if self.calls is not None else path

    def tables(self, shard: ShardDir) -> set[str]:
        """Names of the tables that attempts at this shard may have left beside the manifest, the counted ones among
        them. Any other table there is somebody else's."""
        try:
            there = [p.name for p in shard.attempts.iterdir()]
        except OSError:  # swept
            there = []
        known = {self.attempt, *self.attempts, *there}
        return {f.name for a in known for f in shard.tables(a)}


def _checked(data: Any, digest: str, criteria: int) -> ShardManifest:
    """Raises ValueError with the first key that is not as it must be."""
    top = _object(data, "it")
    if top.get("format", FORMAT) != FORMAT:
        raise ValueError(f"format is {_shown(top['format'])}, this version reads {FORMAT}")
    attempt = _name(top.get("attempt"), "attempt")
    rows, size, sha256 = _table(top.get("samples"), "samples", attempt)
    calls = None
    if top.get("calls") is not None:
        _, calls_size, calls_sha256 = _table(top["calls"], "calls", attempt)
        calls = {"bytes": calls_size, "sha256": calls_sha256}
    others = top.get("attempts", [])
    if not isinstance(others, list):
        raise ValueError(f"attempts is {_shown(others)}, expected a list")
    return ShardManifest(
        fingerprint=_text(top.get("fingerprint"), "fingerprint"),
        round=_count(top.get("round"), "round"),
        shard=_count(top.get("shard"), "shard"),
        attempt=attempt,
        attempts=tuple(_name(_object(a, "attempts[]").get("attempt"), "attempts[].attempt") for a in others),
        rows=rows,
        bytes=size,
        sha256=sha256,
        calls=calls,
        signatures=SignedTable.from_entry(top["signatures"]) if top.get("signatures") is not None else None,
        ledger=_ledger(_object(top.get("ledger"), "ledger")),
        basis=_text(top.get("basis", ""), "basis"),
        digest=digest,
        gold=gold_answers(top, criteria),
    )


def _table(data: Any, key: str, attempt: str) -> tuple[int, int, str]:
    """Rows, bytes and digest of a table, which carries the attempt's name."""
    entry, expected = _object(data, key), f"{key}-{attempt}.parquet"
    if entry.get("file") != expected:
        raise ValueError(f"{key}.file is {_shown(entry.get('file'))}, expected {expected!r}")
    rows, size = (_count(entry.get(k), f"{key}.{k}") for k in ("rows", "bytes"))
    return rows, size, _text(entry.get("sha256"), f"{key}.sha256")


def gold_answers(manifest: dict[str, Any], criteria: int) -> tuple[GoldAnswer, ...]:
    """The answers to gold questions of a shard's manifest.

    Args:
        criteria: that the run's responses are scored by, 1 to 10 each; 0: that is not known here, as many as any run's.

    Raises:
        ValueError: it has others than answers there.
    """
    found = manifest.get("gold", [])
    few, many = (criteria, criteria) if criteria else (COUNTS[0], COUNTS[-1])
    points = range(few, 10 * many + 1)
    if not isinstance(found, list):
        raise ValueError(f"gold is {_shown(found)}, expected a list")
    for entry in found:
        texts = isinstance(entry, list) and len(entry) == 3 and all(isinstance(e, str) for e in entry[:2])
        if not texts or not (entry[2] is None or (type(entry[2]) is int and entry[2] in points)):
            raise ValueError(
                f"gold[] is {_shown(entry)}, expected a question, a member and {points[0]} to {points[-1]} points"
            )
    return tuple(GoldAnswer(*entry) for entry in found)


def _ledger(books: dict[str, Any]) -> Ledger:
    planned, accepted, pending = (_count(books.get(k), f"ledger.{k}") for k in ("planned", "accepted", "pending"))
    rejected, failed = (_counts(books.get(k), f"ledger.{k}") for k in ("rejected", "failed"))
    return Ledger(planned, accepted, rejected, failed, pending)


def _counts(value: Any, name: str) -> dict[str, int]:
    return {key: _count(n, f"{name}[{_shown(key)}]") for key, n in _object(value, name).items()}


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {_shown(value)}, expected an object")
    return value


def _count(value: Any, name: str) -> int:
    if type(value) is not int or value < 0:  # `true` is an int of Python's
        raise ValueError(f"{name} is {_shown(value)}, expected a count")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_shown(value)}, expected a text")
    return value


def _name(value: Any, name: str) -> str:
    if not isinstance(value, str) or not ATTEMPT_NAME.fullmatch(value):
        raise ValueError(f"{name} is {_shown(value)}, expected an attempt's name")
    return value


def _shown(value: Any) -> str:
    """A value for one line."""
    text = "nothing" if value is None else ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
