#!/usr/bin/env python3
"""docs/placement.md: placements of known cases, as `gra plan` prints them.

python tools/docs/make_placement_cases.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from gra_hpc.config.settings import ModelConfig, Residency
from gra_hpc.models.facts import ModelFacts, stated_facts
from gra_hpc.placement.placement import NodeSpec, solve
from gra_hpc.placement.report import render

TARGET = Path(__file__).resolve().parents[2] / "docs" / "placement.md"

EIGHT = stated_facts(parameters=8.03e9, layers=32, heads=32, kv_heads=8, intermediate=14336)
LARGE = stated_facts(parameters=72.7e9, layers=80, heads=64, kv_heads=8, intermediate=29568)
EMBEDDER = stated_facts(parameters=22.7e6, layers=6, heads=12, kv_heads=12, head_dim=32, embedder=True)
FIVE = dict.fromkeys(("llama", "tulu", "qwen", "mistral", "internlm"), EIGHT)

CASES: dict[str, tuple[dict[str, ModelFacts], NodeSpec]] = {
    "Five 8B models on 8 x 80 GB": (FIVE, NodeSpec("gpu", 8, 80)),
    "Five 8B models on 4 x 40 GB": (FIVE, NodeSpec("gpu", 4, 40)),
    "Five 8B models on 1 x 80 GB": (FIVE, NodeSpec("gpu", 1, 80)),
    "One 72B model on 8 x 80 GB": ({"qwen72": LARGE}, NodeSpec("gpu", 8, 80)),
    "Five 8B models and an embedder on 4 x 24 GB": ({**FIVE, "minilm": EMBEDDER}, NodeSpec("gpu", 4, 24)),
}

HEAD = """\
# Placement

<!-- Written by tools/docs/make_placement_cases.py. -->

Where a node's engines go is worked out from what each model needs (weights, KV cache of a token, layers and heads:
from its own files), what the method asks of it (calls and tokens by role, stated or calibrated) and what the node has.
The aim is the most candidates a second for the whole committee: the slowest model bounds it. Engines on one GPU get
like parts of its time, as a GPU goes round among processes with work; all engines divide the calls that
`launch.window` keeps in flight (about 1.45 per sample: Reviewers are asked at once), so the best layout depends on the
window: 256 here. A search looks at a fixed number of layouts, about a second's work, and finds the same one on every
machine; beside its rate stands what a node without any loss would do, which no layout exceeds. `gra plan` prints the
result as below; `gra calibrate` replaces stated rates by measured ones. Pins (`models.NAME.tensor_parallel`,
`replicas`, `kv_cache_gb`; `engine.residency`) are kept and checked the same way.

Everything on this page is calculated with stated rates. None of it was run on a GPU.
"""


def text() -> str:
    parts = [HEAD]
    for title, (facts, node) in CASES.items():
        models = {name: ModelConfig(path=name) for name in facts}
        solution = solve(models, facts, node, {}, Residency.auto)
        parts.append(f"\n## {title}\n\n```\n{render(solution).strip()}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    target.write_text(text(), encoding="utf-8")
    print(f"wrote {target}")
