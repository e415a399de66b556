"""A start by phase, from the lines that versions of vLLM write."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gra_hpc.engines.start_phases import PHASES, phases, told

ON_A_CPU = """\
$ python -m vllm.entrypoints.openai.api_server --model /m
(APIServer pid=20430) INFO 11-29 22:01:14 [api_utils.py:286] non-default args: {'model': '/m'}
(APIServer pid=20430) WARNING 11-29 22:01:14 [vllm.py:1703] Enforce eager set, disabling torch.compile, CUDAGraphs
(EngineCore pid=21371) INFO 11-29 22:01:41 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='/m'
(Worker pid=21643) INFO 11-29 22:02:14 [cpu_model_runner.py:68] Starting to load model /m...
Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:01<00:00,  1.93s/it]
(Worker pid=21643) INFO 11-29 22:02:16 [default_loader.py:501] Loading weights took 1.95 seconds
(EngineCore pid=2137) INFO 11-29 22:02:23 [core.py:402] init engine (profile, create kv cache, warmup model) took 1.89 s
(APIServer pid=20430) INFO 11-29 22:02:29 [entry.py:140] Starting vLLM server on unix:/tmp/e00-0.s
"""
ON_TWO_GPUS = """\
(EngineCore pid=9) INFO 05-06 20:59:10 [core.py:105] Initializing a V1 LLM engine (v0.24.0) with config: model='/m'
(Worker_TP0 pid=11) INFO 05-06 20:59:28 [gpu_model_runner.py:4821] Starting to load model /m...
(Worker_TP0 pid=11) INFO 05-06 20:59:57 [default_loader.py:384] Loading weights took 24.80 seconds
(Worker_TP1 pid=12) INFO 05-06 20:59:58 [default_loader.py:384] Loading weights took 25.10 seconds
(Worker_TP0 pid=11) INFO 05-06 20:59:59 [gpu_model_runner.py:4879] Model loading took 12.7 GiB memory and 31.600 seconds
(Worker_TP0 pid=11) INFO 05-06 21:00:16 [backends.py:1128] Dynamo bytecode transform time: 3.54 s
(Worker_TP0 pid=11) INFO 05-06 21:00:36 [backends.py:391] Compiling a graph for compile range (1, 8192) takes 19.20 s
(Worker_TP0 pid=11) INFO 05-06 21:00:38 [monitor.py:53] torch.compile took 22.70 s in total
(Worker_TP0 pid=11) INFO 05-06 21:01:02 [gpu_model_runner.py:6103] Graph capturing finished in 12 secs, took 0.58 GiB
(EngineCore pid=9) INFO 05-06 21:01:02 [core.py:299] init engine (profile, create kv cache, warmup model) took 62.90 s \
(compilation: 22.74 s)
"""
AN_OLDER_ONE = """\
INFO 06-19 23:04:58 [gpu_model_runner.py:1170] Starting to load model /m...
INFO 06-19 23:05:01 [loader.py:447] Loading weights took 0.69 seconds
INFO 06-19 23:05:01 [gpu_model_runner.py:1273] Model loading took 3.4213 GiB and 0.902026 seconds
INFO 06-19 23:05:18 [monitor.py:33] torch.compile takes 7.51 s in total
INFO 06-19 23:05:35 [gpu_model_runner.py:1608] Graph capturing finished in 17 secs, took 0.48 GiB
INFO 06-19 23:05:35 [core.py:162] init engine (profile, create kv cache, warmup model) took 34.11 seconds
"""


def at(text: str) -> float:
    """The machine's clock in 2026."""
    return time.mktime(time.strptime(f"2026-{text}", "%Y-%m-%d %H:%M:%S"))


@pytest.mark.parametrize(
    ("log", "seconds", "ready", "expected"),
    [
        (ON_A_CPU, 90.0, at("11-29 22:02:29"), (75, 1.95, 0, 0, 1.89, 11.16)),
        (ON_TWO_GPUS, 200.0, at("05-06 21:01:28"), (80, 31.6, 22.74, 12, 28.16, 25.5)),
        (AN_OLDER_ONE, 60.0, at("06-19 23:05:38"), (20, 0.9, 7.51, 17, 9.6, 4.99)),
    ],
)
def test_phases_are_the_whole_of_a_start(
    tmp_path: Path, log: str, seconds: float, ready: float, expected: tuple[float, ...]
) -> None:
    file = tmp_path / "engine.log"
    file.write_text(log)
    found = phases(file, seconds, ready)
    assert found == pytest.approx(dict(zip(PHASES, expected, strict=True)), abs=0.02)
    assert sum(found.values()) == pytest.approx(seconds)


def test_a_log_that_tells_nothing(tmp_path: Path) -> None:
    """Another server or version, a clock that was set back, a file that is gone: a start has its seconds still."""
    file = tmp_path / "engine.log"
    assert phases(file, 5.0, at("05-06 21:01:28")) == {}
    file.write_bytes(b"\xff ready\n")
    assert phases(file, 5.0, at("05-06 21:01:28")) == {}
    file.write_text(ON_A_CPU)
    assert phases(file, 90.0, at("11-29 22:10:00"))["imports"] == 0
    assert phases(file, 90.0, at("11-29 20:02:29"))["imports"] == 0, "its time zone is another"
    assert phases(file, 3.0, at("11-29 22:02:29")) == pytest.approx(
        dict.fromkeys(PHASES, 0) | {"weights": 1.95, "cache": 1.05}
    )


def test_a_start_over_the_end_of_a_year(tmp_path: Path) -> None:
    file = tmp_path / "engine.log"
    file.write_text("INFO 01-01 00:00:10 [gpu_model_runner.py:5033] Starting to load model /m...\n")
    ready = at("12-31 23:59:59") + 41
    assert phases(file, 60.0, ready) == dict.fromkeys(PHASES, 0) | {"imports": 30, "rest": 30}


def test_the_longest_is_told_first() -> None:
    assert told({"imports": 45.2, "weights": 0.4, "graphs": 12, "compilation": 60, "starts": 2}) == (
        "compilation 60 s, imports 45 s, graphs 12 s"
    )
