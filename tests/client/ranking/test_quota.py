import numpy as np
import pytest

from client.ranking.quota import CaseQuota, take_in_order


def test_counts_down_by_case() -> None:
    quota = CaseQuota(np.array([7, 7, 7, 9]), 2)
    assert quota.possible == 3
    quota.take(0)
    quota.take(2)
    assert quota.open().tolist() == [False, False, False, True]
    assert quota.possible == 1


def test_a_patch_cannot_be_taken_twice() -> None:
    quota = CaseQuota(np.array([0, 0]), 0)
    quota.take(1)
    with pytest.raises(ValueError, match="patch 1"):
        quota.take(1)


def test_an_order_with_repeats_still_gives_distinct_patches() -> None:
    assert take_in_order(np.array([2, 2, 0, 2]), np.array([0, 0, 0]), 3, 0) == [2, 0]
