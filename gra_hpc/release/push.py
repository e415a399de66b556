"""Upload of a release to the Hub, from a login node: checked before, counted and compared after."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra_hpc import storage
from gra_hpc.errors import ReleaseError
from gra_hpc.release.manifest import NAME
from gra_hpc.release.verify.verify import verify
from gra_hpc.terminal import word

log = logging.getLogger(__name__)

OURS = ("data/*", "rejects/*", "exports/*", "run.yaml", "report.html", NAME)
"""Files of an earlier release that are removed from the repository when this one does not have them."""


@dataclass(frozen=True)
class Pushed:
    """What arrived."""

    url: str
    commit: str
    files: int
    bytes: int

    def __str__(self) -> str:
        """One sentence."""
        return f"{self.files} files, {self.bytes:,} bytes arrived whole: {self.url} (commit {self.commit[:12]})"


def push(
    release: Path, repository: str, *, private: bool = True, token: str | None = None, endpoint: str | None = None
) -> Pushed:
    """Upload a release as a dataset repository and compare what is there with the manifest.

    Safe to repeat: what has arrived is not sent again.

    Args:
        release: a release directory; it is verified first.
        repository: `name` or `organisation/name`.
        private: whether a repository made now can be seen by its owners only.
        token: the Hub's token; none: the one that `hf auth login` or HF_TOKEN gave. Never printed.
        endpoint: address of the Hub; none: HF_ENDPOINT, or the public one.

    Raises:
        ReleaseError: the release is not sound, the Hub refused, or what arrived is not what was sent.
    """
    from huggingface_hub import HfApi

    problems = verify(release)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ReleaseError(f"{release}: not pushed: {problems[0]}{more}", f"gra release verify {word(release)}")
    api = HfApi(endpoint=endpoint, token=token, library_name="gra-hpc")
    again = f"gra release push {word(release)} {repository}  (what has arrived is not sent again)"
    try:
        repo = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        log.info("uploading %s to %s", release, repo.repo_id)
        commit = api.upload_folder(
            repo_id=repo.repo_id,
            repo_type="dataset",
            folder_path=release,
            commit_message=f"Release {storage.read_json(release / NAME)['made_from'][:12]}",
            ignore_patterns=[".git/**", ".cache/**", ".gitattributes"],
            delete_patterns=list(OURS),
        )
        there = {
            f.path: f
            for f in api.list_repo_tree(repo.repo_id, recursive=True, repo_type="dataset", revision=commit.oid)
            if hasattr(f, "size")
        }
    except Exception as e:  # of the Hub's client and of the HTTP library below it, which differs by version
        raise ReleaseError(f"{repository}: upload failed: {_said(e, token)}", _next(e, again)) from None
    differing = list(_differing(release, there))
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise ReleaseError(f"{repository}: did not arrive whole: {differing[0]}{more}", again)
    files = _files(release)
    return Pushed(str(repo.url), str(commit.oid), len(files), sum((release / f).stat().st_size for f in files))


def _files(release: Path) -> list[str]:
    return sorted([*storage.read_json(release / NAME)["files"], NAME])


def _differing(release: Path, there: dict[str, Any]) -> Iterator[str]:
    """Files that are missing in the repository, or are other ones there."""
    for name in _files(release):
        path, found = release / name, there.get(name)
        if found is None:
            yield f"{name} is missing"
        elif found.size != path.stat().st_size:
            yield f"{name} has {found.size} bytes there, {path.stat().st_size} here"
        elif found.lfs is not None and found.lfs.sha256 != storage.sha256(path):
            yield f"{name} has another SHA-256 there"
        elif found.lfs is None and found.blob_id != git_blob(path):
            yield f"{name} has another content there"


def git_blob(path: Path) -> str:
    """Git's name for a file's content: hex SHA-1 of its length and bytes."""
    state = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as f:
        while chunk := f.read(1 << 20):
            state.update(chunk)
    return state.hexdigest()


def _said(e: Exception, token: str | None) -> str:
    """An error's words in one line, without the token."""
    words = " ".join(str(e).split())[:300] or type(e).__name__
    return words.replace(token, "***") if token else words


def _next(e: Exception, again: str) -> str:
    status = getattr(getattr(e, "response", None), "status_code", 0)
    return "hf auth login  (the token needs the right to write)" if status in (401, 403) else again
