"""Check a release against its own manifest: every file, every row, and everything that follows from something else."""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import orjson
import yaml

from gra_hpc import __version__, storage
from gra_hpc.config.frozen import differences
from gra_hpc.errors import StorageError
from gra_hpc.foreign import fits, load_yaml
from gra_hpc.records import digest
from gra_hpc.release import card, export
from gra_hpc.release.manifest import FORMAT, KEYS, NAME
from gra_hpc.release.report import report
from gra_hpc.release.verify import counts, rows
from gra_hpc.run.ledger import Ledger
from gra_hpc.thoughts import Thoughts

REQUIRED = (card.NAME, "run.yaml", report.NAME)
_SEEDS = "rejects/seeds.jsonl"
_IGNORED = (".git", ".gitattributes", ".cache")
"""What a download from the Hub or a clone adds."""


def verify(release: Path) -> list[str]:
    """Problems of a release directory, one line each; none if it is what its manifest says."""
    try:
        manifest = storage.read_json(release / NAME)
        files: dict[str, dict[str, Any]] = manifest["files"]
        if manifest["format"] != FORMAT:
            return [f"{NAME}: format {manifest['format']}, this version reads {FORMAT}"]
        problems = [f"{name}: not in the manifest" for name in _present(release) if name not in {*files, NAME}]
        problems += [f"{name}: not in the release" for name in REQUIRED if name not in files]
        found = {name: _file(release / name, name, entry) for name, entry in sorted(files.items())}
    except (OSError, StorageError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as e:
        return [f"{release / NAME}: no manifest of a release ({e})"]
    problems += [p for each in found.values() for p in each]
    missing = [key for key in KEYS if key not in manifest]
    if missing:
        return [*problems, f"{NAME}: without {', '.join(missing)}"]
    sound = [name for name, wrong in found.items() if not wrong]
    tables = [name for name in files if rows.NAME.fullmatch(name)]
    readable = set(tables) <= set(sound)
    checks: list[Callable[[], list[str]]] = [
        lambda: rows.check(release, manifest, sound),
        lambda: counts.check(manifest),
        lambda: _frozen(manifest),
        lambda: _settings(release, manifest) if "run.yaml" in sound else [],
        lambda: _seeds(release, manifest, sound),
        lambda: _report(release, manifest) if report.NAME in sound else [],
        lambda: _exports(release, manifest, sound) if readable else [],
        lambda: _card(release, manifest) if readable and card.NAME in sound else [],
    ]
    for check in checks:
        try:
            problems += check()
        except Exception as e:  # whatever a strange manifest leads to is a problem of it, and the rest is checked
            problems.append(f"{NAME}: not as it should be ({type(e).__name__}: {e})")
    return list(dict.fromkeys(problems))


def _present(release: Path) -> list[str]:
    names = (p.relative_to(release) for p in sorted(release.rglob("*")) if not p.is_dir() or p.is_symlink())
    return [n.as_posix() for n in names if n.parts[0] not in _IGNORED]


def _file(path: Path, name: str, entry: dict[str, Any]) -> list[str]:
    """Whether one file is what the manifest says."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return [f"{name}: outside the release"]
    if not (isinstance(entry, dict) and fits(entry.get("bytes"), int) and fits(entry.get("sha256"), str)):
        return [f"{name}: without bytes and sha256 in the manifest"]
    try:
        with storage.open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
        if size != entry["bytes"]:
            return [f"{name}: {size} bytes, the manifest says {entry['bytes']}"]
        if storage.sha256(path) != entry["sha256"]:
            return [f"{name}: content changed (SHA-256 is not the manifest's)"]
    except FileNotFoundError:
        return [f"{name}: missing"]
    except OSError as e:
        return [f"{name}: {e.strerror}"]
    return []


def _frozen(manifest: dict[str, Any]) -> list[str]:
    """Whether the fingerprint is that of what was frozen, and settings, prompts, models and seeds are those."""
    frozen, settings = manifest["frozen"], manifest["config"]
    if digest(frozen) != manifest["fingerprint"]:
        return [f"{NAME}: the fingerprint is not that of the frozen settings"]
    embedding = manifest["embedding"]
    pairs: dict[str, tuple[Any, Any]] = {
        "prompts": (frozen["prompts"], digest([[n, text] for n, text in sorted(manifest["prompts"].items())])),
        "seeds": (frozen["seeds"], manifest["seeds"]["digest"]),
        "planned_with": (frozen["version"], manifest["planned_with"]),
        "models": (
            {name: m["identity"] for name, m in frozen["models"].items()},
            {name: m["identity"] for name, m in manifest["models"].items()},
        ),
        "embedding": (frozen["merge"]["embed_identity"], embedding["identity"] if embedding else ""),
        "simulated": (frozen["engine"]["kind"] == "simulated", manifest["simulated"]),
        **{f"config.{part}": (frozen[part], settings[part]) for part in ("method", "committee")},
    }
    wrong = [line for key, (a, b) in pairs.items() for line in differences(a, _like(b, a), f"{key}.")]
    return [f"{NAME}: not what was frozen: {line}" for line in wrong]


def _like(value: Any, frozen: Any) -> Any:
    """A part of the configuration with only the keys that are frozen (others may differ between attempts)."""
    if not (isinstance(value, dict) and isinstance(frozen, dict)):
        return value
    return {k: _like(v, frozen.get(k)) for k, v in value.items() if k in frozen}


def _settings(release: Path, manifest: dict[str, Any]) -> list[str]:
    """Whether run.yaml is the manifest's configuration."""
    try:
        there = load_yaml((release / "run.yaml").read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError):
        return ["run.yaml: not readable"]
    if not isinstance(there, dict):
        return ["run.yaml: not a configuration"]
    keys = [line.split(": planned")[0] for line in differences(manifest["config"], there)]
    return [f"run.yaml: not the manifest's configuration: {', '.join(keys[:5])}"] if keys else []


def _seeds(release: Path, manifest: dict[str, Any], sound: list[str]) -> list[str]:
    """Whether every record that was no usable seed is listed."""
    lines, rejected = 0, manifest["seeds"]["rejected"]
    if _SEEDS in manifest["files"]:
        if _SEEDS not in sound:
            return []  # named already
        with (release / _SEEDS).open("rb") as file:
            lines = sum(1 for _ in file)
    return [f"{_SEEDS}: {lines} records, the manifest says {rejected}"] if lines != rejected else []


def _exports(release: Path, manifest: dict[str, Any], sound: list[str]) -> list[str]:
    """Whether the exports are there, and hold what the data hold."""
    wanted = {
        f"exports/{form}-{split}{export.SUFFIX[form]}": (split, form)
        for form in (manifest["config"]["release"]["formats"] if "result" not in manifest else ())
        for split in manifest["splits"]
    }
    inline = manifest["config"]["release"].get("thoughts") == Thoughts.inline.value
    there = {name for name in manifest["files"] if name.startswith("exports/")}
    info = f"exports/{export.INFO}"
    problems = [f"{name}: not an export that was asked for" for name in sorted(there - {*wanted, info})]
    for name, (split, form) in wanted.items():
        if name not in there:
            problems.append(f"{name}: not in the release")
        elif name in sound and not export.is_export(release / name, release, split, form, inline):
            problems.append(f"{name}: not the rows of the data")
    if wanted and info in sound:
        described = storage.to_json(
            export.dataset_info(manifest["name"], release / "exports", export.has_context(release))
        )
        if (release / info).read_bytes() != described:
            problems.append(f"{info}: does not describe these exports")
    return problems


def _report(release: Path, manifest: dict[str, Any]) -> list[str]:
    """Whether the report is of this release. It tells of shards that are not here: only that can be checked."""
    text = (release / report.NAME).read_text(encoding="utf-8", errors="replace")
    wanted = (Ledger.from_dict(manifest["ledger"]).line(), str(manifest["fingerprint"])[:12])
    return [f"{report.NAME}: without the manifest's {w!r}" for w in wanted if w not in text]


def _card(release: Path, manifest: dict[str, Any]) -> list[str]:
    """Whether the card's header can be read, and the card says what manifest and data say."""
    text = (release / card.NAME).read_text(encoding="utf-8", errors="replace")
    parts = text.split("---\n", 2)
    try:
        header = load_yaml(parts[1]) if len(parts) == 3 and not parts[0] else None
    except yaml.YAMLError:
        header = None
    if not isinstance(header, dict):
        return [f"{card.NAME}: no YAML header"]
    problems = []
    configs = card.metadata(manifest)["configs"]
    if header.get("configs") != configs:
        problems.append(f"{card.NAME}: its header names other data files than the manifest")
    for entry in (entry for config in configs for entry in config["data_files"]):
        if not any(fnmatch(name, entry["path"]) for name in manifest["files"]):
            problems.append(f"{card.NAME}: no file for {entry['path']}")
    if Ledger.from_dict(manifest["ledger"]).line() not in text:
        problems.append(f"{card.NAME}: without the manifest's ledger line")
    if manifest["version"] != __version__:  # its wording is not ours
        if f"gra-hpc {manifest['version']}" not in text:
            problems.append(f"{card.NAME}: not of version {manifest['version']}, as the manifest says")
    elif text != (expected := card.render(orjson.loads(storage.to_json(manifest)), card.first_row(release))):
        problems.append(f"{card.NAME}: not what manifest and data say{_first_difference(text, expected)}")
    return problems


def _first_difference(text: str, expected: str) -> str:
    """Where two texts part, for one line."""
    there, wanted = text.splitlines(), expected.splitlines()
    for number, (a, b) in enumerate(zip(there, wanted, strict=False), 1):
        if a != b:
            return f" (line {number}: {a[:60]!r}, expected {b[:60]!r})"
    return f" ({len(there)} lines, expected {len(wanted)})"
