"""Staging: everything a run needs, once, checked; then jobs in a network namespace with no way out."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gra_hpc.config.settings import ModelConfig
from gra_hpc.errors import GraError
from gra_hpc.site.stage import Need, StageError, needs, wanted
from tests.conftest import made
from tests.mini_hub import MiniHub, mini_hub
from tests.offline import blocked_only, can_block, run

GRA = [sys.executable, "-m", "gra_hpc.cli"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[MiniHub]:
    seeds, bench = tmp_path / "seeds", tmp_path / "bench"
    for d in (seeds, bench):
        d.mkdir()
    rows = [{"instruction": f"Say {n} in French.", "response": f"{n}, but in French."} for n in range(6)]
    for r in rows:
        r |= {"domain": "language", "keywords": ["numbers"], "summary": "A number in French."}
    (seeds / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (seeds / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    (bench / "test.jsonl").write_text(json.dumps({"question": "one two three four five six seven eight " * 3}) + "\n")
    with mini_hub() as server:
        weights = tmp_path / "model.safetensors"
        header = b'{"w": {"dtype": "F32", "shape": [50000], "data_offsets": [0, 200000]}}'
        weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(200_000))
        server.add("models/org/tiny", made("tiny-llama", "tiny-llama")).files["model.safetensors"] = weights
        server.add("datasets/org/seeds", seeds)
        server.add("datasets/org/bench", bench)
        yield server


def preset(tmp_path: Path) -> Path:
    path = tmp_path / "offline.yaml"
    path.write_text(
        "seeds: {path: org/seeds}\n"
        "models: {tiny: {path: org/tiny, load_format: dummy, max_model_len: 512, kv_cache_gb: 0.1}}\n"
        "committee: {a: {model: tiny}, b: {model: tiny}, c: {model: tiny}}\n"
        "method: {max_tries: 1, verdict_tokens: 16, sampling: {max_tokens: 16}}\n"
        "merge: {embed_model: org/minilm, decontamination: {sources: [org/bench]}}\n"
        f"site: {{scratch: {tmp_path / 'scratch'}}}\n"
    )
    return path


def test_a_model_is_staged_whole_and_checked(hub: MiniHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    repo = hub.repos["models/org/tiny"]
    for name in ("original/consolidated.00.pth", "model.gguf", "modeling_tiny.py", "onnx/model.onnx"):
        file = tmp_path / Path(name).name
        file.write_bytes(b"x" * 10)
        repo.files[name] = file
    said = run(*GRA, "stage", "org/tiny", hub=hub, home=home)
    assert "digests agree" in said and "fetched" in said
    snapshot = home / "hub" / "models--org--tiny" / "snapshots" / repo.commit
    names = {p.name for p in snapshot.rglob("*") if p.is_file()}
    assert {"config.json", "tokenizer.json"} <= names
    assert not names & {"consolidated.00.pth", "model.gguf", "modeling_tiny.py", "model.onnx"}
    asked = len(hub.requests)
    assert "nothing to fetch" in run(*GRA, "stage", "org/tiny", hub=hub, home=home)
    assert not any(r.startswith("GET org/tiny/resolve") for r in hub.requests[asked:])
    # a file that rots on the disk is found, thrown away, and fetched again
    blob = (snapshot / "tokenizer.json").resolve()
    blob.write_bytes(b"[" + blob.read_bytes()[1:])
    assert "digest" in run(*GRA, "stage", "org/tiny", hub=hub, home=home, code=1)
    run(*GRA, "stage", "org/tiny", hub=hub, home=home)
    assert json.loads((snapshot / "tokenizer.json").read_text())
    # by its commit, from the cache, without a network
    code = f"from gra_hpc.models import hub; print(hub.find('org/tiny', '{repo.commit}'), hub.find('org/tiny'))"
    assert run(sys.executable, "-c", code, home=home).split() == [str(snapshot)] * 2


@pytest.mark.parametrize(
    ("word", "what", "then"),
    [
        ("org/gated", "gated", "accept it on the Hub's page"),
        ("org/none", "not on the Hub, or private", "check the id"),
        ("org/tiny@v2", "no such revision", "check the revision"),
        ("datasets/org/none", "not on the Hub", "check the id"),
        ("tiny", "not a Hub id", "ORG/NAME"),
    ],
)
def test_refusals_are_one_line(hub: MiniHub, tmp_path: Path, word: str, what: str, then: str) -> None:
    hub.add("models/org/gated", tmp_path / "seeds", gated=True)
    said = run(*GRA, "stage", word, hub=hub, home=tmp_path / "home", code=1)
    assert len(said.strip().splitlines()) == 1
    assert what in said and then in said


def test_bytes_changed_on_the_way_are_refused(hub: MiniHub, tmp_path: Path) -> None:
    hub.repos["models/org/tiny"].lie = {"tokenizer.json"}
    said = run(*GRA, "stage", "org/tiny", hub=hub, home=tmp_path / "home", code=1)
    assert "tokenizer.json" in said and "the Hub says" in said


def test_without_a_network_staging_says_so(tmp_path: Path) -> None:
    said = run(*GRA, "stage", "org/tiny", home=tmp_path, blocked=can_block(), code=1)
    assert "cannot be reached from here" in said and "login or transfer node" in said


def test_what_is_fetched() -> None:
    def chosen(*names: str, trusted: bool = False) -> set[str]:
        need = Need("o/m", "model", "model m", "", ModelConfig(path="o/m", trust_remote_code=trusted))
        return {s.rfilename for s in wanted([SimpleNamespace(rfilename=n) for n in names], need)}

    assert chosen("model-1.safetensors", "consolidated.safetensors", "config.json") == {
        "model-1.safetensors", "config.json",
    }  # fmt: skip
    assert chosen("consolidated.safetensors", "params.json") == {"consolidated.safetensors", "params.json"}
    assert chosen("pytorch_model.bin", "config.json") == {"pytorch_model.bin", "config.json"}
    assert chosen("pytorch_model.bin", "model.safetensors") == {"model.safetensors"}
    assert chosen("modeling.py", "model.safetensors", trusted=True) == {"modeling.py", "model.safetensors"}
    assert chosen("1_Pooling/config.json", "tokenizer.model.v3", ".gitattributes", "x.md") == {
        "1_Pooling/config.json", "tokenizer.model.v3",
    }  # fmt: skip
    assert Need.parse("datasets/a/b@c1") == Need("a/b", "dataset", "dataset", "c1")
    with pytest.raises(StageError):
        Need.parse("../etc")


def test_needs_leave_out_what_is_here(tmp_path: Path) -> None:
    from gra_hpc.config import presets

    config = presets.compose(str(preset(tmp_path)))
    assert {n.label for n in needs(config)} == {"org/tiny", "org/minilm", "datasets/org/seeds", "datasets/org/bench"}
    config.release.diagnostics.scorer = "org/scorer"
    assert "org/scorer" in {n.label for n in needs(config)}
    config.release.diagnostics.scorer = ""
    (tmp_path / "m").mkdir()
    config.models["tiny"].path = config.merge.embed_model = str(tmp_path / "m")
    assert {n.label for n in needs(config)} == {"datasets/org/seeds", "datasets/org/bench"}
    config.models["tiny"].path = "nowhere"
    with pytest.raises(GraError, match=r"models\.tiny\.path=nowhere: neither a file"):
        list(needs(config))


@blocked_only
def test_without_a_network_each_step_says_what_to_stage(hub: MiniHub, tmp_path: Path) -> None:
    """A staged run, from the plan to the release without a network: tests/test_main_job.py."""
    hub.add("models/org/minilm", made("minilm", "all-minilm-l6-v2"))
    home, runs, file = tmp_path / "home", tmp_path / "runs", preset(tmp_path)
    sim = "engine.kind=simulated"

    def plan(run_: str, *words: str, code: int = 0) -> str:
        return run(*GRA, "plan", runs / run_, sim, *words, "--preset", file, home=home, blocked=True, code=code)

    assert "gra fetch datasets/org/seeds" in plan("none", code=1)
    run(*GRA, "stage", "--preset", file, hub=hub, home=home)
    assert (tmp_path / "scratch" / "hub" / "models--org--minilm").is_dir()
    assert "gra fetch org/absent" in plan("none", "models.tiny.path=org/absent", code=1)
    said = plan("none", "merge.decontamination.sources=[org/absent]", code=2)
    assert "gra fetch datasets/org/absent" in said

    asked = len(hub.requests)
    plan("late")
    assert len(hub.requests) == asked
    shutil.rmtree(tmp_path / "scratch" / "hub" / "models--org--minilm")
    said = run(sys.executable, "jobs/synthesize.py", runs / "late", 0, home=home, blocked=True, code=1)
    assert "gra fetch org/minilm" in said
