"""What Slurm prints, read: no cluster needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra_hpc.errors import LaunchError, SlurmDownError
from gra_hpc.launch import slurm
from gra_hpc.site import cluster
from gra_hpc.site.cluster import Gpu, NodeKind

S = slurm.SEPARATOR


def line(*fields: str) -> str:
    return S.join(fields) + S + "\n"


RUNNING = line("7_3", "7", "3", "11", "RUNNING", "None", "node2", "1-02:03:04", "2", "ada", "gra, a", "gra:x:01 |y")
WAITING = line("7_4", "7", "4", "7", "PENDING", "Dependency", "", "30:00", "0", "ada", "gra", "(null)")
SINGLE = line("9", "9", "N/A", "9", "COMPLETING", "None", "n[1-2]", "UNLIMITED", "0", "ada", "merge", "")


def test_queue_lines() -> None:
    a, b, c = slurm.parse_queue(RUNNING + WAITING + SINGLE)
    assert (a.id, a.job, a.index, a.raw_id, a.restarts) == ("7_3", 7, 3, 11, 2)
    assert (a.state, a.reason, a.node, a.comment, a.name) == ("RUNNING", "", "node2", "gra:x:01 |y", "gra, a")
    assert a.time_left_s == 26 * 3600 + 3 * 60 + 4
    assert a.running and not a.waiting and a.active
    assert (b.id, b.reason, b.node, b.comment, b.time_left_s) == ("7_4", "Dependency", "", "", 1800)
    assert b.waiting and not b.running and not b.hopeless
    assert (c.id, c.index, c.time_left_s, c.running) == ("9", None, None, True)


def test_lines_of_other_shape_are_passed_over() -> None:
    text = "CLUSTER: hal\n" + RUNNING + "some site's notice\n" + WAITING + "CLUSTER: eve\n" + SINGLE
    assert [t.id for t in slurm.parse_queue(text)] == ["7_3", "7_4", "9"]
    assert slurm.parse_queue("") == []


def test_a_dependency_that_cannot_be_met_is_hopeless() -> None:
    (task,) = slurm.parse_queue(WAITING.replace("Dependency", "DependencyNeverSatisfied"))
    assert task.hopeless


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30:00", 1800),
        ("5", 300),
        ("1:02:03", 3723),
        ("2-00", 2 * 86400),
        ("2-01:30", 2 * 86400 + 5400),
        ("7-00:00:00", 7 * 86400),
        ("0:00", 0),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("NONE", None),
        ("", None),
    ],
)
def test_times(text: str, expected: int | None) -> None:
    assert slurm.seconds_of(text) == expected


@given(st.sets(st.integers(0, 400)))
def test_index_ranges_name_exactly_the_indices(indices: set[int]) -> None:
    text = slurm.index_ranges(indices)
    named: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        named |= set(range(int(first), int(last or first) + 1))
    assert named == indices
    assert slurm.index_ranges([3, 1, 2, 7, 9, 10]) == "1-3,7,9-10"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu:8", (Gpu("", 8),)),
        ("gpu:a100:4(S:0-1)", (Gpu("a100", 4),)),
        ("gpu:nvidia_a100_3g.20gb:2,gpu:1g.5gb:1", (Gpu("nvidia_a100_3g.20gb", 2), Gpu("1g.5gb", 1))),
        ("craynetwork:4,gpu:h100-80:8(S:0,1),lscratch:700", (Gpu("h100-80", 8),)),
        ("shard:gpu:4", ()),
        ("(null)", ()),
        ("", ()),
    ],
)
def test_gpus(text: str, expected: tuple[Gpu, ...]) -> None:
    assert cluster.parse_gpus(text) == expected


def test_partitions() -> None:
    partitions = (
        "PartitionName=gpu AllowAccounts=ALL AllowQos=short,long Default=YES DefaultTime=01:00:00 GraceTime=120 "
        "MaxTime=2-00:00:00 PreemptMode=REQUEUE PriorityTier=5 State=UP TotalNodes=3\n"
        "PartitionName=old AllowAccounts=a,b AllowQos=ALL Default=NO DefaultTime=NONE MaxTime=UNLIMITED State=DOWN\n"
    )
    nodes = "".join(
        S.join(fields) + "\n"
        for fields in [
            ("gpu", "2", "64", "512000+", "gpu:a100:4(S:0-1)", "a100,ib"),
            ("gpu", "1", "64", "512000+", "gpu:a100:4(S:0-1)", "a100,ib"),
            ("gpu", "1", "32", "256000", "(null)", "(null)"),
        ]
    )
    gpu, old = cluster.parse_partitions(partitions, nodes)
    assert (gpu.default, gpu.up, gpu.time_limit_min, gpu.default_time_min) == (True, True, 2880, 60)
    assert (gpu.grace_s, gpu.priority_tier, gpu.qos, gpu.accounts) == (120, 5, ("short", "long"), ())
    assert gpu.nodes == (NodeKind(3, 64, 512000, (Gpu("a100", 4),), ("a100", "ib")), NodeKind(1, 32, 256000, (), ()))
    assert (old.default, old.up, old.time_limit_min, old.accounts, old.nodes) == (False, False, None, ("a", "b"), ())


def script(directory: Path, name: str, body: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_a_missing_command_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match=r"squeue: command not found.*site.executor=local"):
        slurm.queue()


def test_a_command_that_hangs_is_slurm_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "squeue", "exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SlurmDownError, match=r"no answer from Slurm within 0.5 s"):
        slurm.queue(timeout=0.5)


@pytest.mark.parametrize(
    "words",
    [
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "slurm_load_jobs error: Socket timed out on send/recv operation",
        "squeue: error: slurm_receive_msg: Zero Bytes were transmitted or received",
    ],
)
def test_slurms_words_for_down(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "squeue", f"echo '{words}' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SlurmDownError, match=r"does not answer: .*(contact|timed out|Zero Bytes)"):
        slurm.queue()


def test_the_users_own_formats_do_not_reach_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "squeue", "env")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setenv("SQUEUE_STATES", "FAILED")
    monkeypatch.setenv("SLURM_CONF", "/somewhere/slurm.conf")
    seen = slurm.output_of(["squeue"])
    assert "SQUEUE_" not in seen
    assert "SLURM_CONF=/somewhere/slurm.conf" in seen


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys; import gra_hpc.launch.slurm, gra_hpc.site.cluster;"
        "print([m for m in ('torch', 'vllm', 'submitit', 'numpy', 'pyarrow', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
