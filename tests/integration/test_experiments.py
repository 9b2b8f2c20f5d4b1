"""``fedloop simulate`` from the shipped configurations to a report, in miniature."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest

from fedloop.cli import app
from fedloop.models.store import load_ensemble

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "experiments"
SMALL = (
    "igniter.steps=6",
    "bound_steps=4",
    "federation.rounds=2",
    "federation.steps_per_round=2",
    "budgets=[2]",
    "model.members=2",
    "workers=2",
)
SMALL_WORLD = (
    "data.synthetic.side_px=256",
    "data.synthetic.igniter_slides=[negative, macro]",
    "data.synthetic.pool_slides=[micro, macro]",
    "data.synthetic.test_slides=[negative, macro]",
)


def run(
    config: str, out: Path, *settings: str, options: tuple[str, ...] = ()
) -> dict[str, dict[str, float]]:
    """Run an experiment; returns arm -> metric -> last value seen of any center."""
    arguments = ["simulate", str(CONFIGS / config), "--out", str(out), "--quiet", *options]
    for setting in (*SMALL, *settings):
        arguments += ["--set", setting]
    app.main(arguments, standalone_mode=False)
    found: dict[str, dict[str, float]] = defaultdict(dict)
    with (out / "metrics.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["value"]:
                found[row["arm"]][row["metric"]] = float(row["value"])
    return found


@pytest.mark.e2e
def test_synthetic_camelyon_with_all_bounds(tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = run("uga_synthetic.yaml", out, *SMALL_WORLD, options=("--seeds", "0,1"))
    arms = {"random", "fg_random", "uga", "default"}
    assert set(found) == {"baseline", *arms, "site_alone", "pooled", "oracle"}
    assert all(0 <= metrics["dice_global"] <= 1 for metrics in found.values())
    assert all(found[arm]["patches"] == 2 and found[arm]["minutes"] > 0 for arm in arms)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "2 seeds" in page
    assert "Reduced form" not in page
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["igniter_site"] == "RUMC"
    assert record["finished"]
    models = sorted((out / "models" / "seed_1").iterdir())
    networks, card = load_ensemble(models[0])
    assert len(networks) == 2
    assert card.classes == ("normal", "tumor")


@pytest.mark.e2e
def test_demo_is_the_synthetic_experiment_in_a_reduced_form(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    arguments = ["demo", "--out", str(out), "--quiet"]
    for setting in (*SMALL, *SMALL_WORLD):
        arguments += ["--set", setting]
    app.main(arguments, standalone_mode=False)
    assert "Reduced form" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.e2e
@pytest.mark.realdata
@pytest.mark.parametrize(
    ("config", "folder", "centers"),
    [
        ("uga_fundus.yaml", "fundus", {"chasedb1", "drive", "stare"}),
        ("uga_monuseg.yaml", "monuseg", {"B0", "G9", "HE", "other"}),
        ("hippocampus.yaml", "hippocampus", {f"site_{n}" for n in range(1, 5)}),
    ],
)
def test_real_images(
    tmp_path: Path, real_data: Path, config: str, folder: str, centers: set[str]
) -> None:
    out = tmp_path / "run"
    arms = "arms=[{name: random, strategy: random}, {name: default, strategy: anchors_doubt}]"
    settings = (f"data.root={real_data / folder}", "seeds=[0]", "bounds=[]", arms)
    found = run(config, out, *settings, "data.max_cases_per_center=6")
    assert set(found) == {"baseline", "random", "default"}
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert set(record["centers"]) == centers
    assert (out / "report.html").stat().st_size > 100_000


@pytest.mark.e2e
@pytest.mark.parametrize("strategy", ["fedbn", "fedadam"])
def test_strategies_cycles_and_own_copies(tmp_path: Path, strategy: str) -> None:
    found = run(
        "uga_synthetic.yaml",
        tmp_path / "run",
        *SMALL_WORLD,
        "seeds=[0]",
        "bounds=[]",
        "federation.cycles=2",
        "federation.personal=true",
        "federation.evaluate_every=1",
        "arms=[{name: default, strategy: anchors_doubt}]",
        f"federation.strategy.name={strategy}",
    )
    assert found["default"]["patches"] == 2
    assert 0 <= found["default"]["dice_personal"] <= 1
