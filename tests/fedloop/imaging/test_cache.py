from __future__ import annotations

import numpy as np

from fedloop.imaging.cache import KEPT_AT_LEAST, ArrayCache


def test_keeps_within_its_budget_what_was_used_last():
    cache = ArrayCache(budget_bytes=600)
    loads: list[int] = []

    def get(key: int) -> None:
        def load() -> np.ndarray:
            loads.append(key)
            return np.zeros(100, np.uint8)

        cache.get(key, load)

    for key in (0, 1, 2, 3, 4, 5, 0, 6, 0, 1):
        get(key)
    assert loads == [0, 1, 2, 3, 4, 5, 6, 1]


def test_arrays_larger_than_the_budget_stay_while_few():
    cache = ArrayCache(budget_bytes=1)
    for key in range(KEPT_AT_LEAST):
        cache.get(key, lambda: np.zeros(10, np.uint8))
    first = cache.get(0, lambda: np.ones(10, np.uint8))
    assert not first.any()
    assert not first.flags.writeable
