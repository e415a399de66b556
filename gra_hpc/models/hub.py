"""Hub repositories on this machine: where they lie, and how jobs are kept from asking the network for them.

Two caches in the Hub's own layout are looked at: the shared one that `gra fetch` fills (`SCRATCH/hub`), then Hugging
Face's (`HF_HOME`). Nothing here downloads; `gra_hpc.site.stage` does.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Literal

Kind = Literal["model", "dataset"]

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""What makes Hugging Face's libraries use their caches alone."""

ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}")
"""A Hub id with its organisation."""


def shared_cache(scratch: str) -> Path | None:
    """The shared cache of a site, if it has a scratch directory."""
    return Path(scratch) / "hub" if scratch else None


def caches(scratch: str = "") -> list[Path]:
    """Caches to look at, the shared one first."""
    from huggingface_hub import constants

    mine = shared_cache(scratch)
    return [*([mine] if mine else []), Path(constants.HF_HUB_CACHE)]


def find(repo: str, revision: str = "", kind: Kind = "model", scratch: str = "") -> Path | None:
    """The snapshot directory of a repository in a cache; none if no cache has it.

    Args:
        repo: Hub id.
        revision: commit, branch or tag; empty: what the cache calls main.
        scratch: `site.scratch`.
    """
    if not ID.fullmatch(repo):
        return None
    folder = f"{kind}s--{repo.replace('/', '--')}"
    for cache in caches(scratch):
        root = cache / folder
        commit = revision or "main"
        with contextlib.suppress(OSError):  # a commit, not a branch
            commit = (root / "refs" / commit).read_text(encoding="utf-8").strip() or commit
        snapshot = root / "snapshots" / commit
        if re.fullmatch(r"[\w.-]+", commit) and snapshot.is_dir():
            return snapshot
    return None


def offline() -> None:
    """Keep this process and its children from asking the network."""
    os.environ.update(OFFLINE)
