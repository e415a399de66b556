"""What the rounds so far have shown of each member, and how often it is to get a role in the next one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc

from gra_hpc.config.settings import RunConfig
from gra_hpc.flows.gra.standing import Standing, added
from gra_hpc.flows.registry import Samples
from gra_hpc.records import ACCEPTED

_Z = 1.959964
"""Of a 95% interval."""


def lines(config: RunConfig, given: Mapping[str, Any], samples: Samples) -> Iterator[str]:
    """A table of a round's standing.

    Args:
        given: the standing, as a plan has it.
        samples: the round's own, so far.
    """
    standing = Standing.from_dict(given)
    generated = standing.generated()
    made, judged = (added(standing.counts[role].values()) for role in ("generator", "reviewer"))
    yield f"  {'member':16}  {'survived':>14}  {'generates':>9}  {'agreed':>14}"
    for member in config.committee:
        share = f"{generated[member]:.0%}" if member in generated else "–"
        yield f"  {member:16}  {_rate(made.get(member)):>14}  {share:>9}  {_rate(judged.get(member)):>14}"
    if line := _worth(config, standing, samples):
        yield line
    yield from warnings(standing)


def _worth(config: RunConfig, standing: Standing, samples: Samples) -> str:
    """The share of a round's candidates that was accepted, beside what it would have been with Generators drawn evenly:
    each candidate weighs as much more as its Generator was drawn less often than evenly (Hajek's estimate). Empty: no
    shard is published."""
    accepted, weights = [np.zeros(0, bool)], [np.zeros(0)]
    even = 1 / len(config.committee)
    for batch in samples(("status", "domain", "generator")):
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


def warnings(standing: Standing) -> Iterator[str]:
    """Members that generate so much that the data lose their variety."""
    for member, share in standing.concentrated():
        yield (
            f"  {member} is to generate {share:.0%}: data of one writer are less diverse (fixed roles were the paper's"
            " worst); raise method.explore"
        )


def _rate(count: tuple[float, float] | None) -> str:
    return f"{count[0] / count[1]:.0%} of {count[1]:.0f}" if count and count[1] else "–"
