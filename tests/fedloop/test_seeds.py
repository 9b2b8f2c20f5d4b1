"""Seeds depend on what they are for, and on nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedloop import seeds

WORDS = st.text(st.characters(exclude_characters="|", exclude_categories=["Cs"]), max_size=6)
PLACES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 5),
        "site": WORDS,
        "cycle": st.integers(0, 12),
        "round": st.integers(0, 12),
        "member": st.integers(0, 12),
        "purpose": WORDS,
    }
)


def test_seeds_are_the_same_in_every_version() -> None:
    assert seeds.derive(0, purpose="train") == 6_668_961_765_736_804_899
    assert seeds.derive(7, site="RUMC", cycle=1, round=2, member=3, purpose="train") == (
        7_815_891_021_228_030_074
    )


@given(PLACES, PLACES)
def test_different_purposes_get_different_seeds(a: dict, b: dict) -> None:
    assert (seeds.derive(**a) == seeds.derive(**b)) == (a == b)
    assert 0 <= seeds.derive(**a) < 2**63


@given(PLACES)
def test_equal_places_draw_equal_numbers(place: dict) -> None:
    drawn = [seeds.generator(**place).integers(0, 1 << 30, 8) for _ in range(2)]
    assert np.array_equal(*drawn)
