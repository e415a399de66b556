"""Site files: detected from what Slurm says, written once, and the worked examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gra_hpc.config import presets
from gra_hpc.config.settings import RunConfig
from gra_hpc.config.site import SiteConfig
from gra_hpc.errors import ConfigError
from gra_hpc.launch.arrays import launcher, sbatch_text
from gra_hpc.run.directory import RunDir
from gra_hpc.site import detect
from gra_hpc.site.cluster import ClusterInfo
from tests.site.made_up_cluster import A100, CPU, V100, cluster, partition

EXAMPLES = ("jean-zay", "juwels-booster", "perlmutter")


def found(info: ClusterInfo, name: str = "", **environ: str) -> SiteConfig:
    """What a detected file comes to, through the file's text."""
    settings = detect.detect(info, name, environ)
    return SiteConfig(**yaml.safe_load(detect.text(settings))["site"])


def test_gpus_before_cpus_and_the_merge_without_them() -> None:
    s = found(cluster(partition("batch", CPU, default=True), partition("gpu", A100, V100)))
    assert (s.partition, s.merge_partition, s.account) == ("gpu", "batch", "lab")
    assert (s.gpu_style, s.gpu_type, s.gpus_per_node, s.gpu_memory_gb) == ("gpus", "a100", 4, 80)
    assert (s.task_cpus, s.task_memory_gb, s.time_minutes, s.max_array_size) == (48, 472, 240, 1001)
    assert (s.cpus_per_gpu, s.memory_per_gpu_gb) == (12, 118)


def test_what_may_not_be_used_is_not_chosen() -> None:
    info = cluster(
        partition("theirs", A100, accounts=("other",)),
        partition("down", A100, up=False),
        partition("old", V100, time_limit_min=30, qos=("short",)),
        accounts=("lab", "guest"),
        qos=("short", "long"),
        per_node_gpus=False,
    )
    s = found(info)
    assert (s.partition, s.qos, s.gpu_style, s.gpu_memory_gb) == ("old", "short", "gres", 16)
    assert (s.time_minutes, s.signal_lead_s) == (30, 90)
    assert "theirs (not for your accounts" in detect.text(detect.detect(info))
    with pytest.raises(ConfigError, match="partition gpu: not on this cluster, which has theirs, down, old"):
        detect.detect(info, "gpu")
    with pytest.raises(ConfigError, match="no partition is up"):
        detect.detect(cluster(partition("down", CPU, up=False)))


def test_a_short_limit_leaves_a_valid_signal_lead() -> None:
    assert found(cluster(partition("debug", CPU, time_limit_min=5))).signal_lead_s == 60


@pytest.mark.parametrize(
    ("type_", "features", "memory"),
    [
        ("nvidia_a100_80gb_pcie", (), 80),
        ("a100", ("hbm40g", "gpu_mem_40gb"), 40),
        ("a100", ("80g",), 80),
        ("h100", (), 80),
        ("", ("host4", "t400"), 0),
        ("", ("RTX4090",), 24),
        ("", ("v100", "v100-32g"), 32),
        ("", (), 0),
        ("a100_1g.10gb", (), 10),
        ("a100_1g.5gb", (), 5),
    ],
)
def test_gpu_memory(type_: str, features: tuple[str, ...], memory: float) -> None:
    assert detect.gpu_memory(type_, features)[0] == memory


def test_a_password_in_the_proxy_is_not_written(tmp_path: Path) -> None:
    info = cluster(partition("batch", CPU))
    assert found(info, https_proxy="http://proxy:3128").proxy == "http://proxy:3128"
    text = detect.text(
        detect.detect(info, "", {"https_proxy": "http://me:secret@proxy:3128", "SCRATCH": str(tmp_path)})
    )
    assert "secret" not in text
    assert f"scratch: {tmp_path}" in text


def test_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = detect.detect(cluster(partition("batch", CPU), name="my cluster"), "", {})
    path = detect.write(settings)
    assert path == Path("configs/sites/my-cluster.yaml")
    with pytest.raises(ConfigError, match="is there already"):
        detect.write(settings)
    detect.write(settings, force=True)
    assert presets.site("my-cluster").partition == "batch"
    assert "my-cluster" in presets.site_names()


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as m:
        m.delenv("SCRATCH", raising=False)
        m.delenv("PSCRATCH", raising=False)
        with pytest.raises(ConfigError, match=r"SCRATCH: this environment variable is not set here"):
            presets.compose("demo", [], name)
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("PSCRATCH", "/scratch/me")
    config = presets.compose("demo", [], name)
    assert config.site.scratch == "/scratch/me"
    text = sbatch_text(RunDir(Path("/scratch/me/run")), config, 3)
    wanted = {
        "jean-zay": ["--gres=gpu:8", "--constraint=a100", "--account=abc@a100", "--hint=nomultithread",
                     "module load arch/a100"],
        "perlmutter": ["--gpus-per-node=4", "--constraint=gpu", "--qos=regular", "--account=m1234"],
        "juwels-booster": ["--gres=gpu:4", "--partition=booster",
                           "apptainer exec --nv /scratch/me/gra.sif python3 -u -P -m gra_hpc.launch.task_file"],
    }[name]  # fmt: skip
    for line in wanted:
        assert line in text
    assert "--wckey" not in text
    lines = list(detect.show(config.site, name))
    assert any("#SBATCH --requeue" in line for line in lines)
    assert any("a merge" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "wanted", "unwanted"),
    [
        ("jupiter", ["--gres=gpu:4", "--partition=booster", "--account=PROJECT"], "--mem"),
        ("leonardo", ["--gres=gpu:4", "--partition=boost_usr_prod", "--cpus-per-task=32"], "--qos"),
        ("lumi", ["--gpus-per-node=8", "--partition=standard-g", "--cpus-per-task=56", "--mem=491520M"], "--gres"),
        ("vista", ["--partition=gh", "--nodes=1"], "--gpus"),
        ("isambard-ai", ["--gpus-per-node=4", "--partition=workq", "--cpus-per-task=288"], "--mem"),
        ("marenostrum5", ["--gres=gpu:4", "--qos=acc_ehpc", "--cpus-per-task=80"], "--mem"),
    ],
)
def test_sites_not_tried_there(name: str, wanted: list[str], unwanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SCRATCH", "SCRATCHDIR"):
        monkeypatch.setenv(variable, "/scratch/me")
    config = presets.compose("demo", [], name)
    text = sbatch_text(RunDir(Path("/scratch/me/run")), config, 3)
    asked = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    for option in wanted:
        assert any(option in line for line in asked), f"{option} not in {asked}"
    assert not any(unwanted in line for line in asked)
    assert config.site.gpu_memory_gb and "Not tried there" in presets.find_site(name).read_text()


def test_container_command_lines() -> None:
    image = SiteConfig(container="apptainer:/my images/gra.sif", gpus_per_node=1)
    assert launcher(image) == "apptainer exec --nv '/my images/gra.sif' python3"
    cpu = SiteConfig(container="apptainer:/i.sif", python="/opt/venv/bin/python")
    assert launcher(cpu) == "apptainer exec /i.sif /opt/venv/bin/python"
    config = RunConfig(site=SiteConfig(container="pyxis:nvcr.io#org/gra:1", cpus_per_task=8))
    text = sbatch_text(RunDir(Path("/r")), config, 1)
    assert "--container-image=nvcr.io#org/gra:1" in text and "--cpus-per-task=8" in text


def test_unknown_site_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean perlmutter"):
        presets.compose("demo", [], "perlmuter")
