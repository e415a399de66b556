#!/usr/bin/env python3
"""Placement against the program it replaced: samples a second, and CPU seconds, of the same pools.

    python tools/bench/placement.py [--only WORDS] [--json FILE]

Cases: those of docs/placement.md, the paper's pool on three nodes, and 30 drawn pools (4 to 7 models of 1B to 72B, some
with an embedder, some with unequal work, on 1 to 8 devices of 24 to 141 GB). Rates are the performance model's.
`placement_caede91.json` beside this file has what commit caede91 found: linear and mixed-integer programs with a limit
on CPU time, the best of three tries. Fails when a case is worse, or takes more than two seconds of CPU.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from gra_hpc.config.settings import ModelConfig
from gra_hpc.models.facts import ModelFacts, stated_facts
from gra_hpc.placement.performance import GB, Constants, Need, constants_for
from gra_hpc.placement.placement import NodeSpec, Solution, solve
from gra_hpc.placement.report import render
from gra_hpc.placement.workload import ModelLoad, usual_load
from tools.docs import make_placement_cases as documented

BEFORE = Path(__file__).with_name("placement_caede91.json")
SECONDS = 2.0
"""CPU time that a case may take."""
DRAWN = 30

PAPER = {
    "llama-3.1-8b": stated_facts(parameters=8.03e9, layers=32, heads=32, kv_heads=8, intermediate=14336),
    "qwen2.5-7b": stated_facts(parameters=7.62e9, layers=28, heads=28, kv_heads=4, intermediate=18944),
    "internlm3-8b": stated_facts(parameters=8.8e9, layers=48, heads=32, kv_heads=2, intermediate=10240),
    "mistral-7b-v0.3": stated_facts(parameters=7.25e9, layers=32, heads=32, kv_heads=8, intermediate=14336),
    "tulu-3-8b": stated_facts(parameters=8.03e9, layers=32, heads=32, kv_heads=8, intermediate=14336),
}
"""`configs/models/paper.yaml`, by the models' own config.json."""

SIZES = {
    "1b": stated_facts(parameters=1.24e9, layers=16, heads=32, kv_heads=8, head_dim=64, intermediate=8192),
    "1.5b": stated_facts(parameters=1.54e9, layers=28, heads=12, kv_heads=2, intermediate=8960),
    "3b": stated_facts(parameters=3.21e9, layers=28, heads=24, kv_heads=8, intermediate=8192),
    "7b": PAPER["qwen2.5-7b"],
    "8b": PAPER["llama-3.1-8b"],
    "12b": stated_facts(parameters=12.2e9, layers=40, heads=32, kv_heads=8, intermediate=14336),
    "14b": stated_facts(parameters=14.8e9, layers=48, heads=40, kv_heads=8, intermediate=13824),
    "32b": stated_facts(parameters=32.8e9, layers=64, heads=40, kv_heads=8, intermediate=27648),
    "47b": stated_facts(
        parameters=46.7e9, active_parameters=12.9e9, layers=32, heads=32, kv_heads=8, intermediate=14336
    ),
    "72b": stated_facts(parameters=72.7e9, layers=80, heads=64, kv_heads=8, intermediate=29568),
}
EMBEDDER = documented.EMBEDDER
NODES = {24: "a10", 40: "a100", 48: "l40s", 80: "h100", 141: "h200"}


@dataclass(frozen=True)
class Case:
    """A pool and the node it runs on."""

    facts: dict[str, ModelFacts]
    node: NodeSpec
    load: dict[str, ModelLoad] = field(default_factory=dict)
    window: int = 256

    @property
    def constants(self) -> Constants:
        node = self.node
        return replace(constants_for(node.device_type, node.memory_gb, node.kind), window=self.window)

    def solve(self) -> Solution:
        models = {name: ModelConfig(path=name) for name in self.facts}
        return solve(models, self.facts, self.node, self.load, constants=self.constants)


def work(factor: float) -> ModelLoad:
    """A usual member's load, so many times."""
    return ModelLoad(
        {
            role: replace(
                r,
                calls=factor * r.calls,
                prompt_tokens=factor * r.prompt_tokens,
                completion_tokens=factor * r.completion_tokens,
            )
            for role, r in usual_load().roles.items()
        }
    )


def holds(case: Case) -> bool:
    """Whether each model has room while all the others sleep, so that taking turns is possible at least."""
    node, constants = case.node, case.constants
    room = node.memory_gb * constants.device_share - (len(case.facts) - 1) * constants.sleep_gb
    for name, facts in case.facts.items():
        need = Need(name, facts, usual_load(facts.embedder), ModelConfig(path=name).max_model_len)
        sizes = [
            need.fixed_bytes(t, constants) + need.kv_least(t)
            for t in range(1, node.devices + 1)
            if facts.can_split(t) and ((t & (t - 1)) == 0 or node.devices % t == 0)
        ]
        if min(sizes) > room * GB:
            return False
    return True


def drawn(seed: int) -> Case:
    """A pool that fits its node, if need be by turns."""
    draw = random.Random(seed)
    while True:
        memory = draw.choice(list(NODES))
        sizes = [draw.choice(list(SIZES)) for _ in range(draw.randint(4, 7))]
        facts = {f"{size}-{k}": SIZES[size] for k, size in enumerate(sizes)}
        load = {}
        if draw.random() < 0.3:
            load = {name: work(draw.choice((0.5, 1.0, 1.0, 3.0))) for name in facts}
        if draw.random() < 0.25:
            facts["minilm"] = EMBEDDER
        node = NodeSpec("gpu", draw.randint(1, 8), memory, device_type=NODES[memory])
        case = Case(facts, node, load, draw.choice((256, 256, 256, 1024)))
        if holds(case):
            return case


def cases() -> dict[str, Case]:
    found = {name: Case(facts, node) for name, (facts, node) in documented.CASES.items()}
    found["The paper's pool on 8 x 80 GB"] = Case(PAPER, NodeSpec("gpu", 8, 80))
    found["The paper's pool on 4 x 80 GB h100"] = Case(PAPER, NodeSpec("gpu", 4, 80, device_type="h100"))
    found["The paper's pool and an embedder on 8 x 40 GB"] = Case({**PAPER, "minilm": EMBEDDER}, NodeSpec("gpu", 8, 40))
    for seed in range(DRAWN):
        case = drawn(seed)
        names = ", ".join(name.split("-")[0] for name in case.facts)
        node = case.node
        where = f"{node.devices} x {node.memory_gb:g} GB"
        found[f"{seed}: {names} on {where}{', work differs' if case.load else ''}, window {case.window}"] = case
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name has these words")
    parser.add_argument("--json", type=Path, help="write what was measured")
    args = parser.parse_args()
    before = json.loads(BEFORE.read_text(encoding="utf-8"))["samples_per_s"] if BEFORE.exists() else {}
    rows = {}
    print(f"{'before':>8} {'now':>8} {'ratio':>6} {'ideal':>6} {'turns':>5} {'search':>7} {'report':>7}  case")
    for name, case in cases().items():
        if args.only not in name:
            continue
        began = time.process_time()
        solution = case.solve()
        solved = time.process_time() - began
        render(solution)
        told = time.process_time() - began - solved
        rate = solution.rota.samples_per_s
        ratio = rate / before[name] if name in before else float("nan")
        rows[name] = {"samples_per_s": rate, "search_s": round(solved, 3), "report_s": round(told, 3)}
        print(
            f"{before.get(name, 0):8.4f} {rate:8.4f} {ratio:6.3f} {rate / solution.rota.ideal:6.0%}"
            f" {len(solution.rota.turns):5} {solved:5.2f} s {told:5.2f} s  {name}",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    ratios = [r["samples_per_s"] / before[name] for name, r in rows.items() if name in before]
    if not ratios:
        return 0
    slow = max(r["search_s"] + r["report_s"] for r in rows.values())
    print(f"ratio: least {min(ratios):.4f}, median {statistics.median(ratios):.4f}; CPU: at most {slow:.2f} s")
    return int(min(ratios) < 1 - 1e-6 or slow > SECONDS)


if __name__ == "__main__":
    sys.exit(main())
