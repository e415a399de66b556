"""`gra status --roles`: what the rounds so far have shown of each member, by the merges and by gold questions, and how
often it is to get a role."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gra_hpc.config.settings import Policy
from gra_hpc.errors import GraError
from gra_hpc.flows.registry import Samples, flow_of
from gra_hpc.labels.marks import share
from gra_hpc.parquet import read_batches
from gra_hpc.run.gold import Counted, GoldQuestions
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import ShardManifest

if TYPE_CHECKING:
    import pyarrow as pa


def standings(run: Run) -> dict[int, dict[str, Any]]:
    """What the draws of rounds were given, by round."""
    found = {}
    for number in run.rounds:
        if number > 1 and run.round(number - 1).manifest.is_file():
            plan = RoundPlan.load(run.round(number))
            if plan.standing:
                found[number] = plan.standing
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
    view = flow_of(run.config).views.standing
    for number, standing in found.items():
        yield f"round {number}"
        yield from view(run.config, standing, _samples(run, number)) if view else ()


def _samples(run: Run, number: int) -> Samples:
    """The samples of a round that are published."""

    def samples(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for shard in (run.round(number).shard(s) for s in range(run.plan.shards)):
            if is_published(shard):
                yield from read_batches(ShardManifest.load(shard).samples_table(shard), columns, 1 << 16)

    return samples


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
        value, low, high = share(m.right, m.asked)
        right = f"{value:.0%} ({low:.0%} to {high:.0%}) of {m.asked}" if m.asked else "–"
        kept, rejected = _rate(m.kept, m.to_keep), _rate(m.rejected, m.to_reject)
        yield f"  {name:16}  {right:>24}  {kept:>12}  {rejected:>12}"
    for name, m in sorted(found.items()):
        if m.at_chance:
            yield f"  {name} tells good from bad no better than chance: what it says of candidates means little"


def _rate(right: int, of: int) -> str:
    return f"{right / of:.0%} of {of}" if of else "–"
