"""What every query strategy demands of a pool before it ranks anything."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.ranking.base import Pool, ScoreName
from fedloop.errors import SelectionError


def require_patches(pool: Pool, budget: int) -> None:
    """Raises: SelectionError: nothing to choose from, or a negative budget."""
    if len(pool) == 0:
        raise SelectionError("the pool is empty: this site has no unlabelled patch to choose from")
    if budget < 0:
        raise SelectionError(f"the budget must be 0 patches or more, found {budget}")


def usable_score(pool: Pool, name: ScoreName) -> NDArray[np.float64]:
    """Return the named score, ``(n,)`` and finite.

    Raises:
        SelectionError: the score is absent, of another length, or holds NaN or infinity.
    """
    return usable_values(pool, pool.score(name), f"score {name!r}")


def usable_values(
    pool: Pool, values: NDArray[np.float32], what: str, *, columns: bool = False
) -> NDArray[np.float64]:
    """Return ``values`` as float64, ``(n,)`` or with ``columns`` ``(n, f)``, all finite.

    Raises:
        SelectionError: naming ``what`` is wrong.
    """
    if values.ndim != 1 + columns or len(values) != len(pool):
        raise SelectionError(
            f"{what} has shape {values.shape} for a pool of {len(pool)} patches; "
            "one entry per patch is needed"
        )
    if bad := int(np.count_nonzero(~np.isfinite(values))):
        # Sorting would put NaN first or last silently; neither is an answer.
        raise SelectionError(f"{bad} values of {what} are not finite numbers")
    return values.astype(np.float64)
