"""gra_hpc.launch.slurm against a real Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gra_hpc.errors import LaunchError, SlurmDownError
from gra_hpc.launch import slurm
from gra_hpc.site import cluster as cluster_facts
from gra_hpc.site.cluster import Gpu, NodeKind
from tests.waiting import until

pytestmark = pytest.mark.slurm


def test_queue_shows_array_tasks_and_jobs_one_by_one(slurm_env) -> None:
    array = slurm_env.sbatch("--array=0-2,7", "--comment=gra:x:01", "--job-name=a, b", "--time=90", "--wrap=sleep 60")
    single = slurm_env.sbatch("--hold", "--wrap=true")
    slurm_env.wait_state(array, "RUNNING")
    tasks = {t.id: t for t in slurm.queue()}
    assert set(tasks) == {f"{array}_{i}" for i in (0, 1, 2, 7)} | {str(single)}
    running, held = tasks[f"{array}_7"], tasks[str(single)]
    assert (running.job, running.index, running.state, running.comment) == (array, 7, "RUNNING", "gra:x:01")
    assert (running.name, running.restarts, running.reason) == ("a, b", 0, "")
    assert running.node.startswith("node")
    assert running.time_left_s is not None and 5300 < running.time_left_s <= 5400
    assert running.raw_id == int(slurm_env.run("squeue", "-h", "-j", running.id, "-o", "%A"))
    assert (held.index, held.state, held.reason, held.node) == (None, "PENDING", "JobHeldUser", "")
    assert len(slurm.queue([array])) == 4
    assert [t.id for t in slurm.queue([f"{array}_2", single])] == [str(single), f"{array}_2"]
    assert len(slurm.queue(comment="gra:x:")) == 4
    assert slurm.queue(comment="gra:y:") == []
    assert slurm.queue(user="nobody") == []


def test_waiting_tasks_are_expanded_too(slurm_env) -> None:
    array = slurm_env.sbatch("--array=5-9%2", "--hold", "--wrap=true")
    assert [t.index for t in slurm.queue([array])] == [5, 6, 7, 8, 9]
    assert all(t.waiting and not t.running for t in slurm.queue([array]))


def test_finished_and_forgotten_jobs(slurm_env) -> None:
    job = slurm_env.sbatch("--wrap=exit 3")
    slurm_env.wait_state(job, "FAILED")
    assert slurm.queue([job]) == []
    (task,) = slurm.queue([job], finished=True)
    assert (task.state, task.active) == ("FAILED", False)
    assert slurm.queue([999_999]) == []
    assert slurm.queue([999_998, 999_999]) == []


def test_cancel_takes_tasks_arrays_and_what_has_ended(slurm_env) -> None:
    array = slurm_env.sbatch("--array=0-3", "--wrap=sleep 60")
    slurm_env.wait_state(array, "RUNNING")
    slurm.cancel([f"{array}_1", f"{array}_3", 999_999])
    slurm_env.wait_until(lambda: {t.index for t in slurm.queue([array])} == {0, 2}, 30)
    slurm.cancel([array])
    slurm_env.wait_until(lambda: slurm.queue([array]) == [], 30)
    slurm.cancel([array])
    slurm.cancel([])


def test_hold_release_requeue(slurm_env) -> None:
    job = slurm_env.sbatch("--requeue", "--begin=now+1hour", "--wrap=sleep 60")
    slurm.hold([job])
    assert slurm.queue([job])[0].reason.startswith("JobHeld")
    slurm.release([job])
    assert not slurm.queue([job])[0].reason.startswith("JobHeld")
    array = slurm_env.sbatch("--requeue", "--array=0-1", "--wrap=sleep 60")
    slurm_env.wait_state(array, "RUNNING")
    slurm.requeue([f"{array}_0", f"{array}_1"])
    slurm_env.wait_until(lambda: [t.restarts for t in slurm.queue([array])] == [1, 1], 30)
    slurm_env.wait_state(array, "RUNNING", 60)


@pytest.mark.usefixtures("slurm_env")
def test_a_refusal_quotes_slurm() -> None:
    with pytest.raises(LaunchError, match="scontrol requeue: Slurm refused: Invalid job id specified") as e:
        slurm.requeue([999_999])
    assert not isinstance(e.value, SlurmDownError)
    with pytest.raises(LaunchError, match="invalid partition specified: nowhere"):
        slurm.output_of(["sbatch", "--partition=nowhere", "--wrap=true"])


@pytest.mark.usefixtures("slurm_env")
def test_cluster_info() -> None:
    info = cluster_facts.cluster_info()
    assert (info.name, info.max_array_size, info.user_signal, info.requeue) == ("mini", 10001, True, True)
    assert (info.accounting, info.accounts, info.qos, info.wckeys, info.kill_wait_s) == (False, (), (), False, 2)
    assert slurm.max_array_size() == 10001
    low, high = info.partitions
    assert info.default_partition == low
    assert (low.name, low.preempt_mode, low.grace_s, low.time_limit_min, low.up) == ("low", "REQUEUE", 10, None, True)
    assert (high.name, high.preempt_mode) == ("high", "OFF")
    assert high.priority_tier > low.priority_tier
    assert low.nodes == (NodeKind(4, 32, 64000, (Gpu("", 8),), ()),)


def test_gpus_are_bound_to_tasks(slurm_env, tmp_path: Path) -> None:
    """The fake GPUs are real to Slurm: two jobs on one node get different ones."""
    jobs = [
        slurm_env.sbatch(
            "--nodelist=node1",
            "--gpus-per-node=4",
            f"--output={tmp_path}/{i}",
            "--wrap=echo $CUDA_VISIBLE_DEVICES; sleep 5",
        )
        for i in range(2)
    ]
    for job in jobs:
        slurm_env.wait_state(job, "COMPLETED")
    seen = [(tmp_path / str(i)).read_text().strip() for i in range(2)]
    assert sorted(seen) == ["0,1,2,3", "4,5,6,7"]


def test_down_and_up_again(slurm_env) -> None:
    job = slurm_env.sbatch("--wrap=sleep 60")
    slurm_env.wait_state(job, "RUNNING")
    slurm_env.kill_ctld()
    with pytest.raises(SlurmDownError, match=r"no answer from Slurm within 2 s.*gra status"):
        slurm.queue(timeout=2)
    with pytest.raises(SlurmDownError, match="Unable to contact slurm controller"):
        slurm.queue()
    with pytest.raises(SlurmDownError):
        slurm.cancel([job], timeout=3)
    slurm_env.start_ctld()

    def back() -> bool:
        try:
            return [t.state for t in slurm.queue([job])] == ["RUNNING"]
        except SlurmDownError:  # it listens before it answers
            return False

    slurm_env.wait_until(back, 30)


def test_a_lost_node_gives_its_task_back(slurm_env) -> None:
    job = slurm_env.sbatch("--requeue", "--nodelist=node4", "--wrap=sleep 120")
    slurm_env.wait_state(job, "RUNNING")
    slurm_env.kill_node(4)
    assert slurm.queue([job])[0].state == "RUNNING"  # Slurm has not noticed
    slurm_env.wait_until(lambda: slurm.queue([job])[0].waiting, 90)
    slurm_env.start_node(4)
    slurm_env.wait_until(lambda: (t := slurm.queue([job])[0]).running and t.restarts == 1, 60)


def test_ten_thousand_tasks_in_one_query(slurm_env) -> None:
    arrays = [slurm_env.sbatch("--array=0-4999", "--hold", "--wrap=true") for _ in range(2)]
    assert len(slurm.queue(arrays)) == 10_000


def test_the_sacct_stand_in_answers_as_submitit_asks(slurm_env) -> None:
    job = slurm_env.sbatch("--array=0-1", "--wrap=true")
    slurm_env.wait_state(job, "COMPLETED")
    lines = slurm_env.run("sacct", "-o", "JobID,State,NodeList", "--parsable2", "-j", job).splitlines()
    assert lines[0] == "JobID|State|NodeList"
    assert {row.split("|")[0]: row.split("|")[1] for row in lines[1:]} == {
        f"{job}_0": "COMPLETED",
        f"{job}_1": "COMPLETED",
    }


def test_accounts_and_qos(cluster_acct, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in cluster_acct.env.items():
        monkeypatch.setenv(key, value)
    cluster_acct.run("sacctmgr", "-i", "add", "qos", "spot")
    cluster_acct.run("sacctmgr", "-i", "add", "account", "lab")
    cluster_acct.run("sacctmgr", "-i", "add", "user", "root", "account=lab", "qos=normal,spot")
    info = cluster_facts.cluster_info()
    assert info.accounting
    assert "lab" in info.accounts
    assert info.default_account in info.accounts
    assert {"normal", "spot"} <= set(info.qos)
    job = cluster_acct.sbatch("--wrap=exit 3")
    cluster_acct.wait_until(lambda: "FAILED|3:0" in cluster_acct.run("sacct", "-nXPj", job, "-ostate,exitcode"), 30)


def test_a_killed_test_session_leaves_no_daemon(tmp_path: Path) -> None:
    """SIGKILL for the process that holds a cluster: its watcher stops it."""
    ready = tmp_path / "ready"
    code = (
        "import pathlib, sys, time; sys.path.insert(0, sys.argv[1]); from conftest import mini_slurm\n"
        "with mini_slurm() as c: pathlib.Path(sys.argv[2]).write_text(str(c.directory)); time.sleep(300)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), str(ready)])
    try:
        until(lambda: ready.exists() and ready.read_text(), lambda: holder.poll() is None)
        time.sleep(0.5)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    directory = Path(ready.read_text())
    pids = [int(p.read_text()) for p in (directory / "run").glob("*.pid")]
    assert len(pids) == 6  # munged, slurmctld, four slurmd
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids) and not directory.exists())
