"""The doctor: each trap it is meant to find is found, with what to do."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gra_hpc.config import presets
from gra_hpc.config.settings import EngineConfig, EngineKind, ModelConfig, OwnNetwork, RunConfig
from gra_hpc.config.site import SiteConfig
from gra_hpc.doctor import devices, directories, node, slurm_site, software
from gra_hpc.doctor.finding import FAILURE, OK, WARNING, Finding, examine, worst
from gra_hpc.doctor.job import ExamineNode
from gra_hpc.engines import guard
from gra_hpc.errors import GraError
from gra_hpc.launch.slurm import advice
from tests.site.made_up_cluster import A100, CPU, cluster, partition

SITE = SiteConfig(
    name="owl", partition="gpu", account="lab", gpu_type="a100", gpus_per_node=4, gpu_memory_gb=80, cpus_per_task=48
)
INFO = cluster(
    partition("batch", CPU, default=True),
    partition("gpu", A100, accounts=("lab",)),
    partition("short", A100, time_limit_min=30),
    partition("off", A100, up=False),
    partition("spare", CPU, preempt_mode="CANCEL"),
)


def against(**changes: object) -> list[Finding]:
    return list(slurm_site.against(replace(SITE, **changes), INFO))  # type: ignore[arg-type]


def test_a_good_site() -> None:
    assert worst(against()) == OK
    assert worst(against(partition="", gpus_per_node=0, constraint="icelake")) == OK


@pytest.mark.parametrize(
    ("changes", "what", "then"),
    [
        ({"partition": "gpus"}, "no such partition; did you mean gpu?", "batch, gpu, short"),
        ({"merge_partition": "cpu"}, "site.merge_partition=cpu", "one of"),
        ({"partition": "off"}, "it is down", "sinfo"),
        ({"account": "lob"}, "not yours; did you mean lab?", "one of lab"),
        ({"qos": "long"}, "site.qos=long: not yours", "one of normal"),
        ({"partition": "short"}, "site.time_minutes=240: partition short allows 30", "site.time_minutes=30"),
        ({"gpu_type": "h100"}, "no node has it", "one of a100"),
        ({"gpus_per_node": 8}, "nodes have at most 4", "site.gpus_per_node=4"),
        ({"partition": "batch"}, "no node here has GPUs", "another partition"),
        ({"gpu_memory_gb": 0.0}, "placement needs it", "gra doctor SITE --job"),
        ({"constraint": "a100_40gb"}, "did you mean a100_80gb?", "features: a100_80gb, ib"),
        ({"cpus_per_task": 64}, "nodes have 48", "site.cpus_per_task=48"),
        ({"memory_gb": 900.0}, "nodes have 500", "site.memory_gb=500"),
        ({"max_array_size": 5000}, "the site takes 1001", "site.max_array_size=1001"),
        ({"wckey": True}, "does not track wckeys", "site.wckey=false"),
        ({"partition": "spare", "gpus_per_node": 0, "cpus_per_task": 2}, "cancels preempted jobs", "gra resume"),
    ],
)  # fmt: skip
def test_traps(changes: dict[str, object], what: str, then: str) -> None:
    bad = [f for f in against(**changes) if f.level != OK]
    assert len(bad) == 1, bad
    assert what in bad[0].what
    assert then in bad[0].then


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("Batch job submission failed: Invalid account or account/partition combination specified", "site.account"),
        ("Batch job submission failed: Invalid qos specification", "site.qos"),
        ("invalid partition specified: gup", "site.partition"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "site.time_minutes"),
        ("Invalid feature specification", "site.constraint"),
        ("Invalid generic resource (gres) specification", "site.gpu_style"),
        ("Requested node configuration is not available", "site.cpus_per_task"),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", "site."),
        ("Invalid wckey specification", "site.wckey=false"),
        ("something new", "gra doctor"),
    ],
)
def test_refusals_name_the_key(said: str, key: str) -> None:
    assert key in advice(said)


def test_a_check_that_breaks_is_a_finding() -> None:
    def odd() -> list[Finding]:
        raise ZeroDivisionError("machine of the third kind")

    def clear() -> list[Finding]:
        raise GraError("no such thing", "make one")

    found = list(examine([odd, clear]))
    assert [f.level for f in found] == [WARNING, FAILURE]
    assert "third kind" in found[0].what and found[1].then == "make one"


def test_directories(tmp_path: Path) -> None:
    assert worst(directories.shared(tmp_path, slurm=False)) != FAILURE
    assert worst(directories.clock(tmp_path)) == OK
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    (full,) = directories.space_left(tmp_path, least_gb=1e9)
    assert full.level == FAILURE
    file = tmp_path / "file"
    file.write_text("")
    assert worst(directories.shared(file / "under", slurm=False)) == FAILURE
    assert worst(directories.local(SiteConfig(local_dir=str(tmp_path / ("x" * 120))))) == FAILURE
    assert directories.file_system(Path("/proc")) == "proc"


def test_node(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(site=SiteConfig(gpus_per_node=2, cpus_per_task=10_000))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    found = list(devices.gpus(config))
    assert "Slurm gave 1 GPUs, site.gpus_per_node=2" in found[0].what
    (cpus, _) = node.cores(config)
    assert cpus.level == WARNING
    assert worst(node.machine()) != FAILURE


def driver(directory: Path, name: str, said: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the place of a driver's tool, which says what such a tool was seen to say."""
    tool = directory / name
    cases = "".join(f"  *{option}*) cat <<'END'\n{text}\nEND\n  ;;\n" for option, text in said.items())
    tool.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{Path(sys.executable).parent}:/usr/bin:/bin")


def test_slices_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MIG: a job sees UUIDs of slices; what counts is the slice's memory."""
    whole = "NVIDIA A100-SXM4-40GB, 40960, 570.1"
    listed = (
        "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1)\n"
        "  MIG 3g.20gb     Device  0: (UUID: MIG-a)\n  MIG 3g.20gb     Device  1: (UUID: MIG-b)"
    )
    driver(tmp_path, "nvidia-smi", {"--query-gpu": whole, "-L": listed}, monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-b")
    site = SiteConfig(gpus_per_node=1, gpu_memory_gb=40)
    models = {"m": ModelConfig(path="x", tensor_parallel=2)}
    given, named, _, memory, split = devices.gpus(RunConfig(site=site, models=models))
    assert given.level == OK and "570.1: 1 x NVIDIA A100-SXM4-40GB MIG 3g.20gb, 20 GB" in named.what
    assert memory.then == "site.gpu_memory_gb=20" and split.then == "models.m.tensor_parallel=1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    _, named = devices.gpus(RunConfig(site=replace(site, gpu_memory_gb=43)))
    assert "1 x NVIDIA A100-SXM4-40GB, 43 GB" in named.what


def test_amd_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = '{"Card Series": "AMD Instinct MI250X", "VRAM Total Memory (B)": "68702699520"}'
    said = f'{{"card0": {card}, "card1": {card}, "system": {{"Driver version": "6.10"}}}}'
    driver(tmp_path, "rocm-smi", {"--json": said}, monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "0,1")
    given, named = devices.gpus(RunConfig(site=SiteConfig(gpus_per_node=2, gpu_memory_gb=64)))
    assert "ROCR_VISIBLE_DEVICES=0,1" in given.what and "driver 6.10: 2 x AMD Instinct MI250X, 69 GB" in named.what
    driver(tmp_path, "rocm-smi", {"--json": "no driver"}, monkeypatch)
    assert "rocm-smi: " in list(devices.gpus(RunConfig(site=SiteConfig(gpus_per_node=2))))[1].what


def test_a_site_that_gives_gpus_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, "nvidia-smi", {"--query-gpu": "NVIDIA GH200 120GB, 97871, 560.3", "-L": "GPU 0: x"}, monkeypatch)
    for name in devices.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (named,) = devices.gpus(RunConfig(site=SiteConfig(gpus_per_node=1, gpu_style="none", gpu_memory_gb=96)))
    assert named.level == OK and "GH200 120GB, 103 GB" in named.what


def test_what_a_node_allows_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of their own: said by the node, CUDA in it too, before a run finds out."""
    possible: dict[bool, bool] = {}
    monkeypatch.setattr(guard, "can_have_own_network", lambda cuda=False: possible[cuda])

    def said(mode: str, gpus: int, **allows: bool) -> tuple[str, str]:
        possible.update({False: allows["kernel"], True: allows.get("cuda", False)})
        (found,) = node.own_network(
            RunConfig(engine=EngineConfig(own_network=OwnNetwork(mode)), site=SiteConfig(gpus_per_node=gpus))
        )
        return found.level, found.what

    assert said("auto", 0, kernel=True) == (OK, "engines get a network of their own")
    assert said("auto", 2, kernel=True, cuda=True)[0] == OK
    assert said("auto", 2, kernel=True, cuda=False)[0] == WARNING
    assert said("auto", 0, kernel=False)[0] == WARNING
    assert said("always", 0, kernel=False)[0] == FAILURE
    assert said("never", 0, kernel=False) == (OK, "engines share the node's network (engine.own_network=never)")


def test_the_network_of_a_node_is_tried() -> None:
    config = RunConfig()
    (found,) = node.own_network(config)
    assert (found.level == OK) is guard.can_have_own_network()


def test_requirements_with_ranges_markers_and_extras() -> None:
    """As a wheel's metadata has them: `typer<0.29,>=0.15`."""
    fine = ["typer<99,>=0.1", "rich (>=1)", 'absent>=1; extra == "gpu"', 'absent; python_version < "3"']
    assert worst(software.packages(fine)) == OK
    (found,) = software.packages([*fine, "typer<0.1,>=0.0.1", "absent[more]>=2"])
    assert found.level == FAILURE
    assert found.what.startswith("packages: typer ") and "(needs <0.1,>=0.0.1), absent missing" in found.what


def test_software(tmp_path: Path, tiny_llama: Path) -> None:
    assert worst([*software.python(), *software.packages()]) == OK
    assert worst(software.interpreter(SiteConfig(python=sys.executable))) == OK
    (none,) = software.interpreter(SiteConfig(python="/nowhere/python"))
    assert none.level == FAILURE
    stranger = tmp_path / "python"
    stranger.write_text("#!/bin/sh\necho 'ModuleNotFoundError: No module named gra_hpc' >&2; exit 1\n")
    stranger.chmod(0o755)
    (other,) = software.interpreter(SiteConfig(python=str(stranger)))
    assert "No module named gra_hpc" in other.what
    config = presets.compose("demo", ["models.smollm2.path=org/absent", f"merge.embed_model={tmp_path / 'none'}"], "")
    model, embed = software.models(config)
    assert model.level == FAILURE and "gra fetch org/absent" in model.then
    assert embed.level == FAILURE
    good = presets.compose(
        "demo", [f"models.smollm2.path={tiny_llama}", "models.smollm2.load_format=dummy", "merge.semantic=false"]
    )
    assert worst(software.models(good)) == OK
    good.models["smollm2"].load_format = "auto"  # no engine loads what is simulated: as a plan takes it
    assert worst(software.models(good)) == FAILURE
    good.engine.kind = EngineKind.simulated
    assert worst(software.models(good)) == OK
    config.engine.kind = EngineKind.simulated
    assert worst(software.vllm_import(config)) == OK


def test_a_directory_that_the_node_does_not_see(tmp_path: Path) -> None:
    """The compute node finds no file there, or somebody else's."""
    shared = ExamineNode(tmp_path / "run.yaml", tmp_path, "abc")
    assert shared._shared().level == FAILURE
    (tmp_path / "token").write_text("from another machine")
    assert "holds other files" in shared._shared().what
    (tmp_path / "token").write_text("abc")
    assert shared._shared().level == OK


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_is_imported_as_an_engine_would() -> None:
    config = RunConfig()
    assert worst(software.vllm_import(config)) == OK
    (_, gpus) = software.vllm_import(replace(config, site=SiteConfig(gpus_per_node=1)))
    assert gpus.level == FAILURE and "is built without CUDA and ROCm" in gpus.what


def test_a_node_answers_for_the_memory_of_its_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, "nvidia-smi", {"--query-gpu": "NVIDIA GH200 120GB, 97871, 560.3", "-L": "GPU 0: x"}, monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    found = list(devices.gpus(RunConfig(site=SiteConfig(gpus_per_node=1))))
    assert Finding(WARNING, "site.gpu_memory_gb=0: placement needs it", "site.gpu_memory_gb=103") in found
