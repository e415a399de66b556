"""Presets and their checks, examples out of releases and files, checkpoints, ranks."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, get_args, get_type_hints

import psutil
import pytest

from gra_hpc import storage
from gra_hpc.config import explain as explain_module
from gra_hpc.config import output_settings
from gra_hpc.errors import ConfigError, FingerprintError, LaunchError, ReleaseError, SeedError
from gra_hpc.evaluation.config import EvaluateConfig
from gra_hpc.launch.submissions import Job, Submission
from gra_hpc.signals import Signals
from gra_hpc.training import ranks
from gra_hpc.training.config import FinetuneConfig, Meeting, Trained, compose
from gra_hpc.training.directory import COMPLETE, FinetuneDir, attempts, newest, next_number
from gra_hpc.training.examples import read_examples
from gra_hpc.training.job import demand, explain, last_end, refuse_absent_data
from gra_hpc.training.rank.settings import deepspeed_settings
from gra_hpc.training.ranks import Rendezvous, first_host, rendezvous, run_ranks
from tests.waiting import ended, until

PAPER = ["model.path=m", "data.path=d", "site.gpus_per_node=8"]


def test_the_papers_settings() -> None:
    c = compose("paper", PAPER)
    o = c.optimizer
    assert (o.epochs, o.global_batch, o.learning_rate, o.schedule, o.warmup, o.weight_decay) == (
        1, 256, 5e-6, "cosine", 0.03, 0.0,
    )  # fmt: skip
    assert (o.micro_batch, c.accumulation, c.world) == (4, 8, 8), "4 x 8 x 8, as printed"
    assert c.data.max_length == 4096
    settings = deepspeed_settings(c)
    assert settings["zero_optimization"]["stage"] == 2 and settings["bf16"] == {"enabled": True}


def test_zero_3_offload_and_extra() -> None:
    words = ["deepspeed.zero=3", "deepspeed.offload_optimizer=cpu", "deepspeed.offload_parameters=cpu"]
    c = compose(
        "paper", [*PAPER, *words, "deepspeed.extra={zero_optimization: {sub_group_size: 1}, prescale_gradients: true}"]
    )
    settings = deepspeed_settings(c)
    zero = settings["zero_optimization"]
    assert zero["stage"] == 3 and zero["offload_param"]["device"] == "cpu" and zero["sub_group_size"] == 1
    assert settings["prescale_gradients"] is True and zero["stage3_gather_16bit_weights_on_model_save"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.learnin_rate=1"], r"unknown key optimizer\.learnin_rate; did you mean learning_rate\?"),
        (["learning_rate=1"], r"unknown key learning_rate; did you mean optimizer\.learning_rate\?"),
        (["launch.nodes=three"], r"launch\.nodes"),
        (["optimizer.global_batch=100"], r"a multiple of 32 \(micro_batch 4 x 8 ranks\)"),
        (["deepspeed.zero=4"], "1, 2 or 3"),
        (["deepspeed.offload_parameters=cpu"], r"none, unless deepspeed\.zero=3"),
        (["model.chat_template=alpca"], "a Jinja file, or alpaca"),
        (["site.partitoin=x"], r"did you mean .*partition"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose("paper", [*PAPER, *words])


def test_values_that_are_needed() -> None:
    with pytest.raises(ConfigError, match=r"model\.path: a value is required"):
        compose("paper", ["data.path=d"])
    with pytest.raises(ConfigError, match=r"preset papr: no such file or preset; did you mean"):
        compose("papr", PAPER)


def test_what_is_frozen(tmp_path: Path) -> None:
    """Where a job runs may change, what it makes may not; the number of ranks counts as what it makes."""
    c = compose("paper", PAPER)
    output_settings.freeze(tmp_path / "job", c)
    output_settings.freeze(
        tmp_path / "job", compose("paper", [*PAPER, "site.partition=long", "checkpoint.every_steps=5"])
    )
    assert "partition: long" in (tmp_path / "job" / "config.yaml").read_text()
    with pytest.raises(FingerprintError, match=r"optimizer\.learning_rate"):
        output_settings.freeze(tmp_path / "job", compose("paper", [*PAPER, "optimizer.learning_rate=1e-5"]))
    with pytest.raises(FingerprintError):
        output_settings.freeze(
            tmp_path / "job", compose("paper", ["model.path=m", "data.path=d", "site.gpus_per_node=4"])
        )


def test_what_slurm_is_asked_for(tmp_path: Path) -> None:
    words = [*PAPER, "launch.nodes=2", "site.executor=slurm", "site.partition=gpu", "site.cpus_per_task=64"]
    words += ["optimizer.global_batch=512", "launch.time_minutes=600"]
    text = "\n".join(explain(tmp_path / "job", compose("paper", words), plan=True))
    assert "16 ranks on 2 nodes: 4 rows x 8 accumulation x 16 = 512 rows a step" in text
    for line in ("nodes=2", "ntasks-per-node=1", "gpus-per-node=8", "time=600", "signal=USR2@300", "requeue"):
        assert f"#SBATCH --{line}\n" in text, text
    assert "--cpus-per-task=64" in text


def test_data_that_are_not_there_are_refused_before_anything_is_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "begun").mkdir(parents=True)
    (tmp_path / "runs" / "begun" / "plan.json").write_text("{}")
    (tmp_path / "chats.jsonl").write_text("")
    absent = "no such file or directory"
    for path, words in (
        ("runs/nosuch", f"data.path=runs/nosuch: {absent} -> ls runs"),
        ("./nosuch.jsonl", f"data.path=./nosuch.jsonl: {absent}"),
        ("runs/begun", "no release yet -> gra resume runs/begun; or --after ID"),
    ):
        config = compose("paper", ["model.path=m", f"data.path={path}", "site.gpus_per_node=8"])
        with pytest.raises((SeedError, ReleaseError)) as e:
            refuse_absent_data(tmp_path / "job", config)
        assert words in str(e.value)
        (tmp_path / "job" / "tokens").mkdir(parents=True)
        refuse_absent_data(tmp_path / "job", config)  # they were prepared
        (tmp_path / "job" / "tokens").rmdir()
    refuse_absent_data(tmp_path / "job", compose("paper", ["model.path=m", "data.path=chats.jsonl"]))


def test_how_the_last_job_ended_is_told(tmp_path: Path) -> None:
    made = FinetuneDir(tmp_path / "job")
    assert not list(last_end(made))
    Submission("s00001-a", 0.0, [Job("finetune", 0, id="100")], path=str(made.path)).save(made)
    assert "job 100 ended: without a word (log: " in next(last_end(made))
    log = made.logs / "100" / "100_0_log.out"
    log.parent.mkdir(parents=True)
    log.write_text(
        "RuntimeError: gloo\ngra_hpc.errors.LaunchError: rank 0: no data -> mend it\nRuntimeError: of another\n"
    )
    assert next(last_end(made)).startswith("job 100 ended: rank 0: no data (log: ")


def test_time_to_save(tmp_path: Path) -> None:
    assert demand(compose("paper", PAPER)).lead_s == 300
    assert demand(compose("paper", [*PAPER, "launch.lead_s=600"])).lead_s == 600


def test_examples_of_files(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        {
            "conversations": [
                {"from": "human", "value": "A"},
                {"from": "gpt", "value": "B"},
                {"from": "human", "value": "C"},
            ]
        },
        {"instruction": "No answer.", "output": ""},
        {"messages": [{"role": "tool", "content": "x"}]},
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + "not json\n")
    found = read_examples(str(path))
    assert [c.messages[-1]["content"] for c in found.conversations] == ["3", "Hello", "B"]
    assert found.conversations[0].messages[0]["content"] == "Add.\n\n1 and 2"
    assert found.read == 6 and sum(found.refused.values()) == 3, found.refused
    limited = read_examples(str(path), limit=2, limit_seed=1)
    assert len(limited.conversations) == 2 and limited.refused["beyond data.limit"] == 1
    with pytest.raises(SeedError):
        read_examples(str(tmp_path / "nothing.jsonl"))


def test_examples_of_releases(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    release = tmp_path / "run" / "release"
    (release / "data").mkdir(parents=True)
    (tmp_path / "run" / "plan.json").write_text("{}")
    with pytest.raises(ReleaseError, match="no release yet -> gra status"):
        read_examples(str(tmp_path / "run"))
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    table = release / "data" / "train-0.parquet"
    pq.write_table(pa.table({"messages": [chat, chat], "score": [9.5, 8.0]}), table)
    manifest: dict[str, Any] = {"fingerprint": "f", "files": {"data/train-0.parquet": storage.entry(table)}}
    (release / "manifest.json").write_bytes(storage.to_json(manifest))
    assert len(read_examples(str(tmp_path / "run")).conversations) == 2
    assert len(read_examples(str(release), min_score=9).conversations) == 1
    with pytest.raises(ReleaseError, match="no validation split"):
        read_examples(str(release), split="validation")
    data = bytearray(table.read_bytes())
    data[data.index(b"Q")] ^= 1
    table.write_bytes(data)
    with pytest.raises(ReleaseError, match=r"train-0\.parquet: changed since it was written .* -> gra release verify"):
        read_examples(str(release))
    (release / "manifest.json").write_bytes(storage.to_json(manifest | {"files": {}}))
    with pytest.raises(ReleaseError, match=r"train-0\.parquet: not in the release's manifest"):
        read_examples(str(release))


INLINE = "<think>\nTwo and two.\n</think>\n\n4"


def thoughtful(path: Path, released: str) -> Path:
    """A release whose first row was thought out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (path / "data").mkdir(parents=True)
    said = INLINE if released == "inline" else "4"
    chats = [[{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": text}] for text in (said, "5")]
    rows: dict[str, Any] = {"messages": chats, "response": ["4", "5"], "score": [9.5, 8.0]}
    if released != "drop":
        rows["thoughts"] = ["Two and two.", ""]
    table = path / "data" / "train-0.parquet"
    pq.write_table(pa.table(rows), table)
    manifest = {"files": {"data/train-0.parquet": storage.entry(table)}, "config": {"release": {"thoughts": released}}}
    (path / "manifest.json").write_bytes(storage.to_json(manifest))
    return path


@pytest.mark.parametrize(
    ("released", "thoughts", "first"),
    [
        ("drop", "auto", "4"),
        ("drop", "drop", "4"),
        ("column", "auto", "4"),
        ("column", "inline", INLINE),
        ("column", "drop", "4"),
        ("inline", "auto", INLINE),
        ("inline", "inline", INLINE),
        ("inline", "drop", "4"),
    ],
)
def test_thoughts_of_a_release_are_trained_on_as_it_is_asked(
    tmp_path: Path, released: str, thoughts: str, first: str
) -> None:
    found = read_examples(str(thoughtful(tmp_path / "release", released)), thoughts=Trained(thoughts))
    assert [e.messages[-1]["content"] for e in found.conversations] == [first, "5"]


def test_thoughts_that_a_release_does_not_have_are_not_trained_on(tmp_path: Path) -> None:
    release = str(thoughtful(tmp_path / "release", "drop"))
    with pytest.raises(ReleaseError, match=r"has no thoughts -> gra merge RUN release\.thoughts=column"):
        read_examples(release, thoughts=Trained.inline)


@pytest.mark.parametrize(
    "answer",
    [
        {"content": "<think>Two and two.</think>\n\n4"},  # as in thinking.jsonl, and the next
        {"content": "4", "reasoning_content": "Two and two."},
        {"content": "4", "reasoning": "Two and two."},
        {"content": "[THINK]Two and two.[/THINK]4"},
        {"content": "<|channel|>analysis<|message|>Two and two.<|end|><|channel|>final<|message|>4"},
        {"content": [{"type": "thinking", "thinking": "Two and two."}, {"type": "text", "text": "4"}]},
    ],
)
def test_thoughts_of_a_file_are_trained_on_unless_they_are_dropped(tmp_path: Path, answer: dict[str, Any]) -> None:
    (tmp_path / "chat.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", **answer}]})
    )
    for thoughts, text in (("auto", INLINE), ("inline", INLINE), ("drop", "4")):
        (example,) = read_examples(str(tmp_path / "chat.jsonl"), thoughts=Trained(thoughts)).conversations
        assert example.messages[-1] == {"role": "assistant", "content": text}, thoughts


def checkpoint(out: FinetuneDir, attempt: str, step: int, sizes: dict[str, int] | None) -> Path:
    path = out.checkpoints / attempt / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "weights").write_bytes(b"x" * 10)
    if sizes is not None:
        (path / COMPLETE).write_text(json.dumps({"step": step, "files": sizes}))
    return path


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    out = FinetuneDir(tmp_path)
    assert newest(out) is None
    good = checkpoint(out, "job-1.0", 5, {"weights": 10})
    checkpoint(out, "job-1.1", 9, None)
    checkpoint(out, "job-1.1", 8, {"weights": 11})
    checkpoint(out, "job-1.1", 7, {"weights": 10, "optimizer": 3})
    (out.checkpoints / "job-1.1" / "checkpoint-6").mkdir()
    (out.checkpoints / "job-1.1" / "checkpoint-6" / COMPLETE).write_text("{")
    found = newest(out)
    assert found and found.path == good and found.step == 5


def test_attempts_keep_their_order_whatever_clocks_say(tmp_path: Path) -> None:
    out = FinetuneDir(tmp_path)
    assert attempts(out) == [] and next_number(out) == 1
    names = ["local-20990101T000000-7", "local-00001-12", "local-00002-3", "job-9_2.0", "job-9_2.1", "job-10_1.0"]
    for i, name in enumerate(names):
        (out.checkpoints / name).mkdir(parents=True)
        os.utime(out.checkpoints / name, (1e9 - i, 1e9 - i))
    assert [p.name for p in attempts(out) if p.name.startswith("local")] == names[:3]
    assert [p.name for p in attempts(out) if p.name.startswith("job")] == names[3:]
    assert next_number(out) == 3


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [("n1", "n1"), ("n[3-5,9],x1", "n3"), ("a,b", "a"), ("r[01-02]n[007,9]", "r01n007"), ("node[12]", "node12")],
)
def test_first_host(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


def test_rendezvous_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    env = {"SLURM_JOB_ID": "42", "SLURM_RESTART_COUNT": "1", "SLURM_NODEID": "1", "SLURM_STEP_NUM_NODES": "2"}
    env |= {"SLURM_STEP_NODELIST": "localhost,other", "SLURM_JOB_NODELIST": "localhost,other"}
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    here = rendezvous(2, 1)
    assert (here.node, here.nodes, here.attempt, here.port) == (1, 2, "job-42.1", 0)
    monkeypatch.setenv("SLURM_NODEID", "0")
    assert rendezvous(2, 1).file == here.file == "job-42.1.0", "the same on all nodes"
    monkeypatch.setenv("SLURM_STEP_ID", "3")
    assert rendezvous(2, 1).file == "job-42.1.3", "another step of the job meets in another file"
    here = rendezvous(2, 1, Meeting.port)
    assert (here.address, here.file) == ("localhost", "")
    monkeypatch.setenv("SLURM_NODEID", "1")
    assert rendezvous(2, 1, Meeting.port).port == here.port, "the same on all nodes"
    monkeypatch.setenv("SLURM_JOB_NODELIST", "nowhere.invalid")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "nowhere.invalid")
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.7")
    assert rendezvous(2, 1, Meeting.port).address == "10.0.0.7"
    with pytest.raises(LaunchError, match=r"launch\.nodes=4, but this is 2 nodes"):
        rendezvous(4, 1)


def here() -> Rendezvous:
    return Rendezvous(0, 1, "test")


def test_a_failed_rank_ends_the_others(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys, time\n"
        f"up = pathlib.Path({str(tmp_path / 'up')!r})\n"
        "while os.environ['RANK'] == '1' and not up.exists(): time.sleep(0.01)\n"
        "if os.environ['RANK'] == '1': print('finetune: no such file'); sys.exit(3)\n"
        "print('I wait', flush=True)\n"
        "if os.environ['RANK'] == '2': up.touch()\n"
        "time.sleep(10**6)\n"
    )
    with pytest.raises(LaunchError, match=r"rank 1: ended with code 3: no such file \(log: .*rank-0001.log\)"):
        run_ranks([sys.executable, "-c", code], 3, here(), tmp_path / "logs", Signals())
    assert "I wait" in (tmp_path / "logs" / "rank-0002.log").read_text()


def test_a_warning_reaches_ranks_that_start_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent while a rank cannot handle it yet, it is sent again; nobody dies of it."""
    code = (
        "import os, pathlib, signal, sys, time\n"
        f"where = pathlib.Path({str(tmp_path)!r})\n"
        "(where / f'up-{os.environ[\"RANK\"]}').touch()\n"
        "while not (where / f'sent-{os.getpid()}').exists(): time.sleep(0.01)\n"
        "signal.signal(signal.SIGUSR2, lambda *_: sys.exit(75))\n"
        "time.sleep(10**6)\n"
    )
    send = subprocess.Popen.send_signal

    def noted(process: subprocess.Popen[bytes], number: int) -> None:
        send(process, number)
        (tmp_path / f"sent-{process.pid}").touch()

    def warn() -> None:
        until(lambda: len(list(tmp_path.glob("up-*"))) == 2)
        os.kill(os.getpid(), signal.SIGUSR2)

    monkeypatch.setattr(subprocess.Popen, "send_signal", noted)
    monkeypatch.setattr(ranks, "REPEAT_S", 0.1)
    with Signals().caught() as signals:
        threading.Thread(target=warn, daemon=True).start()
        codes = run_ranks([sys.executable, "-c", code], 2, here(), tmp_path / "logs", signals)
    assert codes == [75, 75]


def test_ranks_die_with_their_launcher(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from gra_hpc.training.ranks import *\n"
        "where = Rendezvous(0, 1, 'test')\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(10**6)']\n"
        f"run_ranks(sleep, 2, where, pathlib.Path({str(tmp_path)!r}), Signals())\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: len(psutil.Process(launcher.pid).children()) == 2, lambda: launcher.poll() is None)
    children = psutil.Process(launcher.pid).children()
    launcher.kill()
    launcher.wait()
    ended(children)


@pytest.mark.parametrize("kind", [FinetuneConfig, EvaluateConfig])
def test_every_key_is_explained(kind: type) -> None:
    def walk(cls: Any) -> None:
        docs = explain_module.field_docs(cls)
        for name, hint in get_type_hints(cls).items():
            assert docs.get(name), f"{cls.__name__}.{name} has no docstring"
            for inner in (hint, *get_args(hint)):
                if dataclasses.is_dataclass(inner):
                    walk(inner)

    walk(kind)
