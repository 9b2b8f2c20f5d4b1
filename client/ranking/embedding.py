"""Where patches lie in feature space: few principal components and one length scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from client.ranking.base import Pool
from client.ranking.checks import usable_values

FIT_PATCHES = 20_000
"""Principal axes are fitted on at most this many patches: their cost stays bounded."""

SCALE_PATCHES = 200
"""The length scale is the median over pairs of at most this many patches."""

SMALLEST_SPREAD = 1e-6
"""A feature that varies less than this, relative to its mean, is constant up to rounding."""


def embed(pool: Pool, components: int) -> NDArray[np.float32]:
    """Project standardised features on their first principal axes, ``(n, at most components)``.

    Constant features are left out; with none left the result has no columns.

    Raises:
        SelectionError: features are not ``(n, f)`` or not finite.
    """
    features = usable_values(pool, pool.features, "the features", columns=True)
    fit = features[_sample(pool, FIT_PATCHES)]
    mean, spread = fit.mean(axis=0), fit.std(axis=0)
    varies = spread > SMALLEST_SPREAD * np.abs(mean)
    count = min(components, int(varies.sum()))
    if count == 0:
        return np.zeros((len(pool), 0), dtype=np.float32)
    mean, spread = mean[varies], spread[varies]
    standard = (fit[:, varies] - mean) / spread
    size = len(spread)
    _, axes = eigh(standard.T @ standard / len(fit), subset_by_index=[size - count, size - 1])
    projected: NDArray[np.float64] = (features[:, varies] - mean) @ (axes / spread[:, None])
    return projected.astype(np.float32)


def squared_length(pool: Pool, points: NDArray[np.float32]) -> float:
    """A quarter of the median squared distance between patches; 0 where all lie at one point.

    Args:
        points: ``(n, c)`` from :func:`embed`.
    """
    some = points[_sample(pool, SCALE_PATCHES)].astype(np.float64)
    squared = np.square(some[:, None] - some[None]).sum(axis=-1)
    pairs = squared[np.triu_indices(len(some), k=1)]
    if pairs.size == 0:
        return 0.0
    # With more than half of the pairs identical the median says nothing; the mean still does.
    return float(np.median(pairs) or pairs.mean()) / 4


def _sample(pool: Pool, most: int) -> NDArray[np.int64]:
    """At most ``most`` indices, the same patches in whatever order the pool lists them."""
    order = np.lexsort((*pool.cell.T[::-1], pool.case))
    if len(order) > most:
        # A fixed shuffle, not a stride: strides alias with the rows of a grid.
        order = order[np.random.default_rng(0).permutation(len(order))[:most]]
    return order
