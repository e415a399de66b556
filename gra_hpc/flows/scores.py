"""What the reviews in a table come to, by whatever criteria they have."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.records import criteria_of


def means(reviews: pa.Array) -> np.ndarray:
    """Mean of the scores of each review; NaN for none."""
    names = criteria_of(reviews.type)
    parts = [pc.fill_null(pc.struct_field(reviews, c), 0).to_numpy(zero_copy_only=False) for c in names]
    there = reviews.is_valid().to_numpy(zero_copy_only=False)
    return np.where(there, np.sum(parts, axis=0, dtype=float) / len(parts), np.nan)
