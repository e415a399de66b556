"""`gra fetch`: on a machine with network, put what a run needs into one shared cache, whole and checked.

Models at a pinned commit (weights, tokenizer, chat template), the embedding model, Hub seed datasets and benchmarks.
Every file is compared with the digest that the Hub states for it; a file that was compared before is not read again
unless it has changed. Jobs read the cache with the Hub switched off.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gra_hpc.config.settings import ModelConfig, RunConfig
from gra_hpc.errors import GraError, StorageError
from gra_hpc.models import hub
from gra_hpc.models.files import check_files
from gra_hpc.models.identity import Book, Say, identity
from gra_hpc.storage import full_disk_as_error, write_atomic

MODEL_FILES = (
    "*.json", "*.jinja", "*.txt", "*.model", "*.model.v*", "*.tiktoken", "*.safetensors", "LICENSE*", "NOTICE*",
    "README.md",  # states the licence
)  # fmt: skip
UNWANTED = ("original/*", "onnx/*", "openvino/*", "runs/*", "*.py", "*.pth", "*.msgpack", "*.h5", "*.gguf", ".*")
"""Never fetched for a model; Python files only where the configuration trusts them."""


class StageError(GraError):
    """Something that cannot be fetched, or is not what the Hub says it is."""


@dataclass(frozen=True)
class Need:
    """One repository that a run reads."""

    repo: str
    kind: hub.Kind
    what: str
    """model NAME, embedding model, seeds, benchmark."""
    revision: str = ""
    model: ModelConfig | None = None
    """For models of a pool: what must hold of their files."""

    @property
    def label(self) -> str:
        prefix = "datasets/" if self.kind == "dataset" else ""
        return f"{prefix}{self.repo}{f'@{self.revision}' if self.revision else ''}"

    @classmethod
    def parse(cls, word: str) -> Need:
        """From `org/name`, `org/name@revision` or `datasets/org/name@revision`.

        Raises:
            StageError: another form.
        """
        name, _, revision = word.partition("@")
        kind: hub.Kind = "dataset" if name.startswith("datasets/") else "model"
        name = name.removeprefix("datasets/")
        if not hub.ID.fullmatch(name):
            raise StageError(f"{word}: not a Hub id", "gra fetch ORG/NAME, datasets/ORG/NAME, or --preset NAME")
        return cls(name, kind, kind, revision)


@dataclass(frozen=True)
class Staged:
    """What became of a need."""

    need: Need
    directory: Path
    files: int
    size: int
    """Bytes."""
    fetched: int
    """Bytes that had to come over the network."""
    seconds: float

    def __str__(self) -> str:
        commit = self.directory.name[:12]
        came = f"{self.fetched / 1e9:.2f} GB fetched" if self.fetched else "nothing to fetch"
        return (
            f"{self.need.what}: {self.need.repo}@{commit}, {self.files} files, {self.size / 1e9:.2f} GB, digests agree"
            f" ({came}, {self.seconds:.1f} s)\n    {self.directory}"
        )


def needs(config: RunConfig) -> Iterator[Need]:
    """What a run reads from the Hub; what is a file or directory here is left out."""
    used = {m.model for m in config.committee.values()} or set(config.models)
    for name, model in config.models.items():
        if name in used and not model.endpoint.url and not Path(model.path).expanduser().is_dir():
            yield Need(_id(model.path, f"models.{name}.path"), "model", f"model {name}", model.revision, model)
    embed = config.merge.embed_model
    if config.merge.semantic and embed and not Path(embed).expanduser().is_dir():
        yield Need(_id(embed, "merge.embed_model"), "model", "embedding model")
    scorer = config.release.diagnostics.scorer
    if scorer and not Path(scorer).expanduser().is_dir():
        yield Need(_id(scorer, "release.diagnostics.scorer"), "model", "scorer of the diagnostics")
    from gra_hpc.sources.files import find_file

    if find_file(config.seeds.path) is None:
        yield Need(_id(config.seeds.path, "seeds.path"), "dataset", "seeds", config.seeds.revision)
    for source in config.merge.decontamination.sources:
        if not Path(source).expanduser().exists():
            yield Need(_id(source, "merge.decontamination.sources"), "dataset", "benchmark")


def _id(path: str, key: str) -> str:
    if path.startswith(hub.MADE):
        raise StageError(f"{key}={path}: no such directory (seen from {Path.cwd()}), and on no Hub", hub.MAKE)
    if not hub.ID.fullmatch(path):
        raise StageError(f"{key}={path}: neither a file or directory here, nor a Hub id", "give ORG/NAME, or a path")
    return path


@contextlib.contextmanager
def fetched_first(preset: str, words: Sequence[str], site: str) -> Iterator[None]:
    """Where a plan lacks something of the Hub, say what fetches all that it needs, beside what fetches that alone.

    Args:
        words: settings of the command line.

    Raises:
        GraError: the same, with both commands.
    """
    try:
        yield
    except GraError as e:
        if not e.then.startswith("gra fetch "):
            raise
        own = [w for w in words if w.startswith(_FETCHED)]
        command = ["gra", "fetch", "--preset", preset, *(["--site", site] if site else []), *own]
        alone = re.sub(r" +\(on a machine with network\)", "", e.then)
        raise type(e)(e.what, f"{shlex.join(command)}  (all that it needs; alone: {alone})") from None


_FETCHED = ("models.", "committee", "merge.", "seeds.", "release.diagnostics.", "site.scratch", "site.proxy")
"""Settings that say what is fetched, and where to."""


def stage(need: Need, cache: Path, say: Callable[[str], None] = lambda _: None, again: bool = False) -> Staged:
    """Fetch one repository into a cache, whole, and check every file.

    Args:
        cache: in the Hub's layout.
        say: told what is done, for people.
        again: read all files again, also those that agreed before.

    Raises:
        StageError: not there, not allowed, no network, wrong digest.
        StorageError: no room.
    """
    began = time.monotonic()
    with _plain_errors(need):
        from huggingface_hub import HfApi, snapshot_download

        info = HfApi().repo_info(need.repo, revision=need.revision or None, repo_type=need.kind, files_metadata=True)
        files = wanted(info.siblings or [], need)
        if not files:
            raise StageError(f"{need.label}: no file in it that is of use", "check the id")
        folder = cache / f"{need.kind}s--{need.repo.replace('/', '--')}"
        snapshot = folder / "snapshots" / str(info.sha)
        missing = sum(f.size or 0 for f in files if not (snapshot / f.rfilename).exists())
        _check_space(cache, missing, need)
        if missing:
            say(f"{need.what}: fetching {need.repo} ({missing / 1e9:.2f} GB) ...")
        with full_disk_as_error(folder, "make room, then gra fetch again: what is there is kept"):
            snapshot_download(
                need.repo,
                repo_type=need.kind,
                revision=info.sha,
                cache_dir=cache,
                allow_patterns=[glob.escape(f.rfilename) for f in files],
            )
            verify(need, snapshot, files, say, again)
            name = need.revision or "main"
            if name != info.sha:
                ref = folder / "refs" / name
                ref.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(ref, str(info.sha).encode())
    if need.model is not None:
        check_files(snapshot, need.model)
    size = sum(f.size or 0 for f in files)
    return Staged(need, snapshot, len(files), size, missing, time.monotonic() - began)


def wanted(siblings: Sequence[Any], need: Need) -> list[Any]:
    """The files of a repository that a run reads (`huggingface_hub`'s `RepoSibling`s)."""
    if need.kind == "dataset":
        return [s for s in siblings if not s.rfilename.startswith(".") and not s.rfilename.endswith(".py")]
    trusted = need.model is not None and need.model.trust_remote_code
    found = []
    for s in siblings:
        name = s.rfilename
        if (trusted and name.endswith(".py")) or (_matches(name, MODEL_FILES) and not _matches(name, UNWANTED)):
            found.append(s)
    weights = [s for s in found if s.rfilename.endswith(".safetensors")]
    sharded = [s for s in weights if not Path(s.rfilename).name.startswith("consolidated")]
    if sharded:  # some repositories carry the weights twice
        found = [s for s in found if s not in weights or s in sharded]
    elif not weights:
        found += [s for s in siblings if fnmatch.fnmatch(s.rfilename, "*.bin") and "/" not in s.rfilename]
    return found


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, p) for p in patterns)


def verify(need: Need, snapshot: Path, files: Sequence[Any], say: Say, again: bool = False) -> None:
    """Compare files with the digests that the Hub states for them.

    Args:
        say: told what is read for long.
        again: read those that are known, too.

    Raises:
        StageError: a file that differs; it is removed, so that staging again fetches it.
    """
    for f in files:
        path = snapshot / f.rfilename
        if not path.exists():
            raise StageError(f"{path}: missing after the download", f"gra fetch {need.label}")
        if wrong := _differs(path, f, say, again):
            for part in (path.resolve(), path):
                part.unlink(missing_ok=True)
            raise StageError(f"{path}: {wrong}; removed", f"gra fetch {need.label}")


def _differs(path: Path, file: Any, say: Say, again: bool) -> str:
    """What is wrong with a file; empty if nothing is."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"{size} bytes, the Hub says {file.size}"
    if file.lfs is not None:
        found = Book.of(path.parent).digests([path], say, again)[path.name]  # so planning need not read it again
        stated = file.lfs.sha256
    elif file.blob_id:
        found = hashlib.sha1(b"blob %d\0" % size + path.read_bytes(), usedforsecurity=False).hexdigest()
        stated = file.blob_id
    else:
        return ""
    return "" if found == stated else f"digest {found[:12]}, the Hub says {stated[:12]}"


def _check_space(cache: Path, size: int, need: Need) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(f"{cache}: {e.strerror}", "site.scratch=A DIRECTORY OF YOURS, or set HF_HOME") from None
    free = shutil.disk_usage(cache).free
    if size > free:
        raise StorageError(
            f"{cache}: {need.repo} needs {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            "make room, or site.scratch=ANOTHER DIRECTORY",
        )


@contextlib.contextmanager
def _plain_errors(need: Need) -> Iterator[None]:
    """The Hub client's many exceptions as one line each."""
    try:
        yield
    except (GraError, KeyboardInterrupt):
        raise
    except Exception as e:
        kinds = {c.__name__ for c in type(e).__mro__}
        text = " ".join(str(e).split())[:200]
        if "GatedRepoError" in kinds:
            raise StageError(
                f"{need.label}: gated: its licence has to be accepted first",
                f"accept it on the Hub's page of {need.repo}, then hf auth login",
            ) from None
        if "RepositoryNotFoundError" in kinds:
            raise StageError(
                f"{need.label}: not on the Hub, or private", "check the id; for a private one: hf auth login"
            ) from None
        if "RevisionNotFoundError" in kinds:
            raise StageError(f"{need.label}: the repository has no such revision", "check the revision") from None
        if kinds & {"ConnectError", "ConnectionError", "TimeoutException", "ProxyError", "LocalEntryNotFoundError",
                    "OfflineModeIsEnabled", "NetworkError"}:  # fmt: skip
            raise StageError(
                f"{need.label}: the Hub cannot be reached from here ({type(e).__name__})",
                "run gra fetch on a login or transfer node with network, or set site.proxy",
            ) from None
        if isinstance(e, OSError) and e.errno:
            raise
        raise StageError(f"{need.label}: {type(e).__name__}: {text}", "try again") from None


def online(proxy: str) -> None:
    """Let the Hub's client use the network, before it is first imported: also where the user's profile says offline.

    Args:
        proxy: `site.proxy`.
    """
    for name in hub.OFFLINE:
        if name.endswith("OFFLINE"):
            os.environ[name] = "0"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if proxy:
        for name in ("https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
            os.environ.setdefault(name, proxy)
    if not os.isatty(2):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def run(
    config: RunConfig | None,
    words: Sequence[str],
    scratch: str,
    proxy: str,
    say: Callable[[str], None],
    again: bool = False,
) -> list[Staged]:
    """Stage what a configuration needs, or what is named.

    Args:
        config: none: only `words`.
        words: Hub ids.
        scratch: `site.scratch`; empty: Hugging Face's own cache.
        proxy: `site.proxy`.
        say: told each result.
        again: read all files again.

    Raises:
        StageError: after everything else was tried, with the first failure.
    """
    online(proxy)
    cache = hub.shared_cache(scratch) or hub.caches()[0]
    if config:
        checked(config, say)
    todo = [Need.parse(w) for w in words] + (list(needs(config)) if config else [])
    done: list[Staged] = []
    failed: list[GraError] = []
    for need in {n.label: n for n in reversed(todo)}.values():
        try:
            done.append(stage(need, cache, say, again))
            for line in str(done[-1]).split("\n"):
                say(line)
        except GraError as e:
            failed.append(e)
            if len(todo) == 1:
                raise
            say(f"{need.what}: FAILED: {e.what}")
    if failed:
        total = len(failed) + len(done)
        raise StageError(f"{len(failed)} of {total} not staged; the first: {failed[0].what}", failed[0].then)
    return done


def checked(config: RunConfig, say: Say) -> None:
    """Local model directories, checked as an engine will find them, and read once for their digests.

    Raises:
        EngineError: a directory that no engine could load.
    """
    for model in config.models.values():
        directory = Path(model.path).expanduser()
        if not model.endpoint.url and directory.is_dir():
            check_files(directory, replace(model, path=str(directory)))
            identity(directory, model, say=say)
