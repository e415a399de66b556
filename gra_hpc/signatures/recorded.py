"""What a manifest says of a table of signatures, and whether it still holds. Light: who looks at a run imports it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra_hpc.errors import ReleaseError
from gra_hpc.foreign import fits
from gra_hpc.storage import checked


@dataclass(frozen=True)
class SignedTable:
    """What a manifest says of one."""

    rows: int
    bytes: int
    sha256: str
    of: str
    """SHA-256 of the table whose rows are signed."""
    parts: dict[str, str]
    """What it holds, each with the digest of its rule (`signing.Rule.parts`)."""

    @classmethod
    def from_entry(cls, entry: Any) -> SignedTable:
        """Raises ValueError: which key is not as it must be."""
        if not isinstance(entry, dict):
            raise ValueError("signatures is no object")
        hints = {"rows": int, "bytes": int, "sha256": str, "of": str, "parts": dict[str, str]}
        for key, hint in hints.items():
            if not fits(entry.get(key), hint):
                raise ValueError(f"signatures.{key} is {ascii(entry.get(key))[:60]}, expected another type")
        return cls(**{key: entry[key] for key in hints})

    def at(self, path: Path, rows: int, of: str, then: str) -> Signed | None:
        """The table, as it was written; none if it is not there, or is of another table.

        Raises:
            ReleaseError: it has changed since.
        """
        if self.of != of or not path.is_file():
            return None
        checked(path, {"bytes": self.bytes, "sha256": self.sha256}, then)
        if self.rows != rows:
            raise ReleaseError(f"{path}: of {self.rows} rows, its table has {rows}", then)
        return Signed(str(path), self.parts)


@dataclass(frozen=True)
class Signed:
    """Signatures that were made before."""

    path: str
    parts: dict[str, str]
    """As in `SignedTable`."""

    def holds(self, parts: dict[str, str]) -> set[str]:
        """Which parts of a rule it holds, made as the rule says."""
        return {name for name, made_by in parts.items() if self.parts.get(name) == made_by}
