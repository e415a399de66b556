"""Commands without a network: in a network namespace with nothing but the loopback device."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.mini_hub import MiniHub

NO_NETWORK = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]


@functools.cache
def can_block() -> bool:
    """Whether a network namespace can be made here."""
    if os.getuid() or not shutil.which("unshare") or not shutil.which("ip"):
        return False
    return subprocess.run([*NO_NETWORK, "true"], capture_output=True, check=False).returncode == 0


blocked_only = pytest.mark.skipif(not can_block(), reason="no network namespace can be made here (root only)")


def run(
    *args: object, hub: MiniHub | None = None, home: Path, blocked: bool = False, code: int = 0, timeout: float = 240
) -> str:
    """A command's output. Without a hub the real one is named, which nothing here can reach."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "http", "HTTP"))}
    env |= {"HF_HOME": str(home)} | ({"HF_ENDPOINT": hub.url} if hub else {})
    done = subprocess.run(
        [*(NO_NETWORK if blocked else []), *map(str, args)],
        env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    return text
