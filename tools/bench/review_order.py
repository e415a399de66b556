#!/usr/bin/env python3
"""What bounded review would have saved of a recorded run whose Reviewers were asked together: calls and tokens, with
its decisions beside those that were made.

    python tools/bench/review_order.py runs/demo
    python tools/bench/review_order.py runs/demo --accept-mean 8.5

The answers are the run's own: nobody is asked. Orders: seats as they were drawn, the strictest member first (as
`method.policy=performance` seats them once it has standings; here they know the whole run), and the most lenient first,
which is the worst. The decisions must be those of asking all; the tool fails where one is another.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gra_hpc.config.settings import MethodConfig, ReviewOrder
from gra_hpc.errors import GraError
from gra_hpc.flows.gra.committee import Decision, at_least, consensus, highest_mean
from gra_hpc.records import CRITERIA, FAILED, INSTRUCTION_CRITERIA, InstructionReview, Review
from gra_hpc.release.inputs import Inputs
from gra_hpc.run.run import Run

Order = Callable[[Sequence[str]], list[int]]
"""From the members in their seats to the seats in the order in which they are asked."""


@dataclass
class Saved:
    """What one order of asking comes to."""

    questions: int = 0
    """Of a run that asks together."""
    asked: int = 0
    tokens: int = 0
    """Completion tokens of the questions."""
    tokens_asked: int = 0
    prompts: int = 0
    prompts_asked: int = 0

    def add(self, seats: Sequence[str], order: Sequence[int], stop: int, tokens: Mapping[str, tuple[int, int]]) -> None:
        """Count the questions about one text.

        Args:
            seats: their calls' keys, without the try.
            stop: how many are asked.
            tokens: of prompts and completions, by such a key.
        """
        self.questions += len(seats)
        self.asked += stop
        for place, seat in enumerate(order):
            prompt, completion = tokens.get(seats[seat], (0, 0))
            self.prompts += prompt
            self.tokens += completion
            if place < stop:
                self.prompts_asked += prompt
                self.tokens_asked += completion


def replay(
    rows: Sequence[dict[str, Any]], tokens: Mapping[str, tuple[int, int]], method: MethodConfig, order: Order
) -> Saved:
    """Ask the Reviewers of recorded samples one after another.

    Raises:
        GraError: a decision is another than that of asking all.
    """
    saved = Saved()
    for row in rows:
        seats = list(row["reviewers"])
        if len(row["instruction_reviews"]) == len(seats):
            passed = [_instruction(r).passed for r in row["instruction_reviews"]]
            asked = order(seats)
            stop = next((i for i, s in enumerate(asked, 1) if not passed[s]), len(seats))
            _same(row, all(passed), all(passed[s] for s in asked[:stop]))
            keys = [f"{row['id']}/review_instruction/reviewer-{s}" for s in range(1, len(seats) + 1)]
            saved.add(keys, asked, stop, tokens)
        if len(row["reviews"]) == len(seats):
            reviews = [_response(r) for r in row["reviews"]]
            asked, given = order(seats), list[Review]()
            for seat in asked:
                given.append(reviews[seat])
                if not at_least(highest_mean([r.mean for r in given], len(seats)), method.accept_mean):
                    break
            rejects = consensus(reviews, method).decision is Decision.reject
            _same(row, not rejects, len(given) == len(seats) and not rejects)
            keys = [f"{row['id']}/review_response/reviewer-{s}" for s in range(1, len(seats) + 1)]
            saved.add(keys, asked, len(given), tokens)
    return saved


def _same(row: dict[str, Any], all_: bool, some: bool) -> None:
    if all_ != some:
        raise GraError(f"sample {row['id']}: decided otherwise when it is asked one after another")


def _instruction(r: dict[str, Any]) -> InstructionReview:
    return InstructionReview(r["member"], {c: r[c] for c in INSTRUCTION_CRITERIA})


def _response(r: dict[str, Any]) -> Review:
    return Review(r["member"], {c: r[c] for c in CRITERIA})


def strictness(rows: Sequence[dict[str, Any]], accept_mean: float) -> dict[str, float]:
    """How often each member says no, of all its questions."""
    refused, asked = Counter[str](), Counter[str]()
    for row in rows:
        for r in row["instruction_reviews"]:
            asked[r["member"]] += 1
            refused[r["member"]] += not _instruction(r).passed
        for r in row["reviews"]:
            asked[r["member"]] += 1
            refused[r["member"]] += not at_least(_response(r).mean, accept_mean)
    return {m: refused[m] / n for m, n in asked.items()}


def orders(says_no: Mapping[str, float]) -> dict[str, Order]:
    """The orders of asking, by name."""

    def by(sign: int) -> Order:
        return lambda seats: sorted(range(len(seats)), key=lambda i: sign * says_no.get(seats[i], 0.0))

    return {"drawn": lambda seats: list(range(len(seats))), "strictest": by(-1), "most lenient": by(1)}


def measure(run: Run, accept_mean: float | None = None) -> dict[str, Any]:
    """Figures of a run by order.

    Args:
        accept_mean: another threshold than the run's.

    Raises:
        GraError: a run whose Reviewers were asked one after another, or a decision that is another.
    """
    method = run.config.method
    if method.review_order is not ReviewOrder.together:
        raise GraError(f"{run.path}: its Reviewers were asked one after another already")
    method = replace(method, accept_mean=method.accept_mean if accept_mean is None else accept_mean)
    columns = ["id", "status", "reviewers", "instruction_reviews", "reviews"]
    rows: list[dict[str, Any]] = []
    tokens: dict[str, tuple[int, int]] = {}
    for table in (t for r in Inputs.of_run(run).rounds for t in r.tables()):
        rows += [r for r in pq.read_table(table.samples, columns=columns).to_pylist() if r["status"] != FAILED]
        for c in pq.read_table(table.calls, columns=["key", "prompt_tokens", "completion_tokens"]).to_pylist():
            question = c["key"].rsplit("/", 1)[0]
            before = tokens.get(question, (0, 0))
            tokens[question] = before[0] + c["prompt_tokens"], before[1] + c["completion_tokens"]
    says_no = strictness(rows, method.accept_mean)
    found = {name: replay(rows, tokens, method, order) for name, order in orders(says_no).items()}
    return {
        "run": run.name,
        "samples": len(rows),
        "accept_mean": method.accept_mean,
        "calls": len(tokens),
        "says_no": {m: round(share, 3) for m, share in sorted(says_no.items())},
        "orders": {name: asdict(s) for name, s in found.items()},
    }


def main() -> None:
    """Print a table, and one line of JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--accept-mean", type=float)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure(Run.to_look_at(args.run), args.accept_mean)
    if args.json:
        print(json.dumps(found))
        return
    print(
        f"{found['samples']} samples, accept_mean {found['accept_mean']:g}; all decisions are those of asking together"
    )
    for name, s in found["orders"].items():
        kept, tokens = (1 - s[a] / max(1, s[b]) for a, b in (("asked", "questions"), ("tokens_asked", "tokens")))
        print(
            f"  {name:13} {s['asked']} of {s['questions']} questions to Reviewers ({kept:.0%} saved),"
            f" {tokens:.0%} of their answer tokens saved"
        )


if __name__ == "__main__":
    main()
