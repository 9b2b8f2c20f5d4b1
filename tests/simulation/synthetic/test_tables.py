"""pN stages by the published rule, and the two tables."""

from __future__ import annotations

import csv
import io

import pytest

from fedloop.settings import SyntheticCamelyonSettings
from simulation.synthetic.plan import slide_plan
from simulation.synthetic.tables import centers_table, pn_stage, readme, stage_labels

SETTINGS = SyntheticCamelyonSettings()


@pytest.mark.parametrize(
    ("categories", "stage"),
    [
        (["negative"] * 5, "pN0"),
        (["negative", "itc", "itc"], "pN0(i+)"),
        (["micro", "itc"], "pN1mi"),
        (["micro"] * 5, "pN1mi"),
        (["macro"], "pN1"),
        (["macro", "micro", "micro", "itc", "itc"], "pN1"),
        (["macro", "micro", "micro", "micro", "negative"], "pN2"),
        (["macro"] * 5, "pN2"),
    ],
)
def test_stage_follows_the_nodes(categories: list[str], stage: str) -> None:
    assert pn_stage(categories) == stage


def test_stage_labels_list_each_patient_before_its_nodes() -> None:
    plans = slide_plan(SETTINGS, seed=1)
    rows = list(csv.reader(io.StringIO(stage_labels(plans))))
    assert rows[0] == ["patient", "stage"]
    assert rows[1] == ["patient_000.zip", "pN1mi"]
    assert rows[2] == ["patient_000_node_0.tif", "negative"]
    assert rows[7:9] == [["patient_001.zip", "pN1"], ["patient_001_node_0.tif", "macro"]]
    assert [name for name, _ in rows[1:]] == sorted(
        (name for name, _ in rows[1:]), key=lambda name: (name[:11], "node" in name, name)
    )
    assert len(rows) == 1 + len(plans) + len({plan.case_id[:11] for plan in plans})


def test_centers_table_has_a_row_per_case() -> None:
    plans = slide_plan(SETTINGS, seed=1)
    rows = list(csv.DictReader(io.StringIO(centers_table(plans))))
    assert list(rows[0]) == ["case", "center", "split", "category"]
    assert [row["case"] for row in rows] == [plan.case_id for plan in plans]
    assert {row["split"] for row in rows} == {"train", "test"}


def test_readme_says_that_nothing_is_real() -> None:
    text = readme(SETTINGS, 17)
    assert "computer-made" in text
    assert "seed 17" in text
    assert "`shift`: 0.8" in text
