"""A newcomer's mistakes: each gives one clear line, which says what to do, and an exit code; and leaves nothing behind.

Those that only Slurm can find are in tests/cluster/test_refusals.py.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gra_hpc import cli
from gra_hpc.errors import ConfigError
from gra_hpc.run.directory import RunDir
from gra_hpc.run.run import Run

ROOT = Path(__file__).resolve().parent.parent
Gra = Callable[..., str]


@pytest.fixture
def gra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gra:
    """Run a command in an empty directory; what it complained of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))

    def run(*words: object, code: int = 1) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["gra", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().err
        assert ended.value.code == code, said
        if code:
            assert said.startswith("gra: ") and said.count("\n") == 1, said
            assert len(said) < 700, said
        return said

    return run


@pytest.fixture
def preset(tmp_path: Path, tiny_llama: Path) -> Path:
    rows = [{"instruction": f"Count to {n}.", "response": "1, 2", "domain": "math", "keywords": ["n"], "summary": "S"}
            for n in range(3, 7)]  # fmt: skip
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    path = tmp_path / "p.yaml"
    path.write_text(
        f"seeds: {{path: {tmp_path / 'seeds.jsonl'}}}\n"
        f"models: {{tiny: {{path: {tiny_llama}, load_format: dummy, max_model_len: 512}}}}\n"
        "committee: {a: {model: tiny}, b: {model: tiny}, c: {model: tiny}}\n"
        "merge: {semantic: false}\nengine: {kind: simulated}\n"
    )
    return path


@pytest.mark.parametrize(
    ("words", "what", "then"),
    [
        (["sumbit", "r"], "Did you mean 'submit'", "gra --help"),
        (["plan"], "missing argument 'RUN'", "gra plan --help"),
        (["plan", "r", "--prest", "demo"], "no such option: --prest", "--preset"),
        (["logs", "r", "first"], "valid int", "gra logs --help"),
        (
            ["plan", "r", "--preset", "demo", "method.reviewrs=2"],
            "unknown key method.reviewrs; did you mean reviewers?",
            "valid here",
        ),
        (
            ["plan", "r", "--preset", "demo", "temperature=1"],
            "unknown key temperature; did you mean",
            "method.sampling.temperature",
        ),
        (["plan", "r", "--preset", "demo", "reviewers"], "expected key=value", "method.reviewers=2"),
        (["plan", "r", "--preset", "demo", "method.reviewers=two"], "method.reviewers", "gra config show"),
        (["plan", "r", "--preset", "demo", "method.accept_mean=11"], "expected 1 to 10", "gra config show"),
        (["plan", "r", "--preset", "demo", "method=5"], "method=5: expected keys below it", "gra config show"),
        (
            ["plan", "r", "--preset", "demo", "committee=[a]"],
            "committee=['a']: expected keys below it (NAME)",
            "gra config show",
        ),
        (
            ["plan", "r", "--preset", "demo", "release.formats=alpaca"],
            "release.formats='alpaca': expected a list",
            "release.formats=[alpaca]",
        ),
        (
            ["plan", "r", "--preset", "demo", "method.reviewers=[2]"],
            "method.reviewers=[2]: expected one int",
            "gra config show",
        ),
        (["plan", "r", "--preset", "demo", f"method.seed={2**70}"], "expected a number of 64 bits", "gra config show"),
        (
            [
                "plan",
                "r",
                "--preset",
                "demo",
                "method.policy=fixed",
                "method.fixed={generator: ada, reviewers: [ada], adjudicator: eve}",
            ],
            "expected another member in every seat",
            "method.policy=single",
        ),
        (
            ["plan", "r", "--preset", "demo", "committee.ada.model=llama"],
            "committee.ada.model=llama: expected one of smollm2",
            "gra",
        ),
        (
            ["plan", "r", "--preset", "demo", "site.signal_lead_s=9000"],
            "at most a fifth of the time limit",
            "gra config show",
        ),
        (
            ["plan", "r", "--preset", "demo", "site.container=docker:x"],
            "apptainer:IMAGE or pyxis:IMAGE",
            "gra config show",
        ),
        (["plan", "r", "--preset", "dmo"], "did you mean demo?", "presets:"),
        (["plan", "r", "--preset", "papper"], "/paper?", "in directories beside them"),
        (["plan", "r", "--preset", "perl"], "did you mean --site perlmutter?", "demo, laptop"),
        (["report", "r"], "no such command 'report': the report is RUN/release/report.html", "gra status RUN"),
        (
            ["plan", "r", "--preset", "annotate", "method.flow=synthesize"],
            "annotate: settings of the flow annotate, and method.flow is another",
            "method.flow=annotate",
        ),
        (
            ["plan", "r", "--preset", "demo", "method.domains={verträge: x, b: y}"],
            "expected names of small letters a to z, digits and _, a letter first",
            "gra config show",
        ),
        (["flow", "new", "9x"], "expected small letters a to z, digits and _, a letter first", "gra flow new"),
        (["plan", "r", "--preset", "demo", "--site", "perlmuter"], "did you mean perlmutter?", "gra site detect"),
        (
            ["plan", "r", "--preset", "demo", "site.scratch=$FASTSCRATCH"],
            "environment variable is not set",
            "site.scratch=",
        ),
        (
            ["plan", "r", "--preset", "demo", "site.scratch=$HF_TOKEN"],
            "not among the variables that expand here",
            "docs/configuration.md",
        ),
        (
            ["plan", "r", "--preset", "demo", "release.name=${oc.env:HF_TOKEN}"],
            "may name another key",
            "write the value itself",
        ),
    ],
)
def test_on_the_command_line(gra: Gra, tmp_path: Path, words: list[str], what: str, then: str) -> None:
    said = gra(*words, code=2)
    assert what in said and then in said
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("words", "what", "then"),
    [
        (["seeds.path=alpaka.jsonl"], "alpaka.jsonl: no such file or directory", "looked in"),
        (["seeds.path=empty.jsonl"], "no record", "seeds.path"),
        (["seeds.path=odd.jsonl"], "odd.jsonl", "seeds.fields"),
        (["seeds.path=page.html"], "unknown kind of file", ".jsonl"),
        (["models.tiny.path=models/none"], "models/none: no such directory", "get_models.py"),
        (["models.tiny.path=org/none"], "org/none", " (all that it needs; alone: gra fetch org/none"),
        (["models.tiny.path=org/none", "launch.shards=1"], "org/none", "p.yaml models.tiny.path=org/none (all"),
        (["models.tiny.path=/no/model"], "no such directory", "models.NAME.path"),
        (["models.tiny.path=.", "engine.kind=vllm"], "config.json: missing", "a model directory has"),
        (["merge.semantic=true"], "all-MiniLM-L6-v2", "gra fetch sentence-transformers/all-MiniLM-L6-v2"),
        (["launch.shards=99"], "more shards than seeds (4)", "launch.shards=4"),
        (["merge.decontamination.sources=[gsm8k.json]"], "gsm8k.json: no such file", "give a file"),
    ],
)
def test_in_a_plan(gra: Gra, preset: Path, tmp_path: Path, words: list[str], what: str, then: str) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "odd.jsonl").write_text('{"foo": "a", "bar": "b"}\n' * 3)
    (tmp_path / "page.html").write_text("<html>")
    said = gra("plan", "r", "--preset", preset, *words, code=2 if "sources" in words[0] else 1)
    assert what in said and then in said
    assert "(all that" not in said or said.count("(") <= 2, "one bracket behind the caches, one behind the hint"
    assert not (tmp_path / "r").exists()


def test_in_a_file(gra: Gra, preset: Path) -> None:
    preset.write_text("seeds: {path: [unclosed\n")
    assert f"{preset} line" in gra("plan", "r", "--preset", preset, code=2)
    preset.write_text("- a list\n")
    assert "expected `key: value` lines" in gra("plan", "r", "--preset", preset, code=2)
    preset.write_text("include: [nothere]\n")
    assert "preset nothere" in gra("plan", "r", "--preset", preset, code=2)


def test_about_directories(gra: Gra, preset: Path, tmp_path: Path) -> None:
    assert "nowhere: no such directory -> gra plan nowhere" in gra("status", "nowhere")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("")
    assert "exists and is not a run" in gra("plan", "thesis", "--preset", preset)
    assert (tmp_path / "thesis" / "chapter1.tex").exists()
    said = gra("plan", preset / "r", "--preset", preset)
    assert "a file is where a directory should be" in said
    if os.getuid():
        assert "choose a directory of yours" in gra("plan", "/usr/r", "--preset", preset)


def test_out_of_order(gra: Gra, preset: Path, tmp_path: Path) -> None:
    gra("plan", "r", "--preset", preset, code=0)
    assert "shard" in gra("merge", "r")
    assert "has shards 0 to" in gra("logs", "r", 99)
    assert "it has not started yet" in gra("logs", "r", 0)
    gra("cancel", "r", code=0)  # nothing runs
    said = gra("resume", "r", "method.reviewers=2", "method.review_response=false")
    assert "planned with other settings: method.review_response: planned True, now False; method.reviewers: " in said
    then = shlex.split(said.partition("plan a new run: ")[2])
    own = str(tmp_path / "r")
    assert then == [
        *("gra", "plan", f"{own}-2", "--preset", f"{own}/run.yaml"),
        *("method.review_response=false", "method.reviewers=2"),
    ]
    gra(*then[1:], code=0)
    assert f"gra plan {own}-3 --preset" in gra("resume", "r", "method.reviewers=2"), "the next name that is free"
    assert "planned with other settings" in gra("plan", "r", "--preset", preset, "method.max_tries=9")
    gra("inspect", "r")
    said = gra("submit", "r", "launch.window=2")
    assert "never started: gra resume starts it" in said and said.count("->") == 1
    assert "-> gra resume r launch.window=2" in said
    said = gra("submit", "r", "method.reviewers=1")
    assert "method.reviewers: planned" in said and f"plan a new run: gra plan {own}-3 --preset" in said
    gra("submit", "r", code=0)
    assert "was started before; gra submit takes them with --add" in gra("submit", "r", "launch.window=2")
    assert "was started before -> gra resume" in gra("submit", "r")
    assert "abcdef" in gra("inspect", "r", "abcdef")
    assert "launch.shards=3, planned with 1 -> plan a new run" in gra("merge", "r", "launch.shards=3")
    assert "launch.shards=3, planned with 1 -> plan a new run" in gra(
        "plan", "r", "--preset", preset, "launch.shards=3"
    )
    shutil.rmtree(tmp_path / "r" / "rounds" / "01" / "shards" / "00000")
    (tmp_path / "r" / "plan.json").write_text("{")
    assert "plan.json: not valid JSON" in gra("status", "r")


def test_samples_that_cannot_be_shown(gra: Gra, preset: Path, tmp_path: Path) -> None:
    gra("plan", "r", "--preset", preset, "method.samples_per_seed=5", code=0)
    gra("submit", "r", code=0)
    gra("inspect", "r", code=0)
    assert "--status good: expected accepted, rejected or failed" in gra("inspect", "r", "--status", "good")
    shard = RunDir(tmp_path / "r").round(1).shard(0)
    (samples,), (calls,) = shard.path.glob("samples-*"), shard.path.glob("calls-*")
    ids = pq.read_table(samples, columns=["id"])["id"].to_pylist()
    twice = next(i[0] for i in ids if sum(j.startswith(i[0]) for j in ids) > 1)  # 20 ids, 16 digits
    assert f"samples begin with {twice}: " in gra("inspect", "r", twice)
    gra("inspect", "r", ids[0], code=0)
    for table in (calls, samples):
        good = table.read_bytes()
        table.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
        assert f"{table}: changed since it was written" in gra("inspect", "r")
        table.write_bytes(good[:3000])
        assert f"{table}: 3000 bytes, {len(good)} were recorded" in gra("inspect", "r")
        table.unlink()
        assert f"{table}: No such file or directory, though it was recorded" in gra("inspect", "r")
    shard.manifest.write_text("{}")
    assert f"{shard.manifest}: not a shard manifest" in gra("inspect", "r")


def test_a_runs_files_of_another_shape(gra: Gra, preset: Path, tmp_path: Path) -> None:
    gra("plan", "r", "--preset", preset, code=0)
    gra("submit", "r", code=0)
    run = RunDir(tmp_path / "r")
    for path in (run.round(1).manifest, run.round(1).plan_file, run.plan_file):
        before = path.read_text()
        for content in ("", "[1]", "{}", "null"):
            path.write_text(content)
            for command in ("merge",) if path == run.round(1).manifest else ("merge", "status"):
                said = gra(command, "r")
                assert str(path) in said and "->" in said
        path.write_text(before)
    saved = run.config_file.read_text()
    for wrong, message in (
        (saved[: saved.index("models:\n")], "cut off"),
        (saved.replace("  reviewers: 3\n", "  reviewers: 0\n", 1), "method.reviewers=0"),
    ):
        assert wrong != saved
        run.config_file.write_text(wrong)
        assert f"{run.config_file}: {message}" in gra("resume", "r", "site.time_minutes=5", code=2)
    for at in range(saved.index("\nsite:\n"), len(saved) - 1):  # every line's end there, and within the last
        if saved[at - 1] == "\n" or at > len(saved) - 5:
            run.config_file.write_text(saved[:at])
            with pytest.raises(ConfigError, match=r"(cut off|unexpected end).*-> bring it back, or gra plan"):
                _ = Run.to_look_at(run.path).config
    run.config_file.write_text(saved)
    said = gra("resume", "r", "method.reviewers=0", code=2)
    assert "method.reviewers=0" in said and "run.yaml" not in said, said
    run.config_file.write_text("")
    assert f"{run.config_file}: empty" in gra("resume", "r", code=2)


def test_no_slurm_here(gra: Gra, preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site file of a cluster, used on a laptop."""
    monkeypatch.setenv("PATH", str(tmp_path))
    gra("plan", "r", "--preset", preset, "site.executor=slurm", code=0)
    assert "site.executor=local" in gra("submit", "r")
    assert "command not found" in gra("site", "detect")
    gra("plan", "r%1", "--preset", preset, "site.executor=slurm", code=0)
    assert "Slurm reads % in the names of logs" in gra("submit", "r%1")


def test_no_room(preset: Path, tmp_path: Path) -> None:
    """The quota ends while planning (here: a limit on file sizes); no half run is left."""

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = subprocess.run(
        [sys.executable, "-m", "gra_hpc.cli", "plan", "r", "--preset", str(preset)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, preexec_fn=small, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "file too large" in done.stderr and "make room" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.yaml", "seeds.jsonl"]


def test_python_too_old(tmp_path: Path) -> None:
    """The scripts say so before pip spends minutes; pip itself refuses by requires-python."""
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["bash", "tools/demo.sh"], cwd=ROOT, env={**os.environ, "PYTHON": str(old)}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "is not Python 3.11 or newer -> PYTHON=/path/to/python3.11" in done.stderr


def test_help_of_every_command(gra: Gra) -> None:
    for words in ([], ["site"], ["config"], *([c] for c in ("plan", "submit", "status", "logs", "resume", "cancel",
                  "merge", "inspect", "clean", "doctor", "fetch"))):  # fmt: skip
        gra(*words, "--help", code=0)
