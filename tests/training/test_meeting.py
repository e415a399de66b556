"""Ranks meet where nobody else can: nothing of theirs listens but on the loopback device, and no file of theirs can be
entered by others."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from gra_hpc.errors import OwnershipError
from gra_hpc.signals import Signals
from gra_hpc.training.ranks import MEETING, Rendezvous, place, run_ranks

RANK = """
import json, os, sys
from pathlib import Path
import torch, torch.distributed as dist
from gra_hpc.training.rank.meeting import join
join("cpu")
n = torch.tensor(1 + dist.get_rank())
dist.all_reduce(n)
mine = {os.readlink(p)[8:-1] for p in map("/proc/self/fd/{}".format, os.listdir("/proc/self/fd")) if os.path.exists(p)}
listening = [
    line.split()[1] for file in ("tcp", "tcp6") for line in Path("/proc/self/net", file).read_text().splitlines()[1:]
    if line.split()[3] == "0A" and line.split()[9] in mine
]
Path(sys.argv[1], os.environ["RANK"]).write_text(json.dumps([int(n), listening, os.environ.get("MASTER_PORT")]))
dist.barrier()
"""
LOOPBACK = "0100007F"


@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_nothing_listens_but_on_the_loopback_device(tmp_path: Path, nodes: int) -> None:
    """Two ranks with gloo; of two nodes both are played by this one."""
    shared, out = tmp_path / "rendezvous", tmp_path / "out"
    out.mkdir()
    where = Rendezvous(0, nodes, "a", "a.0")
    command = [sys.executable, "-P", "-c", RANK, str(out)]
    with place(where, shared) as meet_in:
        assert meet_in is not None
        path = Path(os.readlink(f"/proc/self/fd/{meet_in}"))  # noqa: PTH115
        assert path.stat().st_mode & 0o777 == 0o700 and (path == shared) is (nodes > 1)
        codes = run_ranks(command, 2, Rendezvous(0, 1, "a", "a.0"), tmp_path / "logs", Signals(), "lo", meet_in)
    assert codes == [0, 0] and path.exists() is (nodes > 1)
    for rank in "01":
        total, listening, port = json.loads((out / rank).read_text())
        assert total == 3 and port is None
        assert listening and all(a.startswith(LOOPBACK) for a in listening)


def test_a_place_that_others_can_enter_is_closed_or_refused(tmp_path: Path) -> None:
    where = Rendezvous(0, 2, "a", "a.0")
    shared = tmp_path / "rendezvous"
    shared.mkdir(mode=0o777)
    shared.chmod(0o2777)
    with place(where, shared):
        assert shared.stat().st_mode & 0o777 == 0o700
    shared.rmdir()
    (tmp_path / "theirs").mkdir()
    shared.symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError), place(where, shared):
        pass
    if os.getuid() == 0:
        shared.unlink()
        shared.mkdir()
        os.chown(shared, 65534, 65534)
        with pytest.raises(OwnershipError, match="rendezvous: not a directory of yours"), place(where, shared):
            pass


def test_a_port_is_a_choice(tmp_path: Path) -> None:
    with place(Rendezvous(0, 2, "a", address="n1", port=1), tmp_path / "x") as meet_in:
        assert meet_in is None and not (tmp_path / "x").exists()
    code = f"import os, sys; sys.exit(os.environ['MASTER_PORT'] != '7' or '{MEETING}' in os.environ)"
    where = Rendezvous(0, 2, "a", address="n1", port=7)
    assert run_ranks([sys.executable, "-c", code], 1, where, tmp_path / "logs", Signals()) == [0]
