"""The golden run: what the paper's method makes of 200 seeds in two rounds, byte for byte, as it was committed.

Ids, call keys, requests (their digests cover messages, schema and sampling), tables, the merges' decisions and the
release of a run with simulated engines are compared with `simulated.json`; what no machine changes in a run with a real
engine with `real.json` (`tests/test_main_job.py`). A failure names the table, its columns and the first row. The plan's
fingerprint, times, attempts' names and hosts are not part of it.

To pin on purpose what a change makes new:

    GRA_REWRITE_GOLDEN=1 python -m pytest tests/golden tests/test_main_job.py
    git diff tests/golden
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.golden import observed, pinned

GRA = [sys.executable, "-m", "gra_hpc.cli"]
HERE = Path(__file__).parent

QUESTIONS = (
    "keywords",
    "instruction",
    "review_instruction",
    "response",
    "review_response",
    "adjudicate",
    "summary",
)
DOMAINS = ("coding", "math", "qa", "reasoning", "role_play", "language")
THINGS = (
    "lighthouse",
    "abacus",
    "harvest",
    "orchestra",
    "avalanche",
    "keyboard",
    "caravan",
    "embassy",
    "naïve Bayes",
)
ACTS = ("Describe", "Count", "Translate", "Defend", "Draw", "Test")
TWINS = (
    ("explain why urban lanterns are kept apart from circular  clocks",
     "Design an example in which woven compilers replace coastal calendars."),
    ("Prove the cost of magnetic windmills in the presence of public riddles.",
     "Translate which double pipelines a beginner should know before early breakfasts."),
)  # fmt: skip
"""What two accepted samples of round 1 say, exactly and nearly: seeds of a domain of their own, so that no other sample
depends on them. The merge drops those two samples. Where the samples change, take others' words."""

PRESET = """\
seeds: {path: seeds.jsonl, licence: cc0-1.0}
models:
  large: {path: ./models/large, licence: mit}
  small: {path: ./models/small, licence: apache-2.0}
committee:
  ada: {model: large, sampling: {temperature: 0.7}}
  ben: {model: small, persona: You are strict.}
  cyd: {model: large}
  dee: {model: small, sampling: {top_p: 0.5}}
  eve: {model: large}
method:
  rounds: 2
  target_accepted: 40
  expected_acceptance: 0.2
  accept_mean: 7.5
  accept_sd: 0.9
  adjudicate_mean: 7.5
  max_tries: 2
  sampling: {temperature: 0.3, top_p: 0.95, max_tokens: 512, repetition_penalty: 1.1}
  role_sampling: {reviewer: {temperature: 0.1}}
  verdict_tokens: 200
  seed: 18
merge:
  semantic: false
  shingle: 1
  fuzzy_threshold: 0.5
  decontamination: {sources: [./benchmark.jsonl], ngram: 6}
engine: {kind: simulated, simulated_failures: 0.06}
launch: {shards: 2, parallel: 2, window: 16}
release: {validation: 0.1, licence: cc0-1.0, formats: [alpaca], diagnostics: {rows: 0}}
"""


def seeds() -> Iterator[dict[str, Any]]:
    """200 seeds of all kinds, and records that are none."""
    for i in range(198):
        thing, act = THINGS[i % 9], ACTS[i // 9 % 6]
        row: dict[str, Any] = {
            "instruction": f"{act} the {thing} number {i} in {2 + i % 7} sentences.",
            "response": f"The {thing} number {i} is one of {3 * i + 1}. " * (1 + i % 3) if i % 17 else "",
        }
        if i % 5:
            row |= {
                "domain": DOMAINS[i % 6],
                "keywords": [thing, act.lower(), f"number {i}"],
                "summary": f"{act} the {thing} of number {i}.",
            }
        elif i % 2:
            row["domain"] = "programming"
        yield row
    yield {"instruction": "", "response": "Nothing was asked."}
    yield {"instruction": "Count the abacus number 10 in 5 sentences.", "response": "<|im_end|>"}
    for instruction, response in TWINS:
        row = {"instruction": instruction, "response": response, "domain": "creation"}
        yield row | {"keywords": ["twin", "pair", "double"], "summary": "Say it twice."}


def prepared(where: Path) -> None:
    """Everything that the run reads, in a directory."""
    for size in ("large", "small"):
        (where / "models" / size).mkdir(parents=True)
        (where / "models" / size / "config.json").write_text(json.dumps({"golden": size}))
    (where / "benchmark.jsonl").write_text('{"question": "three steps that lead from tidal bridges"}\n')
    (where / "seeds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in seeds()))
    (where / "golden.yaml").write_text(PRESET)


def gra(where: Path, *words: str) -> str:
    """A command's output."""
    done = subprocess.run(
        [*GRA, *words], cwd=where, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_golden_run_is_as_it_was(tmp_path: Path) -> None:
    prepared(tmp_path)
    prompts = pinned.messages(gra(tmp_path, "plan", "run", "--preset", "golden.yaml", "--prompts"))
    gra(tmp_path, "submit", "run")
    seen = observed.everything(tmp_path / "run", rounds=2) | {"prompts shown": prompts}
    pinned.check(HERE / "simulated.json", seen)
    assert seen["seeds"]["rows"] == 200 and len(seen["seeds refused"]) == 2
    asked, merged = seen["round 1 calls"]["steps"], seen["round 1 dropped"]["by"]
    assert set(asked) == set(QUESTIONS) and set(seen["round 0 calls"]["steps"]) == {"describe"}
    assert set(merged) == {"contaminated", "exact", "fuzzy", "surplus"}, "TWINS are no twins any more"
