from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloop.errors import DataError
from fedloop.imaging.camelyon import patient_of
from fedloop.imaging.dataset import Dataset
from fedloop.imaging.deal import deal
from fedloop.imaging.tiles import TileCase

NOWHERE = Path("none.png")


def dataset(cases, split=None) -> Dataset:
    """``cases``: id -> category; all of one center."""
    made = tuple(TileCase(name, "x", NOWHERE, category=cases[name]) for name in sorted(cases))
    return Dataset(Path(), {"x": made}, split or {}, "")


def ids(cases) -> list[str]:
    return [case.case_id for case in cases]


CASES = {f"c{i:02}": "" for i in range(10)}


def test_given_split_is_kept():
    split = dict.fromkeys(CASES, "train") | {"c03": "test", "c07": "val"}
    dealt = deal(dataset(CASES, split), seed=0, test_fraction=0.5)["x"]
    assert ids(dealt.test) == ["c03"]
    assert "c07" in ids(dealt.pool)
    assert dealt.notes == ()


@pytest.mark.parametrize(
    ("split", "said"),
    [
        (dict.fromkeys(CASES, "train"), "gives no test case"),
        (dict.fromkeys(CASES, "test"), "gives no train case"),
        ({"c01": "test"}, "for 1 of 10 cases"),
    ],
)
def test_useless_splits_fall_back_and_say_so(split, said):
    dealt = deal(dataset(CASES, split), seed=0, test_fraction=0.4)["x"]
    assert len(dealt.test) == 4
    assert len(dealt.notes) == 1
    assert said in dealt.notes[0]


def test_seeds_differ_and_repeat():
    dealt = {s: ids(deal(dataset(CASES), seed=s, test_fraction=0.4)["x"].test) for s in range(5)}
    assert len({tuple(test) for test in dealt.values()}) > 1
    assert dealt[3] == ids(deal(dataset(CASES), seed=3, test_fraction=0.4)["x"].test)


def test_categories_keep_their_share():
    cases = {f"n{i}": "negative" for i in range(10)} | {f"m{i}": "macro" for i in range(5)}
    for seed in range(5):
        test = deal(dataset(cases), seed=seed, test_fraction=0.4)["x"].test
        assert sum(case.category == "macro" for case in test) == 2
        assert len(test) == 6


@given(
    st.dictionaries(
        st.builds("patient_{:03}_node_{}".format, st.integers(0, 5), st.integers(0, 4)),
        st.sampled_from(["negative", "itc", "micro", "macro"]),
        min_size=2,
    ),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_patients_stay_whole_and_no_side_is_empty(cases, fraction, seed):
    data = dataset(cases)
    if len({patient_of(name) for name in cases}) < 2:
        with pytest.raises(DataError, match="one patient"):
            deal(data, seed=seed, test_fraction=fraction)
        return
    dealt = deal(data, seed=seed, test_fraction=fraction)["x"]
    assert dealt.pool
    assert dealt.test
    assert sorted(ids(dealt.pool) + ids(dealt.test)) == sorted(cases)
    assert not {patient_of(i) for i in ids(dealt.pool)} & {patient_of(i) for i in ids(dealt.test)}


def test_a_table_that_splits_a_patient():
    cases = {"patient_001_node_0": "", "patient_001_node_1": ""}
    split = {"patient_001_node_0": "train", "patient_001_node_1": "test"}
    with pytest.raises(DataError, match="patient_001 into both"):
        deal(dataset(cases, split), seed=0, test_fraction=0.5)


def test_one_case_names_the_remedy():
    with pytest.raises(DataError, match=r"center 'x' has 1 case.*min_cases_per_center"):
        deal(dataset({"a": ""}), seed=0, test_fraction=0.5)
