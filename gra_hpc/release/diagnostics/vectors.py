"""Measures on embeddings: spread, Vendi score, nearest seeds, coverage, and pictures in two dimensions."""

from __future__ import annotations

import numpy as np

from gra_hpc.errors import GraError

BLOCK = 1024
NEIGHBOURS = 5
"""Neighbours whose distance makes a seed's neighbourhood, as Naeem et al. (2020) use."""


class MissingExtraError(GraError):
    """A library of an extra that is not installed."""


def spread(vectors: np.ndarray) -> float | None:
    """Mean cosine distance over all pairs of unit vectors [n, d]; none for fewer than two."""
    n = len(vectors)
    if n < 2:
        return None
    total = vectors.astype("f8").sum(axis=0)
    own = (vectors.astype("f8") ** 2).sum()
    return float(1 - (total @ total - own) / (n * (n - 1)))


def vendi(vectors: np.ndarray) -> float | None:
    """Vendi score (Friedman and Dieng 2023) with the cosine kernel: the effective number of different rows.

    The exponential of the entropy of the eigenvalues of K / n, here of the covariance, which has the same ones. It is
    at most the smaller of n and d, and grows with n: compare only figures of one sample size.
    """
    n = len(vectors)
    if not n:
        return None
    x = vectors.astype("f8")
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    values = np.linalg.eigvalsh(x.T @ x / n if x.shape[1] <= n else x @ x.T / n)
    p = values[values > 1e-12]
    p /= p.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def nearest(rows: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the place of the nearest seed, and the cosine with it."""
    where, cosine = np.zeros(len(rows), np.int64), np.full(len(rows), -1.0, np.float32)
    right = seeds.astype(np.float32).T
    for s in range(0, len(rows), BLOCK):
        products = rows[s : s + BLOCK].astype(np.float32) @ right
        where[s : s + BLOCK] = products.argmax(axis=1)
        cosine[s : s + BLOCK] = products.max(axis=1)
    return where, cosine


def coverage(rows: np.ndarray, seeds: np.ndarray) -> float | None:
    """Share of seeds with a row as near as their fifth nearest fellow seed (coverage of Naeem et al. 2020).

    Args:
        rows, seeds: unit vectors; of about the same number, or the larger set covers by its size alone.
    """
    if len(seeds) <= NEIGHBOURS or not len(rows):
        return None
    covered = 0
    s32, r32 = seeds.astype(np.float32), rows.astype(np.float32)
    for s in range(0, len(seeds), BLOCK):
        among = s32[s : s + BLOCK] @ s32.T
        among[np.arange(len(among)), np.arange(s, s + len(among))] = -2  # not itself
        radius = np.partition(among, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS]
        covered += int(((s32[s : s + BLOCK] @ r32.T).max(axis=1) >= radius).sum())
    return covered / len(seeds)


def pca(vectors: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """The first two principal components [n, 2], and their shares of the variance. Signs are fixed."""
    x = vectors.astype("f8") - vectors.astype("f8").mean(axis=0)
    _, values, axes = np.linalg.svd(x, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2][np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    total = float((values**2).sum()) or 1.0
    return x @ axes.T, [float(v**2 / total) for v in values[:2]]


def tsne(vectors: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE in two dimensions [n, 2], as the paper draws it: started from the PCA, on one thread, so repeatable.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError as e:
        raise MissingExtraError(f"{e.name or 'scikit-learn'} is not installed", "pip install 'gra-hpc[cpu]'") from None
    x = vectors.astype("f4")
    with threadpool_limits(1):
        if min(x.shape) > 50:  # as its authors advise: noise out, time saved
            centred = x - x.mean(axis=0)
            x = centred @ np.linalg.svd(centred.astype("f8"), full_matrices=False)[2][:50].T.astype("f4")
        perplexity = min(30.0, max(2.0, (len(x) - 1) / 3))
        made = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed, n_jobs=1)
        return np.asarray(made.fit_transform(x))
