"""Real vLLM engines on the CPU: several at once, tensor parallelism, deaths, templates, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from gra_hpc.config import presets
from gra_hpc.config.settings import EngineConfig, ModelConfig
from gra_hpc.engines import guard
from gra_hpc.engines.node import Node
from gra_hpc.errors import EngineError
from gra_hpc.flows.calls import Answer, Request, Sampling
from gra_hpc.flows.choices import read
from gra_hpc.merge.round import merge_round
from gra_hpc.models.files import embedding_length
from gra_hpc.models.thinking import Thinking, thinking_of
from gra_hpc.placement.placement import EnginePlace, Placement
from gra_hpc.release.build import build
from gra_hpc.release.verify.verify import verify
from gra_hpc.run import planning
from gra_hpc.run.engines import EMBEDDER, embed
from gra_hpc.run.shard import End
from gra_hpc.run.worker import run_shard
from gra_hpc.thoughts import mark_in
from tests.conftest import known_classes
from tests.waiting import until, until_it_is

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

REFUSES_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
VERDICT = {
    "type": "object",
    "properties": {
        "comment": {"type": "string", "maxLength": 40},
        "clarity": {"type": "integer", "enum": list(range(1, 11))},
    },
    "required": ["comment", "clarity"],
    "additionalProperties": False,
}


@pytest.fixture
def short_dir(short_dir: Path) -> Iterator[Path]:
    with known_classes(short_dir):
        yield short_dir


def tiny(path: Path, max_model_len: int = 1024, **more: object) -> ModelConfig:
    """Random weights: real machinery, meaningless text."""
    return ModelConfig(str(path), max_model_len=max_model_len, load_format="dummy", kv_cache_gb=0.1, **more)  # type: ignore[arg-type]


def request(model: str, text: str, tokens: int = 16, system: str = "", schema: object = None) -> Request:
    messages = ({"role": "system", "content": system},) if system else ()
    sampling = Sampling(0.0, 1.0, tokens, 1)
    return Request(model, "", (*messages, {"role": "user", "content": text}), sampling, schema)  # type: ignore[arg-type]


def cores() -> tuple[int, ...]:
    """By their place among the cores that this process may use."""
    return tuple(range(min(2, len(os.sched_getaffinity(0)))))


def descendants_named(root: int, name: str) -> list[int]:
    """Descendants whose command line (vLLM sets it) contains a name."""
    found = []
    for pid in guard.descendants(root):
        try:
            if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.all_cores
@pytest.mark.parametrize("goes_on", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_tensor_parallel_and_a_killed_core(
    tiny_llama: Path, short_dir: Path, shm_left: Callable[[], set[Path]], goes_on: bool
) -> None:
    """TP=2, a template that refuses system messages; kill -9 of the EngineCore in the middle of calls. The node ends
    while the engine starts again, or goes on (by default one rank does: test_main_job.py)."""
    template = short_dir / "refuses.jinja"
    template.write_text(REFUSES_SYSTEM)
    length, long = 256, 160  # short: every step of two ranks takes both cores
    models = {"wide": tiny(tiny_llama, length, chat_template=str(template))}
    placement = Placement((EnginePlace("wide", 0, cores(), len(cores())),), "cpu")

    async def work() -> None:
        async with Node(models, placement, EngineConfig(), short_dir, short_dir / "logs") as node:
            first = await asyncio.gather(
                node.ask(request("wide", "Say hello.")), node.ask(request("wide", "Say hello.", system="Be brief."))
            )
            assert [(a.finish, a.completion_tokens) for a in first] == [("length", 16)] * 2
            wide = node._replicas[0]
            assert wide.process is not None
            assert sum(wide.stats.start_phases.values()) == pytest.approx(wide.stats.start_seconds, abs=0.1)
            assert wide.stats.start_phases["imports"] > 0
            assert len(descendants_named(wide.process.pid, "VLLM::Worker")) == len(cores())
            assert not list(short_dir.rglob("*.cpp")), "a compute node may have no compiler"
            over_long = await node.ask(request("wide", "word " * 2000))
            assert over_long.finish == "error"
            assert f"maximum context length is {length}" in over_long.text
            clamped = await node.ask(request("wide", "Say hello.", tokens=4096))
            assert clamped.finish == "length"
            assert clamped.prompt_tokens + clamped.completion_tokens == length

            (core,) = descendants_named(wide.process.pid, "VLLM::EngineCore")
            os.kill(core, signal.SIGSTOP)  # else random weights may have ended all four before anybody looks
            asked = [asyncio.create_task(node.ask(request("wide", f"Count to {i}.", long))) for i in range(4)]
            await until_it_is(lambda: len(wide.inflight) == 4 or any(task.done() for task in asked))
            assert len(wide.inflight) == 4, asked
            os.kill(core, signal.SIGKILL)
            await until_it_is(lambda: wide.stats.causes)
            stats = node.stats()["engines"]["wide-0"]
            assert (stats["restarts"], stats["calls"]) == (1, 4)
            if goes_on:
                answers = await asyncio.gather(*asked)
                assert [(a.finish, a.completion_tokens) for a in answers] == [("length", long)] * 4
            while wide.stats.starts < 2 or wide.process is None or not guard.descendants(wide.process.pid):
                await asyncio.sleep(0.02)
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(work())
    assert shm_left() == set()
    assert [p.name for p in short_dir.iterdir() if p.name.startswith(f"gra-{os.getuid()}-")] == []


SHARD = """
import asyncio, json, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent))
from test_vllm_engines import VERDICT, cores, request
from gra_hpc.config.settings import EngineConfig, ModelConfig
from gra_hpc.engines.node import Node
from gra_hpc.placement.placement import EnginePlace, Placement

async def main(model, base):
    models = {"smol": ModelConfig(model, max_model_len=1024, dtype="float32", kv_cache_gb=0.25)}
    placement = Placement((EnginePlace("smol", 0, cores()),), "cpu")
    async with Node(models, placement, EngineConfig(), base, base / "logs") as node:
        chat = await node.ask(request("smol", "What is the capital of France?", 32, system="Answer in one sentence."))
        verdict = await node.ask(request("smol", "Judge this text: The sky is blue.", 80, schema=VERDICT))
        asked = replace(request("smol", "Is snow white? A: yes. B: no. Answer with the letter.", 4), choices=("A", "B"))
        chosen = await node.ask(asked)
        pid = node._replicas[0].process.pid
        print(json.dumps([chat.text, chat.finish, verdict.text, verdict.finish, chosen.text, pid]), flush=True)
        await asyncio.gather(*(node.ask(request("smol", f"Write a long story {i}.", 900)) for i in range(4)))

asyncio.run(main(sys.argv[2], Path(sys.argv[3])))
"""


@pytest.mark.slow  # by default: test_node.py, with simulated servers
def test_chat_verdict_and_kill_of_the_whole_shard(
    smollm2: Path, short_dir: Path, shm_left: Callable[[], set[Path]]
) -> None:
    """SmolLM2 in a shard of its own; kill -9 of the shard in the middle of its calls leaves nothing."""
    command = [sys.executable, "-c", SHARD, __file__, str(smollm2), str(short_dir)]
    shard = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert shard.stdout is not None
        line = shard.stdout.readline()
        assert line, "the shard ended early"
        chat, finish, verdict, ended, chosen, guard_pid = json.loads(line)
        scores = read(chosen, ("A", "B")).scores
        assert all(-30 < score < 0 for score in scores.values())
        assert len(set(scores.values())) == 2
        assert finish in ("stop", "length")
        assert "Paris" in chat
        assert ended == "stop"
        assert json.loads(verdict)["clarity"] in range(1, 11)
        time.sleep(1.0)
        processes = [guard_pid, *guard.descendants(guard_pid)]
        assert len(processes) >= 4  # guard, server, core, worker
        assert guard.mapped_shm(processes)
    finally:
        shard.kill()
        shard.wait()
    until(lambda: not any(map(guard.start_time, processes)) and not shm_left())


@pytest.mark.slow  # by default: test_node.py, with simulated servers
def test_vllm_that_cannot_start_says_why(tiny_llama: Path, short_dir: Path, shm_left: Callable[[], set[Path]]) -> None:
    models = {"m": tiny(tiny_llama, engine_args={"kv_cache_memory_bytes": 1000})}
    placement = Placement((EnginePlace("m", 0, cores()[:1]),), "cpu")

    async def work() -> None:
        async with Node(models, placement, EngineConfig(max_restarts=0), short_dir, short_dir / "logs") as node:
            with pytest.raises(EngineError, match=r"engine m-0 does not start: exit code 1.*log: .*\.log") as e:
                await node.ask(request("m", "hello"))
            assert "ValueError: No available memory for the cache blocks" in str(e.value)

    asyncio.run(work())
    assert shm_left() == set()


@pytest.mark.slow
@pytest.mark.all_cores
def test_two_engines_at_once_one_of_them_the_sentence_embedder(
    tiny_llama: Path, minilm: Path, short_dir: Path, shm_left: Callable[[], set[Path]]
) -> None:
    """The hosted embedder gives the vectors of sentence-transformers, also of a text longer than it reads."""
    from gra_hpc.models.embedder import encode

    models = {
        "m": tiny(tiny_llama),
        EMBEDDER: ModelConfig(str(minilm), dtype="float32", max_model_len=embedding_length(minilm)),
    }
    places = (EnginePlace("m", 0, cores()[:1]), EnginePlace(EMBEDDER, 0, cores()[-1:], embeds=True))
    texts = ["Name a river.", "Name a river in Asia.", "Prove that 7 is prime. " * 80]

    async def work() -> list[bytes | None]:
        async with Node(models, Placement(places, "cpu"), EngineConfig(), short_dir, short_dir / "logs") as node:
            answer, vectors = await asyncio.gather(
                node.ask(request("m", "Say hello.")), asyncio.gather(*(embed(node, t) for t in texts))
            )
            assert (answer.finish, answer.completion_tokens) == ("length", 16)
            stats = node.stats()["engines"]
            assert (stats["m-0"]["calls"], stats[f"{EMBEDDER}-0"]["calls"]) == (1, 3)
            return vectors

    found = [np.frombuffer(v or b"", "<f2").astype(float) for v in asyncio.run(work())]
    assert shm_left() == set()
    expected = encode(texts, minilm).astype(float)
    assert [float(a @ b) for a, b in zip(found, expected, strict=True)] == pytest.approx([1.0] * 3, abs=5e-3)


@pytest.mark.slow
@pytest.mark.all_cores
@pytest.mark.timeout(1800)
def test_two_real_models_at_once_one_without_a_system_role(
    smollm2: Path, gemma: Path, short_dir: Path, shm_left: Callable[[], set[Path]]
) -> None:
    """SmolLM2 and Gemma, on cores of their own, at the same time; Gemma's template puts the system message before the
    user's first."""
    half = max(1, len(cores()) // 2)
    places = (EnginePlace("smol", 0, cores()[:half]), EnginePlace("gemma", 0, cores()[-half:]))
    models = {
        "smol": ModelConfig(str(smollm2), max_model_len=1024, kv_cache_gb=0.25),
        "gemma": ModelConfig(str(gemma), max_model_len=1024, kv_cache_gb=0.25),
    }

    async def work() -> None:
        async with Node(models, Placement(places, "cpu"), EngineConfig(), short_dir, short_dir / "logs") as node:
            await node.start()
            asked = [
                node.ask(request(name, "Name the capital of France.", 24, system="Be brief.", schema=schema))
                for name in ("smol", "gemma")
                for schema in (None, VERDICT)
            ]
            answers = await asyncio.gather(*asked)
            assert all(a.finish in ("stop", "length") and a.text.strip() for a in answers), answers
            # The system message is part of what Gemma was asked.
            with_system, without = await asyncio.gather(
                *(node.ask(request("gemma", "Hello.", 1, system=s)) for s in ("Be brief. " * 20, ""))
            )
            assert with_system.prompt_tokens > without.prompt_tokens + 40
            assert [e["calls"] for e in node.stats()["engines"].values()] == [2, 4]

    asyncio.run(work())
    assert shm_left() == set()


class Watched:
    """How many engines live at a time, and the memory of all their processes, while a block runs."""

    def __init__(self, node: Node) -> None:
        self.node, self.living, self.peak_mb = node, 0, 0.0

    async def __aenter__(self) -> Watched:
        self.task = asyncio.create_task(self.look())
        return self

    async def __aexit__(self, *error: object) -> None:
        self.task.cancel()

    async def look(self) -> None:
        while True:
            processes = [r.process for r in self.node._replicas]
            pids = [p.pid for p in processes if p is not None and p.pid and not p.dead.is_set()]
            self.living = max(self.living, len(pids))
            self.peak_mb = max(self.peak_mb, await asyncio.to_thread(self.memory, pids))
            await asyncio.sleep(0.1)

    @staticmethod
    def memory(roots: list[int]) -> float:
        """Private and shared memory of process trees, in MiB; what several map is divided between them."""
        total = 0
        for pid in {p for root in roots for p in (root, *guard.descendants(root))}:
            with contextlib.suppress(psutil.Error):
                total += psutil.Process(pid).memory_full_info().pss
        return total / 2**20


@pytest.mark.slow
@pytest.mark.all_cores
@pytest.mark.timeout(3000)
def test_rotation_of_three_models_gives_the_same_answers(
    smollm2: Path, gemma: Path, tiny_llama: Path, short_dir: Path
) -> None:
    """Three models in the memory of one, by stop and start: float32, so that batching does not change texts."""
    real = {"max_model_len": 1024, "dtype": "float32", "kv_cache_gb": 0.2}
    models = {
        "a": ModelConfig(str(smollm2), **real),  # type: ignore[arg-type]
        "b": ModelConfig(str(gemma), **real),  # type: ignore[arg-type]
        "c": tiny(tiny_llama, dtype="float32"),
    }

    async def chain(node: Node, sample: int) -> list[str]:
        texts = [f"Tell me about the number {sample}."]
        for name in ("a", "a", "b", "c", "a"):
            texts.append((await node.ask(request(name, texts[-1]))).text)
        return texts

    async def work(turns: tuple[int, int, int]) -> tuple[list[list[str]], Watched]:
        engines = tuple(EnginePlace(n, 0, cores(), turn=t) for n, t in zip(models, turns, strict=True))
        async with (
            Node(models, Placement(engines, "cpu"), EngineConfig(), short_dir, short_dir / "logs") as node,
            Watched(node) as seen,
        ):
            found = list(await asyncio.gather(*(chain(node, i) for i in range(8))))
            assert (node.stats()["rotation"]["swaps"] > 0) is (len(set(turns)) > 1)
            return found, seen

    rotated, one = asyncio.run(work((0, 1, 2)))
    together, three = asyncio.run(work((0, 0, 0)))
    assert rotated == together
    assert (one.living, three.living) == (1, 3)
    print(f"memory of the engines: {one.peak_mb:.0f} MiB in turns, {three.peak_mb:.0f} MiB together")
    assert one.peak_mb < 0.7 * three.peak_mb  # Gemma alone takes 6.0 of the 10.6 GB


def thinking_model(source: Path, directory: Path) -> ModelConfig:
    """A model whose template opens a thought, and whose tokenizer has marks of thoughts in place of two others."""
    directory.mkdir()
    for file in source.iterdir():
        (directory / file.name).symlink_to(file)
    for name in ("tokenizer.json", "chat_template.jinja"):
        (directory / name).unlink()
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    marks = {"<issue_start>": "<think>", "<issue_closed>": "</think>"}
    for token in tokenizer["added_tokens"]:
        if token["content"] in marks:  # not special, as in models that think: an answer's text is without special ones
            token |= {"content": marks[token["content"]], "special": False}
    tokenizer["model"]["vocab"] = {marks.get(k, k): v for k, v in tokenizer["model"]["vocab"].items()}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n<think>\n"
    )
    return tiny(directory)


@pytest.mark.slow
def test_a_model_that_thinks(tiny_llama: Path, short_dir: Path) -> None:
    """vLLM's parser tells thoughts apart, its budget ends them, and what is guided begins behind them."""
    model = thinking_model(tiny_llama, short_dir / "thinks")
    thinking = thinking_of(Path(model.path), model)
    assert thinking == Thinking(True, "<think>", True, "deepseek_r1")
    placement = Placement((EnginePlace("m", 0, cores()[:1]),), "cpu")

    def asked(text: str, tokens: int, schema: object = None) -> Request:
        sampling = Sampling(0.0, 1.0, tokens, 1, 1.1, 12)
        messages = ({"role": "user", "content": text},)
        return Request("m", "", messages, sampling, schema, thinking)  # type: ignore[arg-type]

    async def work() -> None:
        local, parsers = short_dir / "l", {"m": thinking.parser}
        async with Node({"m": model}, placement, EngineConfig(), local, short_dir / "logs", parsers=parsers) as node:
            free, verdict = await asyncio.gather(
                node.ask(asked("Name a colour.", 24)), node.ask(asked("Judge this: 2 + 2 = 4.", 96, VERDICT))
            )
            assert free.thoughts and free.text and "think>" not in free.text + free.thoughts
            assert free.completion_tokens == 24 + 12
            assert verdict.thoughts and verdict.finish == "stop"
            assert 1 <= json.loads(verdict.text)["clarity"] <= 10
            # what the thoughts leave of their budget is not the answer's: the server itself counts the answer
            client = node._replicas[0].process.client  # type: ignore[union-attr]
            long = Answer("one two three four " * 50, "stop", 0, 1000, 0.0, "so")
            assert await client._too_long(asked("", 60), long, {}) and not await client._too_long(
                asked("", 600), long, {}
            )
            # without a budget the thoughts of random weights do not end: they are no answer
            node._replicas[0].process.client._budget = False  # type: ignore[union-attr]
            endless = await node.ask(asked("Name a colour.", 4))
            assert (endless.text, endless.finish) == ("", "thoughts") and endless.thoughts

    asyncio.run(work())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_whole_run_with_a_model_that_thinks(smollm2: Path, short_dir: Path) -> None:
    """Real weights, whose thoughts end where their budget ends: from seeds to a release with a column of thoughts."""
    thinking_model(smollm2, short_dir / "thinks")
    things = ("a river", "a bridge", "a lantern", "a comet")
    rows = [
        {"instruction": f"Describe {t}.", "response": f"It is {t}.", "domain": "qa", "keywords": [t], "summary": t}
        for t in things
    ]
    (short_dir / "seeds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = [
        *(f"models.smollm2.path={short_dir / 'thinks'}", f"seeds.path={short_dir / 'seeds.jsonl'}"),
        *("launch.shards=1", "merge.semantic=false", "merge.fuzzy=false", "method.flow=refine"),
        *("method.accept_mean=1", "method.accept_sd=10", "method.sampling.max_tokens=400", "method.max_tries=3"),
        *("method.sampling.thinking_tokens=24", "release.thoughts=column", "release.diagnostics.rows=0"),
    ]
    run = planning.make(short_dir / "run", presets.compose("demo", words))
    assert run.plan.thinking_models == ["smollm2"]
    assert run_shard(run, 1, 0) is End.published
    merge_round(run, 1)
    release = build(run)
    (table,) = run.round(1).shard(0).path.glob("calls-*.parquet")
    calls = pq.read_table(table).to_pylist()
    answered = [c for c in calls if c["finish"] == "stop"]
    assert answered and all(c["thoughts"] for c in answered)
    assert not [c for c in calls if mark_in(c["text"])]
    assert all(json.loads(c["text"]) for c in answered if "/review_response/" in c["key"])
    samples = pq.read_table(next(table.parent.glob("samples-*.parquet"))).to_pylist()
    assert any(s["response"] for s in samples), [(s["stage"], s["reason"], s["raw"]) for s in samples]
    assert all(s["thoughts"] for s in samples if s["response"])
    data = [r for f in release.glob("data/*.parquet") for r in pq.read_table(f).to_pylist()]
    assert {r["id"]: r["thoughts"] for r in data} == {
        s["id"]: s["thoughts"] for s in samples if s["status"] == "accepted"
    }
    assert verify(release) == []
    print(f"{len(calls)} calls, {len(answered)} answered, {len(data)} rows released")
