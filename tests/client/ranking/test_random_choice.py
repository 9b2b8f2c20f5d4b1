import numpy as np

from client.ranking.base import Pool
from client.ranking.registry import build_strategy


def test_every_patch_is_drawn_equally_often() -> None:
    empty = np.zeros((12, 0), dtype=np.float32)
    pool = Pool(np.zeros(12, dtype=np.int64), np.arange(24).reshape(12, 2), {}, empty)
    rng, counts = np.random.default_rng(0), np.zeros(12)
    for _ in range(3000):
        counts[[choice.index for choice in build_strategy("random").rank(pool, 4, rng)]] += 1
    # 1 000 expected; five binomial standard deviations.
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(3000 * (1 / 3) * (2 / 3))
