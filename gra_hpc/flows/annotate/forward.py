"""What a link of a chain forwards to the next one, where it keeps the part of its items that it is surest of."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from gra_hpc.config.settings import RunConfig
from gra_hpc.flows.annotate.settings import AnnotateConfig, Keep
from gra_hpc.flows.registry import Forward, Forwarded, Samples
from gra_hpc.flows.units import settings_of
from gra_hpc.records import ACCEPTED

if TYPE_CHECKING:
    import pyarrow as pa


def forwards(config: RunConfig) -> Forward | None:
    """How a round forwards, with `annotate.keep=quantile`."""
    own: AnnotateConfig = settings_of(config)
    return partial(_forwarded, len(own.chain)) if own.keep is Keep.quantile else None


def _forwarded(links: int, round_: int, samples: Samples) -> Forwarded:
    """What a link is less sure of than of the last of its share: those that it does not keep.

    A margin of 0 is never kept: the member is not sure at all, or its server tells no probabilities.

    Args:
        links: of the chain.
        round_: from 1: a link each.
    """
    import numpy as np

    from gra_hpc.labels.chain import share_kept, threshold

    answered = [np.empty(0), *(_margins(b)[1] for b in samples(["id", "status", "annotations"]))]
    margins = np.concatenate(answered)
    wanted = share_kept(len(margins), round_ - 1, links)
    bound = threshold(margins, wanted)
    kept = int(((margins >= bound) & (margins > 0)).sum())

    def ids() -> Iterator[str]:
        for batch in samples(["id", "status", "annotations"]):
            found, sure = _margins(batch)
            yield from found.filter((sure < bound) | (sure <= 0)).to_pylist()

    by = {"seen": len(margins), "share": wanted, "kept": kept, "margin": bound if np.isfinite(bound) else None}
    return Forwarded(ids(), by)


def _margins(batch: pa.RecordBatch) -> tuple[Any, Any]:
    """Ids of the items of a batch that were labelled, and how sure of each their only annotator is: float64 [n]."""
    import pyarrow.compute as pc

    labelled = batch.filter(pc.equal(batch["status"], ACCEPTED))
    margin = pc.struct_field(pc.list_flatten(labelled["annotations"]), "margin")
    return labelled["id"], pc.fill_null(margin, 0.0).to_numpy(zero_copy_only=False)
