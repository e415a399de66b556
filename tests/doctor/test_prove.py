"""`gra doctor --prove` without a GPU: on a node of made-up GPUs with simulated servers, and each failure, forced once.

With real engines on the CPU: test_prove_engines.py (slow); as a Slurm job: tests/cluster/test_prove_on_slurm.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.config import presets
from gra_hpc.config.settings import ModelConfig, RunConfig
from gra_hpc.doctor.prove import measured, table
from gra_hpc.doctor.prove.job import prove
from gra_hpc.doctor.prove.outcome import FAILED, NOT_HERE, OK, TITLES, NotHereError
from gra_hpc.doctor.prove.proof import Proof, read_report
from gra_hpc.doctor.prove.subject import LENGTH, chosen, divisible, thinker
from gra_hpc.errors import ConfigError, EngineError, GraError
from gra_hpc.models.facts import facts_of
from gra_hpc.placement.placement import NodeSpec, constants_of
from gra_hpc.placement.workload import calibration_of
from gra_hpc.storage import read_json
from tests.doctor.made_up_node import simulated_driver, simulated_python

ENGINES = ("shares", "speed", "thoughts", "embedder", "death", "sleep", "split")
Row = dict[str, Any]


@pytest.fixture
def base(short_dir: Path, tiny_llama: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with a site file, and a preset of a model without weights."""
    (short_dir / "configs" / "sites").mkdir(parents=True)
    (short_dir / "configs" / "sites" / "mine.yaml").write_text(
        f"site: {{name: mine, gpu_type: h100, local_dir: {short_dir}, memory_gb: 64, cpus_per_task: 2}}\n"
    )
    (short_dir / "configs" / "small.yaml").write_text(
        f"seeds: {{path: none.jsonl}}\nmodels: {{tiny: {{path: {tiny_llama}, load_format: dummy}}}}\n"
        f"merge: {{embed_model: {minilm}}}\n"
    )
    monkeypatch.chdir(short_dir)
    return short_dir


def config_of(*words: str) -> RunConfig:
    return presets.compose("small", words, "mine")


def proved(base: Path, *words: str, only: tuple[str, ...] = ()) -> tuple[Path, dict[str, Row]]:
    """A proof on this machine; its directory, and its rows by piece."""
    directory, report, wrong = prove(config_of(*words), base, only=only)
    assert wrong is None and report["done"]
    return directory, {row["piece"]: row for row in report["pieces"]}


def on_two_gpus(base: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Settings of a node with two made-up GPUs and simulated servers."""
    simulated_driver(base, 2, monkeypatch)
    return ("site.gpus_per_node=2", "site.gpu_memory_gb=80", f"engine.python={simulated_python(base, 2)}")


def test_a_death_and_a_speed_on_a_made_up_gpu(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes and signals, simulated answers; what was measured is what the next plan goes by."""
    words = on_two_gpus(base, monkeypatch)
    directory, rows = proved(base, *words, only=("speed", "death"))
    assert {piece: row["state"] for piece, row in rows.items()} == {"speed": OK, "death": OK}, rows
    assert "all answered" in rows["death"]["what"] and "modelled" in rows["speed"]["what"]
    assert read_report(directory)["node"]["cpus"] > 0
    found = measured.calibration(read_report(directory), "mine", directory)
    assert set(found["performance"]["speed"]) == {"tiny"}
    file = measured.keep(found, presets.calibration_file(presets.find_site("mine")))
    config = config_of(*words)
    assert config.site.calibration == str(file)
    constants = constants_of(config, NodeSpec.of_site(config.site), calibration_of(config)[1])
    assert constants.speed == found["performance"]["speed"]


@pytest.mark.slow
def test_a_node_of_two_gpus(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the training: shares of a device, a death, sleep and wake, two devices."""
    directory, rows = proved(base, *on_two_gpus(base, monkeypatch), only=("node", *ENGINES))
    assert list(rows) == ["node", *ENGINES]
    assert {piece: row["state"] for piece, row in rows.items()} == dict.fromkeys(("node", *ENGINES), OK), rows
    assert "2 x NVIDIA H100 80GB HBM3, 85 GB; vllm 9.9.9" in rows["node"]["what"]
    assert "of device 0" in rows["shares"]["what"] and "thoughts apart" in rows["thoughts"]["what"]
    assert "no engine started twice" in rows["sleep"]["what"]
    assert "over 2 GPUs" in rows["split"]["what"]
    assert all(Path(row["log"]).stat().st_size for row in rows.values())
    logs = [p.name for p in (directory / "engines").iterdir()]
    assert sum(name.startswith("engine-tiny-0-") for name in logs) == 3  # in shares, after its death, in sleep
    said = "\n".join(table.lines(read_report(directory), directory, "mine"))
    assert said.endswith("8 ok") and all(f"({piece}.log)" in said for piece in rows)
    found = measured.calibration(read_report(directory), "mine", directory)
    assert set(found["performance"]) == {"start_s", "swap_s", "speed"}


def test_a_device_that_is_missing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The site's file names two GPUs, of which torch sees none: nothing is started, and the driver is asked for."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    words = ("site.gpus_per_node=2", "site.gpu_memory_gb=80", f"engine.python={simulated_python(base, 0)}")
    directory, rows = proved(base, *words)
    assert rows["node"]["state"] == FAILED
    assert "neither nvidia-smi nor rocm-smi" in rows["node"]["what"] and "module" in rows["node"]["then"]
    assert {rows[piece]["state"] for piece in (*ENGINES, "tuning")} == {NOT_HERE}
    assert "torch sees no device (see node)" in rows["shares"]["what"]
    assert not (directory / "engines").exists()


def test_one_device_of_two(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch sees one GPU of two: that is said, and what needs two is not tried."""
    simulated_driver(base, 2, monkeypatch)
    words = ("site.gpus_per_node=2", "site.gpu_memory_gb=80", f"engine.python={simulated_python(base, 1)}")
    _, rows = proved(base, *words, only=("node", "split"))
    assert "torch sees 1 GPUs of 2" in rows["node"]["what"] and "driver" in rows["node"]["then"]
    assert rows["split"]["state"] == NOT_HERE
    assert "one device" in rows["split"]["what"] and "site.gpus_per_node=2" in rows["split"]["then"]


def test_gpus_that_the_site_does_not_name(base: Path) -> None:
    _, rows = proved(base, f"engine.python={simulated_python(base, 2)}", only=("node", "shares"))
    assert "torch sees 2 x NVIDIA H100 80GB HBM3, site.gpus_per_node=0" in rows["node"]["what"]
    assert "site.gpus_per_node=2 site.gpu_memory_gb=85" in rows["node"]["then"]
    assert rows["shares"]["state"] == NOT_HERE


def test_an_engine_that_does_not_start(base: Path) -> None:
    """Its own last words, and where its log is; the pieces that need no such engine are still tried."""
    python = simulated_python(base, 0, refuse="CUDA error: no kernel image is available")
    directory, rows = proved(base, f"engine.python={python}", only=ENGINES)
    for piece in ("shares", "thoughts", "sleep", "split"):
        assert rows[piece]["state"] == FAILED, rows[piece]
        assert "does not start: exit code 1; last in its log: ERROR: CUDA error: no kernel" in rows[piece]["what"]
        assert "see its log: " in rows[piece]["then"] and str(directory / "engines") in rows[piece]["then"]
        assert "no kernel image is available" in Path(rows[piece]["log"]).read_text()
    for piece in ("speed", "death"):
        assert (rows[piece]["state"], rows[piece]["what"]) == (NOT_HERE, "the engine did not answer (see shares)")


@pytest.mark.parametrize(
    ("words", "missing", "then"),
    [
        (("site.memory_gb=1",), "GB missing", "raise site.memory_gb"),
        (("site.gpus_per_node=1", "site.gpu_memory_gb=3"), "GB missing on the node (1 x 2.8 GB)", "larger nodes"),
    ],
)
def test_too_little_memory(base: Path, words: tuple[str, ...], missing: str, then: str) -> None:
    """Placement says so before any engine is started."""
    _, rows = proved(base, *words, f"engine.python={simulated_python(base, 0)}", only=("shares", "death", "sleep"))
    assert (rows["shares"]["state"], rows["sleep"]["state"]) == (FAILED, FAILED)
    assert missing in rows["shares"]["what"] and then in rows["shares"]["then"]
    assert (rows["death"]["state"], rows["death"]["what"]) == (NOT_HERE, "its engines cannot be started (see shares)")


def test_a_piece_that_fails_stops_no_other(tmp_path: Path) -> None:
    async def fine() -> str:
        return "seen"

    async def refused() -> str:
        raise GraError("no such thing", "make one")

    async def lacking() -> str:
        raise NotHereError("nothing for it", "buy one")

    async def strange() -> str:
        raise ZeroDivisionError("machine of the\nthird kind")

    async def endless() -> str:
        await asyncio.sleep(60)
        return ""

    def outcomes(total_s: float, *works: Callable[[], Any]) -> list[tuple[str, str, str]]:
        proof = Proof(tmp_path, total_s=total_s)

        async def all_of_them() -> None:
            for name, work in zip(TITLES, works, strict=False):
                await proof.piece(name, work)

        asyncio.run(all_of_them())
        assert [row["what"] for row in read_report(tmp_path)["pieces"]] == [o.what for o in proof.outcomes]
        return [(o.state, o.what, o.then) for o in proof.outcomes]

    ok, failed, odd, lacks, last = outcomes(60, fine, refused, strange, lacking, fine)
    assert ok == last == (OK, "seen", "")
    assert failed == (FAILED, "no such thing", "make one")
    assert odd[:2] == (FAILED, "ZeroDivisionError: machine of the third kind") and "speed.log" in odd[2]
    assert "Traceback" in (tmp_path / "speed.log").read_text()
    assert lacks == (NOT_HERE, "nothing for it", "buy one")
    late, never = outcomes(1.2, endless, fine)
    assert late[:2] == (FAILED, "not done within 1 s")
    assert never[0] == FAILED and "no time left" in never[1] and never[2] == "once more, with --only shares"


def test_the_model_it_is_proven_with(base: Path, smollm2: Path, tiny_llama: Path) -> None:
    """The preset's smallest that is here, or the one that is named; one line where there is none."""
    assert chosen(config_of(), "")[0] == "tiny"
    name, entry = chosen(config_of(), str(smollm2))
    assert (name, entry.path, entry.max_model_len) == ("smollm2-135m", str(smollm2), LENGTH)
    assert chosen(config_of("models.tiny.dtype=float32"), "tiny")[1].dtype == "float32"
    assert chosen(config_of("models.tiny.dtype=float32", "site.gpus_per_node=1"), "tiny")[1].dtype == "bfloat16"
    with pytest.raises(EngineError, match=r"no model to prove it with: models\.tiny: .* no such directory") as e:
        chosen(config_of("models.tiny.path=/nowhere"), "")
    assert "--model DIR" in e.value.then and "get_models.py" in e.value.then
    with pytest.raises(EngineError, match="/nowhere: no such directory"):
        chosen(config_of(), "/nowhere")
    with pytest.raises(ConfigError, match="--only slep: no such piece; did you mean sleep"):
        prove(config_of(), base, only=["slep"])
    with pytest.raises(ConfigError, match="nothing to prove"):
        prove(config_of("engine.kind=simulated"), base)
    assert not list(base.glob("gra-prove-*"))


def test_what_a_model_lacks_is_made(tmp_path: Path, smollm2: Path) -> None:
    """Marks of thoughts, and heads that two devices can share; the model's own files stay."""
    model = ModelConfig(path=str(smollm2), max_model_len=LENGTH)
    entry, thinking = thinker(model, tmp_path / "thinks")
    assert thinking.on and thinking.opened and thinking.parser == "deepseek_r1" and entry.load_format == "dummy"
    added = {t["content"]: t for t in json.loads((tmp_path / "thinks" / "tokenizer.json").read_text())["added_tokens"]}
    assert not added["<think>"]["special"] and not added["</think>"]["special"]
    assert (tmp_path / "thinks" / "model.safetensors").samefile(smollm2 / "model.safetensors")
    assert not facts_of(model).can_split(2)
    wide, told = divisible(model, tmp_path / "divides")
    assert facts_of(wide).can_split(2) and "9 heads cannot be split" in told
    assert divisible(wide, tmp_path / "nothing") == (wide, "")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    with pytest.raises(NotHereError, match="does not think"):
        thinker(ModelConfig(path=str(bare)), tmp_path / "never")


def test_what_a_real_run_measured_stays(tmp_path: Path) -> None:
    report = {"host": "n1", "node": {}, "measured": {"start_s": 60.0, "swap_s": 1.5, "speed": {"small": 0.8}}}
    file = tmp_path / "mine.calibration.json"
    assert measured.calibration({**report, "measured": {}}, "mine", tmp_path) == {}
    measured.keep(measured.calibration(report, "mine", tmp_path), file)
    first = read_json(file)
    assert first["performance"] == {"start_s": 60.0, "swap_s": 1.5, "speed": {"small": 0.8}}
    ran = {**first, "method": {"acceptance": 0.4}, "performance": {"start_s": 44.0, "speed": {"large": 1.1}}}
    file.write_text(json.dumps({**ran, "from": {"run": "runs/c", "models": {"large": "x"}}}))
    measured.keep(measured.calibration(report, "mine", tmp_path), file)
    both = read_json(file)
    assert both["method"] == {"acceptance": 0.4}
    assert both["performance"] == {"start_s": 44.0, "swap_s": 1.5, "speed": {"large": 1.1, "small": 0.8}}
    assert both["from"]["run"] == "runs/c" and both["from"]["proof"] == str(tmp_path)
