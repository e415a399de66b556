"""Compiled code that one engine leaves to those of other jobs and nodes."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from gra_hpc.config.settings import EngineConfig, ModelConfig
from gra_hpc.engines import kept_caches
from gra_hpc.engines.kept_caches import fetch, keep, key
from gra_hpc.engines.leftovers import claim_cache
from gra_hpc.engines.node import Node
from gra_hpc.engines.vllm_server import EngineSpec, Launch
from gra_hpc.errors import EngineError
from gra_hpc.placement.placement import EnginePlace
from tests.engines.node_host import places, request, run
from tools.simulated.server import Faults, launcher

GOES_ON = threading.Event()
SAVED = "vllm/torch_compile_cache/ab/rank_0_0/backbone/artifact"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    made = kept_caches.home(str(tmp_path))
    assert made is not None and made.stat().st_mode & 0o777 == 0o700
    return made


def claimed(base: Path) -> Path:
    """The caches of an engine on a node of its own."""
    cache, lock = claim_cache(base, "m-0")
    os.close(lock)
    return cache


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Caches as an engine leaves them."""
    cache = claimed(tmp_path / "first")
    group = cache / "triton" / "XY" / "__grp__kernel.json"
    for path in (cache / SAVED, group.parent / "kernel.cubin", cache / "vllm" / "startup_plan" / "plan.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x7f" + path.name.encode())
    group.write_text(json.dumps({"child_paths": {"kernel.cubin": str(group.parent / "kernel.cubin")}}))
    (cache / "vllm" / "modelinfos" / "llama.json").write_text("{}")  # through a link to what the node's engines share
    (cache / "inductor").mkdir()
    (cache / "inductor" / "x.lock").touch()
    os.mkfifo(cache / "inductor" / "pipe")
    return cache


def test_caches_come_to_another_node(filled: Path, kept: Path, tmp_path: Path) -> None:
    assert keep(kept, "k", filled, GOES_ON) and not keep(kept, "k", filled, GOES_ON)
    other = claimed(tmp_path / "second")
    assert fetch(kept, "k", other) and not fetch(kept, "k", other), "once"
    assert (other / SAVED).read_bytes() == (filled / SAVED).read_bytes()
    assert (other / SAVED).stat().st_mtime == pytest.approx((filled / SAVED).stat().st_mtime)
    paths = json.loads((other / "triton" / "XY" / "__grp__kernel.json").read_text())["child_paths"]
    assert Path(paths["kernel.cubin"]) == other / "triton" / "XY" / "kernel.cubin", "Triton asks for this very file"
    assert Path(paths["kernel.cubin"]).is_file()
    assert (tmp_path / "second" / f"gra-cache-{os.getuid()}" / "modelinfos" / "llama.json").is_file()
    assert not (other / "vllm" / "startup_plan").exists(), "another node's free memory"
    assert not list(other.rglob("x.lock")) and not list(other.rglob("pipe"))
    assert [p.name for p in kept.iterdir()] == ["k.tar"]


def test_what_an_engine_has_itself_stays(filled: Path, kept: Path, tmp_path: Path) -> None:
    keep(kept, "k", filled, GOES_ON)
    other = claimed(tmp_path / "second")
    (other / SAVED).parent.mkdir(parents=True)
    (other / SAVED).write_text("mine")
    assert fetch(kept, "k", other) and (other / SAVED).read_text() == "mine"


def test_of_several_at_once_one_copy_stays_whole(filled: Path, kept: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: keep(kept, "k", filled, GOES_ON), range(8)))
        brought = list(pool.map(lambda n: fetch(kept, "k", claimed(tmp_path / str(n))), range(8)))
    assert all(brought) and [p.name for p in kept.iterdir()] == ["k.tar"]


def test_a_copy_in_other_hands_is_not_run(filled: Path, kept: Path, tmp_path: Path) -> None:
    keep(kept, "k", filled, GOES_ON)
    (kept / "k.tar").chmod(0o622)
    assert not fetch(kept, "k", claimed(tmp_path / "second"))
    (kept / "k.tar").rename(kept / "real")
    (kept / "k.tar").symlink_to(kept / "real")
    assert not fetch(kept, "k", claimed(tmp_path / "third"))
    (kept / "k.tar").unlink()
    (kept / "k.tar").write_bytes(b"torn")
    other = claimed(tmp_path / "fourth")
    assert not fetch(kept, "k", other) and not (other / SAVED).exists()


def test_a_node_that_ends_does_not_wait(filled: Path, kept: Path) -> None:
    stop = threading.Event()
    stop.set()
    assert not keep(kept, "k", filled, stop) and not list(kept.iterdir())


def test_the_longest_unused_make_room(filled: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_caches, "MOST", 2)
    for number, name in enumerate("abc"):
        assert keep(kept, name, filled, GOES_ON)
        os.utime(kept / f"{name}.tar", (number + 1, number + 1))
    assert sorted(p.name for p in kept.iterdir()) == ["b.tar", "c.tar"]
    monkeypatch.setattr(kept_caches, "LARGEST", 5)
    assert not keep(kept, "d", filled, GOES_ON)


def test_the_users_cache_directory_where_there_is_no_shared_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRA_CACHE", str(tmp_path / "mine"))
    assert kept_caches.home("") == tmp_path / "mine" / f"gra-cache-{os.getuid()}" / "compiled"
    open_to_all = tmp_path / "scratch"
    open_to_all.mkdir(mode=0o777)
    open_to_all.chmod(0o777)
    found = kept_caches.home(str(open_to_all))
    assert found is not None and found.is_relative_to(tmp_path / "mine"), "anybody could put a directory there"
    monkeypatch.setenv("GRA_CACHE", "/proc/nowhere")
    assert kept_caches.home(str(open_to_all)) is None


def test_what_a_copy_is_known_by() -> None:
    """Engines that compile the same share one, wherever they sit; others have their own."""
    place = EnginePlace("m", 0, (0,))
    spec = EngineSpec(place, ModelConfig(path="/m"), EngineConfig(), "gpu", Path("s"), Path("p"), Path("c"), 1)
    argv = ["python", "-m", "vllm", "--model", "/m", "--uds", "/tmp/1", "--gpu-memory-utilization", "0.4"]
    mine = key(spec, argv)
    assert mine == key(spec, [*argv[:-3], "/tmp/2", "--gpu-memory-utilization", "0.5"])
    assert mine != key(spec, [*argv, "--enforce-eager"])
    assert mine != key(replace(spec, kind="cpu"), argv)
    assert mine != key(replace(spec, engine=EngineConfig(env={"VLLM_USE_AOT_COMPILE": "0"})), argv)


def test_a_node_brings_and_keeps(short_dir: Path, kept: Path) -> None:
    """Two nodes one after another, with disks of their own; the first one's engine compiles."""

    def node(base: Path) -> Node:
        serve = launcher(Faults())
        asked: list[EngineSpec] = []

        def command(spec: EngineSpec) -> Launch:
            """Compiles when the engine starts; asked for once before, to be checked."""
            path = spec.cache / SAVED
            if asked and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(base.name)
            asked.append(spec)
            return serve(spec)

        models = {"m": ModelConfig(path="m", max_model_len=512)}
        settings = EngineConfig(start_timeout_s=60)
        return Node(models, places("m"), settings, base, base / "logs", command, kept=kept)

    async def work(base: Path) -> None:
        async with node(base) as mine:
            await mine.ask(request())
            await next(iter(mine._keeping))

    for name in "ab":
        run(work(short_dir / name))
        assert (claimed(short_dir / name) / SAVED).read_text() == "a"
    assert len(list(kept.iterdir())) == 1


@pytest.mark.parametrize("at_fault", ["copy", "node"])
def test_an_engine_that_does_not_start_with_a_copy_starts_without(
    short_dir: Path, filled: Path, kept: Path, at_fault: str
) -> None:
    """The copy goes only where an engine starts without it: a node on which none starts has nothing against it."""
    serve = launcher(Faults())

    def command(spec: EngineSpec) -> Launch:
        bad = (spec.cache / SAVED).exists() or at_fault == "node"
        return replace(serve(spec), argv=["false"]) if bad else serve(spec)

    async def work() -> None:
        models = {"m": ModelConfig(path="m", max_model_len=512)}
        settings = EngineConfig(start_timeout_s=60)
        async with Node(models, places("m"), settings, short_dir, short_dir / "logs", command, kept=kept) as node:
            if at_fault == "node":
                with pytest.raises(EngineError):
                    await node.ask(request())
                return
            await node.ask(request())
            assert node.stats()["engines"]["m-0"]["restarts"] == 1 and not node._brought
            await asyncio.gather(*node._keeping)

    serving = kept_caches.fetch  # the copy has the name that this node's engine will ask for

    def planted(kept: Path, name: str, cache: Path) -> bool:
        keep(kept, name, filled, GOES_ON)
        return serving(kept, name, cache)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_caches, "fetch", planted)
        run(work())
    assert not (claimed(short_dir) / SAVED).exists()
    assert len(list(kept.iterdir())) == (at_fault == "node")
