"""At most so many patches of one case, and each patch once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class CaseQuota:
    """Keeps count of what was taken. ``limit`` 0 means no limit per case.

    Args:
        case: ``(n,)`` case of each patch.
        limit: most patches of one case.
    """

    def __init__(self, case: NDArray[np.int64], limit: int) -> None:
        _, self._case = np.unique(case, return_inverse=True)
        sizes = np.bincount(self._case)
        self._left = np.minimum(sizes, limit) if limit else sizes
        self._taken = np.zeros(len(case), dtype=bool)

    @property
    def possible(self) -> int:
        """How many more patches can be taken."""
        return int(self._left.sum())

    def allows(self, index: int) -> bool:
        return not self._taken[index] and bool(self._left[self._case[index]] > 0)

    def open(self) -> NDArray[np.bool_]:
        """``(n,)`` True where a patch can still be taken."""
        return ~self._taken & (self._left[self._case] > 0)

    def take(self, index: int) -> None:
        """Raises: ValueError: that patch cannot be taken (any more)."""
        if not self.allows(index):
            raise ValueError(f"patch {index} is already taken, or its case is full")
        self._taken[index] = True
        self._left[self._case[index]] -= 1


def take_in_order(
    order: NDArray[np.int64], case: NDArray[np.int64], budget: int, limit: int
) -> list[int]:
    """Walk ``order`` and keep the first ``budget`` patches that the quota allows."""
    quota = CaseQuota(case, limit)
    wanted = min(budget, quota.possible)
    chosen: list[int] = []
    for index in order.tolist():
        if len(chosen) == wanted:
            break
        if quota.allows(index):
            quota.take(index)
            chosen.append(index)
    return chosen
