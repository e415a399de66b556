"""How far a sample could have come on which the committee stopped early."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.flows.gra.committee import highest_mean
from gra_hpc.flows.gra.synthesize import STOPPED
from gra_hpc.records import mean_of


def bounds(samples: pa.Table) -> pa.Array:
    """Of samples that were rejected before all Reviewers had scored them, how far their mean could have come; null for
    all others."""
    out: list[str | None] = [None] * len(samples)
    stopped = pc.equal(samples["reason"], STOPPED).to_numpy()
    for i in np.flatnonzero(stopped).tolist():
        given, seats = samples["reviews"][i].as_py(), len(samples["reviewers"][i])
        best = highest_mean([mean_of(r) for r in given], seats)
        out[i] = f"mean at most {best:.2f} after {len(given)} of {seats} Reviewers"
    return pa.array(out, pa.string())
