"""Whole runs on a real cluster: from `gra submit` to a release that others open."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MiniSlurm, mini_slurm
from slurm_runs import SEEDS, SHARDS, SITE

from gra_hpc.config.presets import compose
from gra_hpc.run.directory import RunDir
from gra_hpc.run.merged import Merged
from gra_hpc.run.planning import make
from gra_hpc.run.rounds import remaining
from gra_hpc.run.worker import run_shard
from gra_hpc.storage import read_json
from tests.conftest import known_classes

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

MakeRun = Callable[..., Any]


def test_an_array_and_a_merge_make_a_release(cluster: MiniSlurm, slurm_run: MakeRun, tmp_path: Path) -> None:
    run = slurm_run(cluster)
    said = run.submit()
    array, merge = run.jobs()
    assert (array.kind, array.shards, merge.kind) == ("workers", list(range(SHARDS)), "merge")
    assert f"round 1: array {array.id} of 4 workers for 4 shards" in said
    assert f"merge {merge.id} after afterany:{array.id}" in said
    run.wait_release()
    run.check()
    assert [len(run.attempts(n)) for n in range(SHARDS)] == [1] * SHARDS
    assert {run.attempts(n)[0]["job"] for n in range(SHARDS)} <= {f"{array.id}_{n}" for n in range(SHARDS)}
    manifest = read_json(run.run.release / "manifest.json")
    rows = sum(split["rows"] for split in manifest["splits"].values())
    assert rows > 5
    from datasets import load_dataset

    opened = load_dataset(str(run.run.release), cache_dir=str(tmp_path))
    assert sum(split.num_rows for split in opened.values()) == rows
    assert manifest["ledger"]["planned"] == SEEDS
    assert run.resume().strip() == f"nothing left to do; release in {run.run.release}"


@pytest.mark.vllm
def test_eight_shards_two_with_real_engines(
    cluster: MiniSlurm, monkeypatch: pytest.MonkeyPatch, smollm2: Path, runs_dir: Path, slurm_run: MakeRun
) -> None:
    """Tasks 0 and 1 start their own vLLM and ask a real small model, the others simulated servers; nothing is left."""
    preset = runs_dir / "vllm.yaml"
    preset.write_text(
        f"""\
models:
  small: {{path: {smollm2}, licence: apache-2.0, dtype: float32, max_model_len: 2048, kv_cache_gb: 0.3}}
committee: {{ada: {{model: small}}, ben: {{model: small}}, cyd: {{model: small}}}}
seeds: {{path: {runs_dir / f"seeds-{SEEDS}.jsonl"}, licence: cc0-1.0}}
method:
  {{review_instruction: false, accept_mean: 1, accept_sd: 4, reviewers: 2, verdict_tokens: 96,
   sampling: {{max_tokens: 24, temperature: 0.4, repetition_penalty: 1.1}}}}
merge: {{semantic: false}}
launch: {{shards: {SEEDS}, window: 1}}
release: {{licence: apache-2.0, validation: 0}}
"""
    )
    for key, value in cluster.env.items():
        monkeypatch.setenv(key, value)
    shims = Path(__file__).parent / "simulated_tasks"
    only_some = f"site.setup=['if [ 0$SLURM_ARRAY_TASK_ID -gt 1 ]; then export PYTHONPATH={shims}; fi']"
    made = make(
        runs_dir / "vllm", compose(str(preset), [*SITE, "site.cpus_per_task=1", only_some, f"launch.workers={SEEDS}"])
    )
    run = slurm_run(cluster)  # for its commands; the run is another
    run.run, run.shards = made, [made.round(1).shard(n) for n in range(SEEDS)]
    with known_classes(Path(tempfile.gettempdir())):
        run.submit()
        run.wait_release(500)
    manifest = read_json(made.release / "manifest.json")
    assert manifest["ledger"]["planned"] == SEEDS
    assert manifest["ledger"]["pending"] == 0
    real: set[int] = set()
    for shard in run.shards:
        published = read_json(shard.manifest)
        assert sum(e["calls"] for e in published["engines"]["engines"].values()) >= 3
        attempt = published["attempts"][-1]
        task = int(attempt["job"].rpartition("_")[2])
        said = "".join(p.read_text() for p in (made.logs / attempt["worker"]).glob("engine-*.log"))
        assert ("vLLM" in said) == (task < 2), (task, said[-2000:])
        real |= {task} & {0, 1}
    assert real, "workers with real engines begin with shards of their own, and may take more"
    from datasets import load_dataset

    opened = load_dataset(str(made.release), cache_dir=str(runs_dir / "cache"))
    rows = sum(split["rows"] for split in manifest["splits"].values())
    assert sum(split.num_rows for split in opened.values()) == rows


def test_an_array_is_split_at_the_sites_limit(slurm_run: MakeRun) -> None:
    with mini_slurm(array=2) as small:
        run = slurm_run(small)
        said = run.submit()
        one, two, merge = run.jobs()
        assert (one.shards, two.shards, merge.kind) == ([0, 1], [2, 3], "merge")
        assert f"merge {merge.id} after afterany:{one.id}:{two.id}" in said
        run.wait_release()
        run.check()
        small.clear()


def test_two_small_rounds_are_one_array_of_workers(cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    """The first round is merged beside the engines; its workers go on with the second, which it sizes and pools."""
    # calls are slow: no round is through before `gra resume` is typed
    run = slurm_run(cluster, "method.rounds=2", "launch.shards=2", "engine.simulated_latency_s=2")
    said = run.submit()
    array, merge = run.jobs()
    assert (array.rounds, merge.kind, merge.rounds) == (range(1, 3), "merge", range(1, 3))
    assert f"rounds 1 to 2: array {array.id} of 2 workers for 4 shards" in said
    assert f"round 2: merge {merge.id} after afterany:{array.id}" in said
    said = run.resume()
    assert said.splitlines()[-2:][0] == "nothing to submit: all that is left is in the queue", said + run.logs()
    run.wait_release()
    assert len(run.jobs()) == 2
    manifest = read_json(RunDir(run.run.path).round(2).manifest)
    assert manifest["ledger"]["planned"] == SEEDS
    jobs = {a["job"] for n in (1, 2) for s in (0, 1) for a in read_json(run.run.round(n).shard(s).manifest)["attempts"]}
    assert jobs <= {f"{array.id}_0", f"{array.id}_1"}
    assert "merged beside the engines" in run.logs()


def test_two_rounds_follow_each_other(cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    """Where the first is too large for that, the second round's array waits for its merge."""
    run = slurm_run(cluster, "method.rounds=2", "launch.shards=2", "launch.inline_merge_rows=0")
    run.submit()
    first, merge, second, last = run.jobs()
    assert [j.round for j in (first, merge, second, last)] == [1, 1, 2, 2]
    assert run.resume().splitlines()[-2:][0] == "nothing to submit: all that is left is in the queue"
    run.wait_release()
    assert len(run.jobs()) == 4
    manifest = read_json(RunDir(run.run.path).round(2).manifest)
    assert manifest["ledger"]["planned"] == SEEDS


def test_a_merge_job_that_needs_more_shards_after_all_lets_no_round_begin(
    cluster: MiniSlurm, slurm_run: MakeRun
) -> None:
    """It fails, Slurm removes what waits for it, and the run goes on when it is resumed."""
    words = ["launch.shards=6", "launch.window=1", "launch.stop_at_target=true", "launch.inline_merge_rows=0"]
    words += ["method.target_accepted=6", "method.expected_acceptance=0.25", "method.rounds=2"]
    words += ["method.accept_mean=1", "method.accept_sd=10", "merge.fuzzy_threshold=0.25", "merge.shingle=1"]
    run = slurm_run(cluster, *words)
    while (step := remaining(run.run)[0]).shards:  # one at a time: workers have several open
        run_shard(run.run, 1, step.shards[0])
    run.resume()
    assert [(job.kind, job.round) for job in run.jobs()] == [("merge", 1), ("workers", 2), ("merge", 2)]
    run.wait(lambda: not run.queue())
    first = Merged.of(run.run.round(1))
    assert first.taken_back and not any(run.run.round(2).shards.glob("*/attempts/*"))
    assert "those not begun are needed after all" in run.logs()
    assert f"next: gra resume {run.run.path}" in run.gra("status", run.run.path)
    run.resume("launch.stop_at_target=false")
    run.wait_release()
    assert Merged.of(run.run.round(1)).holds_all and Merged.of(run.run.round(2)).holds_all
