"""`gra status --roles`: what the rounds so far have shown of each member, by the merges and by gold questions, and how
often it is to get a role."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from gra_hpc.config.settings import Policy
from gra_hpc.errors import GraError
from gra_hpc.flows.gra import gold
from gra_hpc.flows.gra.standing import Standing, added
from gra_hpc.parquet import read_batches
from gra_hpc.records import ACCEPTED
from gra_hpc.run.gold import Counted, GoldQuestions
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import ShardManifest

_Z = 1.959964
"""Of a 95% interval."""


def standings(run: Run) -> dict[int, Standing]:
    """Standings by the round whose roles they draw."""
    found = {}
    for number in run.rounds:
        if number > 1 and run.round(number - 1).manifest.is_file():
            plan = RoundPlan.load(run.round(number))
            if plan.standing:
                found[number] = Standing.from_dict(plan.standing)
    return found


def lines(run: Run) -> Iterator[str]:
    """A table of each round's standing, and of what gold questions say.

    Raises:
        GraError: the run's roles follow no standing, and it has no gold questions.
    """
    yield from _by_gold(run)
    if run.config.method.policy is not Policy.performance:
        if run.plan.gold:
            return
        raise GraError(
            f"{run.path}: its roles follow no standing (method.policy={run.config.method.policy.value})",
            run.anew("method.policy=performance"),
        )
    found = standings(run)
    if not found:
        yield "no standing yet: the first round draws its roles at random, and its merge counts"
    for number, standing in found.items():
        generated = standing.generated()
        made, judged = (added(standing.counts[role].values()) for role in ("generator", "reviewer"))
        yield f"round {number}"
        yield f"  {'member':16}  {'survived':>14}  {'generates':>9}  {'agreed':>14}"
        for member in run.config.committee:
            share = f"{generated[member]:.0%}" if member in generated else "–"
            yield f"  {member:16}  {_rate(made.get(member)):>14}  {share:>9}  {_rate(judged.get(member)):>14}"
        if line := _worth(run, number, standing):
            yield line
        yield from warnings(standing)


def _worth(run: Run, number: int, standing: Standing) -> str:
    """The share of a round's candidates that was accepted, beside what it would have been with Generators drawn evenly:
    each candidate weighs as much more as its Generator was drawn less often than evenly (Hajek's estimate). Empty: no
    shard is published."""
    accepted, weights = [np.zeros(0, bool)], [np.zeros(0)]
    members = list(run.config.committee)
    even = 1 / len(members)
    for shard in (run.round(number).shard(s) for s in range(run.plan.shards)):
        if not is_published(shard):
            continue
        table = ShardManifest.load(shard).samples_table(shard)
        for batch in read_batches(table, ("status", "domain", "generator"), 1 << 16):
            shares = [
                standing.shares["generator"].get(domain, {}).get(writer, even)
                for domain, writer in zip(batch["domain"].to_pylist(), batch["generator"].to_pylist(), strict=True)
            ]
            weights.append(even / np.maximum(shares, 1e-9))
            accepted.append(pc.equal(batch["status"], ACCEPTED).to_numpy(zero_copy_only=False))
    good, weight = np.concatenate(accepted), np.concatenate(weights)
    if not len(good):
        return ""
    value = float((weight * good).sum() / weight.sum())
    error = float(np.sqrt((weight**2 * (good - value) ** 2).sum()) / weight.sum())
    low, high = max(0.0, value - _Z * error), min(1.0, value + _Z * error)
    return (
        f"  accepted {good.mean():.0%} of {len(good):,}; with Generators drawn evenly about {value:.0%}"
        f" ({low:.0%} to {high:.0%})"
    )


def _by_gold(run: Run) -> Iterator[str]:
    """How often each Reviewer was right about records whose verdict is known, in all shards so far."""
    questions = GoldQuestions.of(run, run.plan)
    if questions is None:
        return
    shards = (run.round(n).shard(s) for n in run.rounds if n for s in range(run.plan.shards))
    criteria = len(run.plan.rubric.response)
    answers = (answer for s in shards if is_published(s) for answer in ShardManifest.load(s, criteria).gold)
    found = Counted.of(questions, answers, run.config.method).members
    yield f"gold questions: {len(questions.questions)}, beside {run.config.method.gold_rate:g} of the candidates"
    if not found:
        yield "  no answer is published yet"
        return
    yield f"  {'member':16}  {'right':>24}  {'keeps good':>12}  {'rejects bad':>12}"
    for name, m in sorted(found.items()):
        value, low, high = gold.share(m.right, m.asked)
        right = f"{value:.0%} ({low:.0%} to {high:.0%}) of {m.asked}" if m.asked else "–"
        kept, rejected = _rate((m.kept, m.to_keep)), _rate((m.rejected, m.to_reject))
        yield f"  {name:16}  {right:>24}  {kept:>12}  {rejected:>12}"
    for name, m in sorted(found.items()):
        if m.at_chance:
            yield f"  {name} tells good from bad no better than chance: what it says of candidates means little"


def warnings(standing: Standing) -> Iterator[str]:
    """Members that generate so much that the data lose their variety."""
    for member, share in standing.concentrated():
        yield (
            f"  {member} is to generate {share:.0%}: data of one writer are less diverse (fixed roles were the paper's"
            " worst); raise method.explore"
        )


def _rate(count: tuple[float, float] | None) -> str:
    return f"{count[0] / count[1]:.0%} of {count[1]:.0f}" if count and count[1] else "–"
