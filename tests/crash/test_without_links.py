"""File systems without hard links: a shard is published once there too. Real processes, raced and killed; only the call
that makes a link is simulated, as it ends there."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from gra_hpc.once import CLAIM
from gra_hpc.run.run import Run
from tools.faults.faults import SYNTHESIZE, Nursery, check_shard, journals, start, wait_for

NO_LINKS = """
import errno, os, runpy, sys

def link(*_, **__):
    raise OSError(errno.EPERM, "simulated: no hard links on this file system")

os.link = link
"""


def test_the_winner_dies_at_every_step(tmp_path: Path, nursery: Nursery) -> None:
    """The next one finishes what it had won, or wins itself; what a reader sees is always whole."""
    script = tmp_path / "write.py"
    script.write_text(f"{NO_LINKS}\nfrom pathlib import Path\nfrom gra_hpc.once import write_once\n"
                      "print(write_once(Path(sys.argv[1]), sys.argv[2].encode()))\n")  # fmt: skip
    ends, at = [], 1
    while True:
        where, log = tmp_path / f"at-{at}", tmp_path / f"log-{at}"
        where.mkdir()
        path = where / "f"
        if nursery.start(script, path, "dead", log=log, below=where, at=at).wait() == 0:
            break
        assert not path.exists() or path.read_text() == "dead"
        seen = path.exists()
        again = nursery.start(script, path, "next", log=log)
        assert again.wait() == 0, again.tail()
        won = path.read_text()
        assert again.tail().strip() == str(won == "next")
        assert won == "dead" or not seen
        ends.append(won)
        at += 1
    assert {"dead", "next"} == set(ends) and ends == sorted(ends, reverse=True), ends


@pytest.mark.timeout(600)
def test_shards_publish_once(new_run: Callable[..., Run], reference: Run, tmp_path: Path) -> None:
    """Two copies of a task: the manifest names tables that are there."""
    run = new_run("engine.simulated_latency_s=0.02", "launch.window=2")
    script = tmp_path / "synthesize_without_links.py"
    script.write_text(f"{NO_LINKS}\nrunpy.run_path({str(SYNTHESIZE)!r}, run_name='__main__')\n")
    shard = run.round(1).shard(0)
    copies = []
    for i in range(2):
        copies.append(start(script, run.path, 0, "--round", 1, log=tmp_path / f"log{i}"))
        wait_for(lambda: sum(len(n) > 3 for n in journals(shard).values()) == len(copies))
        copies[-1].signal(signal.SIGSTOP)
    for copy in copies:
        copy.signal(signal.SIGCONT)
    assert [c.wait() for c in copies] == [0, 0], [c.tail() for c in copies]
    assert sorted("published already, by another attempt" in c.tail() for c in copies) == [False, True]
    assert [p.name for p in shard.path.iterdir() if CLAIM.fullmatch(p.name)] == [".manifest.json.once-0"]
    shutil.rmtree(shard.path / ".manifest.json.once-0")
    check_shard(shard, reference.round(1).shard(0))
