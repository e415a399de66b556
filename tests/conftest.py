"""Shared fixtures: model directories, made once from packages by tools/models/get_models.py and kept in ./models."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import psutil
import pytest

from gra_hpc import owner
from gra_hpc.engines.guard import mapped_shm

ROOT = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A test is named by what stays: processes that share a suite collect the same names, and what is compressed holds
    the second in which that was done."""
    return argname if isinstance(val, bytes) else None


def made(name: str, directory: str) -> Path:
    """A model directory under ./models; made now unless it is there and up to date."""
    tool = ROOT / "tools" / "models" / "get_models.py"
    subprocess.run([sys.executable, str(tool), name, "--dir", str(ROOT / "models")], check=True, timeout=280)
    return ROOT / "models" / directory


@contextmanager
def known_classes(local_dir: Path) -> Iterator[None]:
    """Engines on a node find what vLLM looked up about their models' classes in tests before: 12 s less of a start."""
    kept, here = ROOT / "models" / "modelinfos", local_dir / f"gra-cache-{os.getuid()}" / "modelinfos"
    here.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if kept.is_dir():
        shutil.copytree(kept, here, dirs_exist_ok=True)
    yield
    if here.is_dir():
        shutil.copytree(here, kept, dirs_exist_ok=True)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is remembered of files (digests, heartbeats) is remembered in a place of the tests' own; a wide terminal."""
    os.environ["GRA_CACHE"] = str(tmp_path_factory.mktemp("gra-cache"))
    os.environ["COLUMNS"] = "200"  # what commands print comes in whole lines; tests/views/test_widths.py has others


class SteadyClock:
    """This machine's steady clock, which goes on when it is told to."""

    now = 1000.0


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> SteadyClock:
    clock = SteadyClock()
    monkeypatch.setattr(owner, "steady", lambda: clock.now)
    return clock


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """What a test does to the environment (jobs go offline) ends with it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """A job's log lines (`launch.tasks.start_logging`) go to the stderr of its test, and of no later one."""
    yield
    logger = logging.getLogger("gra_hpc")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct: a real small model."""
    return made("smollm2", "smollm2-135m")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2: the sentence embedding model."""
    return made("minilm", "all-minilm-l6-v2")


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    """Two random layers with SmolLM2's tokenizer, without weights (`load_format=dummy`): the fastest real engine."""
    return made("tiny-llama", "tiny-llama")


@pytest.fixture(scope="session")
def gemma() -> Path:
    """Gemma 3 270M, a base model under Google's terms: a second family, without a system role, for slow tests only."""
    return made("gemma", "gemma3-270m")


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a path short enough for Unix sockets below it (pytest's own are too long)."""
    with tempfile.TemporaryDirectory(prefix="gt-", dir="/tmp", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture
def shm_left() -> Callable[[], set[Path]]:
    """Shared memory files of real engines that have come since the test began and that no living process maps.

    Tests beside this one have engines that come and go, are killed and swept: what goes away is not a leftover.
    """
    memory = Path("/dev/shm")
    before = set(memory.iterdir())

    def now() -> set[Path]:
        new = {p for p in memory.iterdir() if not p.name.startswith("gra_simulated_")} - before
        used = mapped_shm(psutil.pids())
        return {p for p in new if p.is_file() and str(p) not in used}

    def left() -> set[Path]:
        found, deadline = now(), time.monotonic() + 200
        while found and time.monotonic() < deadline:
            time.sleep(0.2)
            found &= now()
        return found

    return left
