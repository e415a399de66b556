"""Two engines, each as large as the device: they take turns, by sleep mode on a GPU, by stop and start on a CPU."""

from __future__ import annotations

import time

from gra_hpc.config.settings import Residency
from gra_hpc.doctor.prove.bench import Bench, asked
from gra_hpc.doctor.prove.proof import Proof
from gra_hpc.errors import EngineError

_QUESTION = "What is the capital of France?"


async def sleep(proof: Proof, bench: Bench) -> str:
    """The first engine answers, sleeps while the second does, and answers as before when it is awake again."""
    first, second = bench.name, f"{bench.name}-2"
    models = {first: bench.model, second: bench.model}
    solution = bench.placed(models, 1, Residency.turns)
    if not solution.placement.takes_turns:
        raise EngineError("placement puts both engines into one turn", "report it")
    async with bench.host(models, solution.placement) as node:
        before = await asked(node, first, _QUESTION, 16)
        await asked(node, second, _QUESTION, 16)
        lost, began = node.stats()["rotation"]["swap_seconds"], time.monotonic()
        after = await asked(node, first, _QUESTION, 16)
        woke = time.monotonic() - began - after.seconds
        stats = node.stats()
    swap = stats["rotation"]["swap_seconds"] - lost
    starts = {name: stats["engines"][f"{name}-0"]["starts"] for name in models}
    # Greedy, so the same; but the last bits of a sum, and so a later word, may depend on what the cache held.
    if after.text.split()[:1] != before.text.split()[:1]:
        raise EngineError(
            f"the same model answers otherwise after waking: {before.text[:30]!r}, then {after.text[:30]!r}",
            f"read the engines' logs in {proof.engines}; engine.residency=together goes without sleep",
        )
    if bench.on_cpu:
        return f"by stop and start (a CPU has no sleep mode): awake again after {woke:.0f} s, the same answer"
    if starts != dict.fromkeys(models, 1):
        raise EngineError(
            f"an engine was started {max(starts.values())} times instead of woken: sleep mode failed",
            f"read the engines' logs in {proof.engines}; engine.residency=together goes without it",
        )
    proof.measured["swap_s"] = round(swap, 2)
    return f"asleep and awake again in {swap:.1f} s, the same answer, no engine started twice"
