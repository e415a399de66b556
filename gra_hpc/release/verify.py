"""Check a release against its own manifest: every digest, the tables' rows and schemas, ids, splits, ledger, card."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gra_hpc import storage
from gra_hpc.errors import GraError, StorageError
from gra_hpc.ledger import Ledger
from gra_hpc.release import card
from gra_hpc.release.manifest import FORMAT, NAME
from gra_hpc.release.schema import OUTCOMES, data_schema, rejects_schema
from gra_hpc.release.shuffle import keys_of

if TYPE_CHECKING:
    import numpy as np

REQUIRED = (card.NAME, "run.yaml", "report.html")
_TABLE = re.compile(r"(data|rejects)/([a-z]+)-(\d{5})-of-(\d{5})\.parquet")
_IGNORED = (".git", ".gitattributes", ".cache")
"""What a download from the Hub or a clone adds."""


def verify(release: Path) -> list[str]:
    """Problems of a release directory, one line each; none if it is what its manifest says."""
    try:
        manifest = storage.read_json(release / NAME)
        files: dict[str, dict[str, Any]] = manifest["files"]
        if manifest["format"] != FORMAT:
            return [f"{NAME}: format {manifest['format']}, this version reads {FORMAT}"]
    except (OSError, StorageError, KeyError, TypeError) as e:
        return [f"{release / NAME}: no manifest of a release ({e})"]
    problems = [f"{name}: not in the manifest" for name in _present(release) if name not in {*files, NAME}]
    problems += [f"{name}: not in the release" for name in REQUIRED if name not in files]
    sound = []
    for name, entry in sorted(files.items()):
        found = _file(release / name, name, entry)
        problems += found
        if not found and _TABLE.fullmatch(name):
            sound.append(name)
    try:
        problems += _tables(release, manifest, sound)
        problems += _books(manifest)
        problems += _card(release, manifest)
    except (KeyError, TypeError, ValueError, GraError) as e:
        problems.append(f"{NAME}: not as it should be ({type(e).__name__}: {e})")
    return problems


def _present(release: Path) -> list[str]:
    names = (p.relative_to(release) for p in sorted(release.rglob("*")) if not p.is_dir() or p.is_symlink())
    return [n.as_posix() for n in names if n.parts[0] not in _IGNORED]


def _file(path: Path, name: str, entry: dict[str, Any]) -> list[str]:
    """Whether one file is what the manifest says."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return [f"{name}: outside the release"]
    try:
        if path.stat().st_size != entry["bytes"]:
            return [f"{name}: {path.stat().st_size} bytes, the manifest says {entry['bytes']}"]
        if storage.sha256(path) != entry["sha256"]:
            return [f"{name}: content changed (SHA-256 is not the manifest's)"]
    except FileNotFoundError:
        return [f"{name}: missing"]
    except OSError as e:
        return [f"{name}: {e.strerror}"]
    return []


def _tables(release: Path, manifest: dict[str, Any], names: list[str]) -> list[str]:
    """Schemas, rows, ids and splits of the tables whose digests are right."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    problems: list[str] = []
    rows: dict[str, int] = {}
    ids: list[np.ndarray] = []
    seeds: dict[str, list[np.ndarray]] = {}
    for name in names:
        match = _TABLE.fullmatch(name)
        assert match
        folder, part = match[1], match[2]
        try:
            with pq.ParquetFile(release / name) as file:
                schema = data_schema() if folder == "data" else rejects_schema()
                if not file.schema_arrow.equals(schema):
                    problems.append(f"{name}: other columns than a release of format {FORMAT} has")
                    continue
                if file.metadata.num_rows != manifest["files"][name].get("rows"):
                    problems.append(f"{name}: {file.metadata.num_rows} rows, the manifest says otherwise")
                rows[part] = rows.get(part, 0) + file.metadata.num_rows
                for batch in file.iter_batches(65_536, columns=["id", "seed_id"]):
                    ids.append(keys_of(batch["id"]))
                    if folder == "data":
                        seeds.setdefault(part, []).append(np.unique(keys_of(batch["seed_id"], "split")))
        except (pa.ArrowException, OSError) as e:
            problems.append(f"{name}: not a readable Parquet file ({str(e).splitlines()[0]})")
    booked = {s: c["rows"] for s, c in manifest["splits"].items()} | manifest["rejects"]
    problems += [
        f"{part}: {rows.get(part, 0)} rows in its files, the manifest says {n}"
        for part, n in booked.items()
        if rows.get(part, 0) != n
    ]
    every = np.concatenate(ids) if ids else np.empty(0, np.uint64)
    if len(np.unique(every)) != len(every):
        problems.append(f"{len(every) - len(np.unique(every))} ids occur more than once")
    if len(seeds) > 1:
        one, other = (np.unique(np.concatenate(s)) for s in seeds.values())
        both = np.intersect1d(one, other)
        if len(both):
            problems.append(f"{len(both)} seeds have rows in both splits")
    return problems


def _books(manifest: dict[str, Any]) -> list[str]:
    """Whether the ledgers balance, among themselves and with the rows."""
    problems = []
    ledger = Ledger.from_dict(manifest["ledger"])
    for where, books in [
        ("the ledger", ledger),
        *((f"round {r['round']}'s ledger", Ledger.from_dict(r["ledger"])) for r in manifest["rounds"]),
    ]:
        try:
            books.check(where)
        except StorageError as e:
            problems.append(e.what)
    rounds = sum((Ledger.from_dict(r["ledger"]) for r in manifest["rounds"]), Ledger())
    if rounds.to_dict() != ledger.to_dict():
        problems.append("the ledger is not the sum of the rounds' ledgers")
    released = sum(s["rows"] for s in manifest["splits"].values())
    rejects = {o: manifest["rejects"].get(o, 0) for o in OUTCOMES}
    stage0 = Ledger.from_dict(manifest["prepared"]) if manifest["prepared"] else Ledger()
    if ledger.accepted != released + rejects["dropped"]:
        problems.append(
            f"{ledger.accepted} samples accepted, but {released} released and {rejects['dropped']} dropped"
        )
    if sum(manifest["dropped"].values()) != rejects["dropped"]:
        problems.append("dropped rows by step do not add up to the dropped rows")
    for name, booked in (
        ("rejected", ledger.rejected_total + stage0.rejected_total),
        ("failed", ledger.failed_total + stage0.failed_total),
    ):
        if rejects[name] != booked:
            problems.append(f"{booked} samples {name} in the ledger, {rejects[name]} rows of them")
    return problems


def _card(release: Path, manifest: dict[str, Any]) -> list[str]:
    """Whether the card is there, its header can be read, and it says what the manifest says."""
    try:
        text = (release / card.NAME).read_text(encoding="utf-8")
    except OSError:
        return []  # named as missing already
    parts = text.split("---\n", 2)
    try:
        header = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
    except yaml.YAMLError:
        header = None
    if not isinstance(header, dict):
        return [f"{card.NAME}: no YAML header"]
    problems = []
    for config in header.get("configs", []):
        for entry in config["data_files"]:
            if not any(release.glob(entry["path"])):
                problems.append(f"{card.NAME}: no file for {entry['path']}")
    if header.get("configs") != card.metadata(manifest)["configs"]:
        problems.append(f"{card.NAME}: its header names other data files than the manifest")
    if Ledger.from_dict(manifest["ledger"]).line() not in text:
        problems.append(f"{card.NAME}: without the manifest's ledger line")
    return problems
