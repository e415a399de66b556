"""vLLM's command line and environment, what is checked before it is started, and what its log says in the end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gra_hpc.config.settings import EngineConfig, ModelConfig, OwnNetwork
from gra_hpc.engines import guard, vllm_server
from gra_hpc.engines.vllm_server import EngineSpec
from gra_hpc.errors import EngineError
from gra_hpc.placement.placement import EnginePlace, Placement


def spec(kind: str = "cpu", **changes: object) -> EngineSpec:
    base = EngineSpec(
        place=EnginePlace("smol", 0, (0, 1)),
        model=ModelConfig(path="/models/smol", max_model_len=2048),
        engine=EngineConfig(python="/usr/bin/python3"),
        kind=kind,
        socket=Path("/tmp/gra-0-x/e00-0.s"),
        private=Path("/tmp/gra-0-x/e00-0"),
        cache=Path("/tmp/gra-0-x/e00-cache"),
        port=20032,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_command_on_a_cpu() -> None:
    model = ModelConfig(path="/models/smol", max_model_len=2048, dtype="bfloat16", kv_cache_gb=0.5)
    assert " ".join(vllm_server.command(spec(model=model), Path("/models/smol"))) == (
        "/usr/bin/python3 -m vllm.entrypoints.openai.api_server --model /models/smol --served-model-name smol"
        " --uds /tmp/gra-0-x/e00-0.s --dtype bfloat16 --max-model-len 2048 --max-num-seqs 256"
        " --tensor-parallel-size 1 --load-format auto --seed 0 --generation-config vllm"
        ' --disable-uvicorn-access-log --structured-outputs-config {"backend":"xgrammar","disable_any_whitespace":true}'
        " --enforce-eager --kv-cache-memory-bytes 500000000"
        " --no-enable-chunked-prefill --max-num-batched-tokens 2048"
    )


def test_command_on_gpus_with_sleep_and_more_arguments() -> None:
    place = EnginePlace("big", 1, (2, 3), tensor_parallel=2, memory_fraction=0.45, kv_cache_bytes=7, turn=1)
    model = ModelConfig(
        path="/m", max_model_len=8192, quantization="awq", trust_remote_code=True, chat_template="/t.jinja",
        engine_args={"max_num_seqs": 64, "enable_prefix_caching": False, "seed": None, "rope_scaling": {"factor": 2}},
    )  # fmt: skip
    text = " ".join(vllm_server.command(spec("gpu", place=place, model=model, can_sleep=True), Path("/m")))
    assert text.split("--load-format auto ")[1] == (
        "--generation-config vllm --disable-uvicorn-access-log --structured-outputs-config"
        ' {"backend":"xgrammar","disable_any_whitespace":true}'
        " --quantization awq --trust-remote-code"
        " --chat-template /t.jinja --gpu-memory-utilization 0.45 --kv-cache-memory-bytes 7 --enable-sleep-mode"
        ' --no-enable-prefix-caching --rope-scaling {"factor":2}'
    )
    assert "--max-num-seqs 64 --tensor-parallel-size 2" in text


def test_the_reasoning_parser_of_a_model_that_thinks() -> None:
    """What is named in engine_args wins."""
    text = " ".join(vllm_server.command(spec(parser="qwen3"), Path("/m")))
    assert "--reasoning-parser qwen3" in text
    model = ModelConfig(path="/m", engine_args={"reasoning_parser": "step3"})
    text = " ".join(vllm_server.command(spec(parser="qwen3", model=model), Path("/m")))
    assert "--reasoning-parser step3" in text and "qwen3" not in text


def test_what_is_recorded_of_a_command_line() -> None:
    """What decides answers, but no secret, and no path that is new at every start: a manifest is for others to read."""
    model = ModelConfig(path="/m", engine_args={"hf-token": "hf_x", "chat-template-content-format": "string"})
    made = spec(model=model)
    made.engine.env.update({"VLLM_LOGGING_LEVEL": "DEBUG", "HF_TOKEN": "hf_x"})
    text = " ".join(vllm_server.recorded(vllm_server.command(made, Path("/m"))))
    assert text.startswith("--model /m --served-model-name smol --dtype auto") and "--uds" not in text
    assert text.endswith("--max-num-batched-tokens 8192 --hf-token ... --chat-template-content-format string")
    assert vllm_server.recorded_environment(made) == {"HF_TOKEN": "...", "VLLM_LOGGING_LEVEL": "DEBUG"}


def test_environment_hands_no_secrets_over() -> None:
    inherited = {
        "PATH": "/bin", "HF_TOKEN": "s", "HUGGING_FACE_HUB_TOKEN": "s", "WANDB_API_KEY": "s", "AWS_PROFILE": "s",
        "DB_PASSWORD": "s", "SSH_AUTH_SOCK": "s", "RANK": "0", "MASTER_ADDR": "x", "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "4",
    }  # fmt: skip
    env = vllm_server.environment(spec(place=EnginePlace("smol", 0, (0,))), inherited)
    assert env["PATH"] == "/bin"
    assert "s" not in env.values()
    assert not {"RANK", "MASTER_ADDR", "OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE"} & set(env)
    assert env["HF_HUB_OFFLINE"] == env["VLLM_NO_USAGE_STATS"] == "1"
    assert env["VLLM_PORT"] == "20032"
    assert env["TMPDIR"] == env["VLLM_RPC_BASE_PATH"] == "/tmp/gra-0-x/e00-0"
    assert env["VLLM_CACHE_ROOT"].startswith("/tmp/gra-0-x/e00-cache")
    assert "VLLM_SERVER_DEV_MODE" not in env


def test_an_eager_engine_on_a_cpu_compiles_nothing() -> None:
    def compiles(kind: str, **args: object) -> bool:
        one = EnginePlace("smol", 0, (0,))
        made = spec(kind, place=one, model=ModelConfig(path="/m", max_model_len=64, engine_args=args))  # type: ignore[arg-type]
        return "TORCHDYNAMO_DISABLE" not in vllm_server.environment(made, {})

    assert not compiles("cpu") and not compiles("cpu", enforce_eager=True)
    assert compiles("cpu", enforce_eager=False) and compiles("cpu", **{"enforce-eager": None})
    assert compiles("gpu")


def test_environment_on_gpus_and_the_users_own_variables() -> None:
    engine = EngineConfig(env={"NCCL_DEBUG": "INFO", "HF_HUB_OFFLINE": "0"})
    place = EnginePlace("big", 0, (1, 3), tensor_parallel=2)
    env = vllm_server.environment(spec("gpu", place=place, engine=engine, can_sleep=True), {})
    assert env["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert env["VLLM_SERVER_DEV_MODE"] == "1"
    assert (env["NCCL_DEBUG"], env["HF_HUB_OFFLINE"]) == ("INFO", "0")
    assert "VLLM_CPU_OMP_THREADS_BIND" not in env


def test_devices_are_those_that_slurm_gave() -> None:
    place = EnginePlace("big", 0, (1, 3))
    assert vllm_server.cuda_devices(place, "") == "1,3"
    assert vllm_server.cuda_devices(place, "4,5,6,7") == "5,7"
    assert vllm_server.cuda_devices(place, "GPU-a,GPU-b,GPU-c,GPU-d") == "GPU-b,GPU-d"
    with pytest.raises(EngineError, match="placement uses GPU 3, CUDA_VISIBLE_DEVICES=0,1 has 2"):
        vllm_server.cuda_devices(place, "0,1")


def test_cores_are_those_that_slurm_gave() -> None:
    assert vllm_server.cpu_binding(EnginePlace("m", 0, (0, 1)), [0, 1]) == "0,1"
    assert vllm_server.cpu_binding(EnginePlace("m", 0, (0, 1, 2, 3), 2), [8, 9, 12, 13]) == "8,9|12,13"
    assert vllm_server.cpu_binding(EnginePlace("m", 0, ()), [8, 9]) == "all"
    with pytest.raises(EngineError, match="placement uses core 3, this job has 2 cores"):
        vllm_server.cpu_binding(EnginePlace("m", 0, (3,)), [0, 1])


def test_an_engine_keeps_off_the_cores_of_those_beside_it() -> None:
    def cores(kind: str, mine: tuple[int, ...], beside: set[int], **env: str) -> tuple[int, ...]:
        place, engine = EnginePlace("m", 0, mine), EngineConfig(env=env)
        return vllm_server.kept_to(spec(kind, place=place, engine=engine, beside=frozenset(beside)), [8, 9, 12])

    assert cores("cpu", (0,), {1}) == (8, 12), "a core that no engine has is free for all"
    assert cores("cpu", (1, 2), {0}) == (9, 12)
    assert cores("cpu", (0,), {1, 7}) == (8, 12)
    assert cores("cpu", (0, 1, 2), set()) == cores("cpu", (), {0}) == cores("gpu", (0,), {1}) == ()
    assert cores("cpu", (0,), {0, 1}) == (), "they share a core"
    assert cores("cpu", (0,), {1}, VLLM_CPU_OMP_THREADS_BIND="nobind") == ()


def test_devices_beside_an_engine_are_of_those_that_are_awake_with_it() -> None:
    one, two, later = EnginePlace("a", 0, (0,)), EnginePlace("b", 0, (1, 2)), EnginePlace("c", 0, (0, 3), turn=1)
    placed = Placement((one, two, later), "cpu")
    assert [placed.beside(e) for e in placed.engines] == [{1, 2}, {0}, set()]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    config = {"max_position_embeddings": 2048, "num_attention_heads": 9}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"place": EnginePlace("smol", 0, (0, 1), 2)}, r"tensor_parallel=2 does not divide its 9 attention heads"),
        ({"place": EnginePlace("smol", 0, (0, 1), 3)}, r"tensor_parallel=3 needs 3 devices, has 2"),
        ({"engine": EngineConfig(python="/nowhere/python")}, r"engine\.python=/nowhere/python: not an executable"),
        ({"socket": Path("/tmp/" + "x" * 103)}, r"longer than a Unix socket's path may be \(107 bytes\)"),
        ({"model": ModelConfig(path="x", max_model_len=4096)}, r"max_model_len=4096"),
    ],
)
def test_what_cannot_start_is_refused_at_once(directory: Path, changes: dict[str, object], message: str) -> None:
    vllm_server.check(spec(), directory)
    with pytest.raises(EngineError, match=message):
        vllm_server.check(spec(**changes), directory)


def test_memory_is_checked_on_a_cpu(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vllm_server.free_memory() > 1 << 20
    monkeypatch.setattr(vllm_server, "free_memory", lambda: 100_000_000)
    with pytest.raises(EngineError, match=r"smol-0: 0\.5 GB for weights and KV cache, 0\.1 GB of memory are free"):
        vllm_server.check(spec(), directory)
    vllm_server.check(spec("gpu"), directory)


def test_missing_vllm_names_the_extra(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server.importlib.util, "find_spec", lambda _: None)
    for kind in ("cpu", "gpu"):
        with pytest.raises(EngineError, match=rf"vllm is not installed -> pip install 'gra-hpc\[{kind}\]'"):
            vllm_server.check(spec(kind, engine=EngineConfig()), directory)


LOG = """\
$ python -m vllm.entrypoints.openai.api_server
(APIServer pid=8) INFO 11-22 18:15:59 [utils.py:1] non-default args: {'model': '/m'}
(EngineCore pid=9) ERROR 11-22 18:16:20 [core.py:866] EngineCore failed to start.
(EngineCore pid=9) ERROR 11-22 18:16:20 [core.py:866] Traceback (most recent call last):
(EngineCore pid=9) ERROR 11-22 18:16:20 [core.py:866]   File "/x/core.py", line 857, in run_engine_core
(EngineCore pid=9) ERROR 11-22 18:16:20 [core.py:866]     raise ValueError(
(EngineCore pid=9) ERROR 11-22 18:16:20 [core.py:866] ValueError: No available memory for the cache blocks.
(APIServer pid=8) Traceback (most recent call last):
(APIServer pid=8)   File "/x/api_server.py", line 1, in <module>
(APIServer pid=8) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
guard: removed shared memory /dev/shm/psm_1
"""


def test_last_error_is_the_cause_not_the_echo(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(LOG)
    assert vllm_server.last_error(log) == "ValueError: No available memory for the cache blocks."
    log.write_text("INFO: all fine\n\nKilled\n")
    assert vllm_server.last_error(log) == "Killed"
    log.write_text("one\ntwo\n")
    assert vllm_server.last_error(log) == "two"
    log.write_text("")
    assert vllm_server.last_error(log) == ""
    assert vllm_server.last_error(tmp_path / "none") == ""


def test_always_a_network_of_its_own_means_always(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kernel that refuses is told; with `auto` the engine does without."""
    monkeypatch.setattr(guard, "own_network", lambda: False)
    with pytest.raises(EngineError, match=r"own_network=always: this node's kernel .* -> engine.own_network=auto"):
        vllm_server.check(spec(engine=EngineConfig(own_network=OwnNetwork.always)), tmp_path)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_network_of_its_own(kind: str) -> None:
    """Wherever the kernel allows it; with `auto` not again on GPUs where an engine did not start in it."""
    given = {
        (mode, shares): vllm_server.has_own_network(
            spec(kind, engine=EngineConfig(own_network=OwnNetwork(mode)), shares_network=shares)
        )
        for mode in ("auto", "always", "never")
        for shares in (False, True)
    }
    assert [k for k, own in given.items() if own] == [("auto", False), ("always", False), ("always", True)]
