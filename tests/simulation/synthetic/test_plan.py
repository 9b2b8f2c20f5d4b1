"""Who owns which slide: numbering, splits, phenotypes, and settings that cannot be met."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from fedloop.errors import SettingsError
from fedloop.settings import SyntheticCamelyonSettings
from simulation.synthetic.plan import slide_plan

BLOCKS = {"CWZ": 0, "RST": 1, "UMCU": 2, "RUMC": 3, "LPON": 4}
DEFAULT = SyntheticCamelyonSettings()


def test_default_plan_has_the_study_design() -> None:
    plans = slide_plan(DEFAULT, seed=3)
    counts = Counter((plan.center, plan.split) for plan in plans)
    assert counts == {
        (center, split): 8 if split == "test" else (10 if center == "RUMC" else 6)
        for center in BLOCKS
        for split in ("train", "test")
    }
    pool = [p.category for p in plans if (p.center, p.split) == ("CWZ", "train")]
    assert pool == list(DEFAULT.pool_slides)


def test_patients_stay_in_their_block_and_split() -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    nodes: Counter[str] = Counter()
    for plan in slide_plan(DEFAULT, seed=3):
        _, number, _, node = plan.case_id.split("_")
        assert int(number) // 20 == BLOCKS[plan.center]
        assert 0 <= int(node) < 5
        splits[number].add(plan.split)
        nodes[number] += 1
    assert all(len(split) == 1 for split in splits.values())
    assert max(nodes.values()) == 5


def test_seeds_and_names_are_unique_and_stable() -> None:
    plans = slide_plan(DEFAULT, seed=3)
    assert plans == slide_plan(DEFAULT, seed=3)
    assert len({plan.seed for plan in plans}) == len({plan.case_id for plan in plans}) == 74
    assert not {plan.seed for plan in plans} & {plan.seed for plan in slide_plan(DEFAULT, seed=4)}


def test_phenotype_b_is_rare_at_home_and_common_elsewhere() -> None:
    dealt: Counter[tuple[str, str]] = Counter()
    for seed in range(40):
        for plan in slide_plan(DEFAULT, seed):
            assert not (plan.phenotype_b and plan.category == "negative")
            dealt[plan.center, plan.split] += plan.phenotype_b
    assert dealt["RUMC", "train"] == 40
    assert dealt["RUMC", "test"] == 0
    assert dealt["LPON", "train"] == pytest.approx(0.5 * 4 * 40, rel=0.15)
    assert dealt["RST", "test"] == pytest.approx(0.35 * 6 * 40, rel=0.15)


def test_one_tissue_mix_for_all_deals_phenotypes_alike() -> None:
    plans = slide_plan(SyntheticCamelyonSettings(tissue_shift=0), seed=3)
    dealt = Counter((p.center, p.split) for p in plans if p.phenotype_b)
    assert dealt == {(center, "train"): 1 for center in BLOCKS}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"side_px": 1000}, "multiple of 64"),
        ({"side_px": 128}, "from 256 to 4096"),
        ({"side_px": 8192}, "from 256 to 4096"),
        ({"pool_slides": ("benign",)}, "'benign'"),
        ({"pool_slides": ("itc",) * 96}, "22 patients"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object], words: str) -> None:
    settings = DEFAULT.model_copy(update=values)
    with pytest.raises(SettingsError, match=words):
        slide_plan(settings, seed=0)
