"""The report as a whole: what it says, what lies beside it, and how it merges runs."""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fedloop.errors import RunFolderError
from simulation.report import build_report
from simulation.report.figures_style import ArmStyle, arm_styles, spread
from simulation.report.pictures import overlay
from tests.simulation.report.test_report_fake import STRATEGIES, Fake, write_run

VOID = {"meta", "br", "link", "input", "img"}


class Outline(HTMLParser):
    """Checks nesting, and collects headings, ids, addresses and labels."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.labels: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if found.get("role") == "img":
            self.labels.append(found.get("aria-label") or "")
        if tag == "th":
            assert found.get("scope") in ("row", "col")
        self.addresses += [str(v) for k, v in attrs if k in ("href", "src", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_page(path: Path) -> tuple[str, Outline]:
    text = path.read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(text)
    return text, outline


SHAPES = {
    "one seed, one center": Fake(),
    "five by five": Fake(
        seeds=range(5),
        centers=[f"center_{i}" for i in range(5)],
        bounds=("site_alone", "pooled", "oracle"),
        pictures=False,
    ),
    "classes, foreign names": Fake(
        seeds=(0, 1),
        centers=("Lübeck <script>alert(1)</script>", "北京", "costs $5$ & more, and is very long"),
        classes=("background", "liver", "left kidney", "spleen"),
        categories=(),
    ),
    "bare": Fake(skip=("rounds.csv", "patches.csv", "selections.csv"), pictures=False),
    "many": Fake(
        seeds=(0, 1),
        centers=[f"hospital_{i}" for i in range(8)],
        arms=tuple(STRATEGIES),
        budgets=(2, 5, 40),
        patches=20,
        cases=4,
        pictures=False,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_page_is_whole_and_its_figures_lie_beside_it(tmp_path: Path, shape: str) -> None:
    run = write_run(tmp_path / "run", SHAPES[shape])
    text, outline = read_page(build_report([run], tmp_path / "out"))
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)
    steps = zip(outline.headings, outline.headings[1:], strict=False)
    assert all(after - before <= 1 for before, after in steps)
    assert outline.headings.count(1) == 1
    assert all(len(label) > 30 for label in outline.labels)
    for address in outline.addresses:
        assert address.startswith(("#", "data:image/png", "figures/")), address
        if address.startswith("figures/"):
            assert (tmp_path / "out" / address).stat().st_size > 0
    names = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert len(names) == len(outline.labels)
    assert "<script>alert" not in text
    assert not re.search(r"\bnan\b", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
    assert not (tmp_path / "out" / "metrics.csv").exists()


def test_one_seed_claims_no_ranking(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Fake(changes={"reduced": True}))
    text, _ = read_page(build_report([run], tmp_path / "out"))
    assert "no claim about the ranking of the methods can be made" in text
    assert "Reduced form." in text
    assert "Better than" not in text
    assert "one seed: no interval" in text


def test_a_method_that_does_not_beat_random_is_said_not_to(tmp_path: Path) -> None:
    flat = dict.fromkeys(STRATEGIES, 0.0)
    run = write_run(tmp_path / "run", Fake(seeds=range(4), gains=flat, pictures=False))
    text, _ = read_page(build_report([run], tmp_path / "out"))
    assert "No method is shown to beat random." in text
    assert "No method is shown to beat predicted-foreground random (fg_random)." in text
    assert "With 4 seeds only large differences can be shown." in text
    assert "Reduced form." not in text


def test_a_large_gain_is_found(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", Fake(seeds=range(8), gains={**STRATEGIES, "uga": -0.2}, pictures=False)
    )
    text, _ = read_page(build_report([run], tmp_path / "out"))
    assert re.search(r"Better than random: .*default \(\+0\.\d+ ± 0\.\d+ at 5", text)
    assert re.search(r"Worse: uga \(−0\.\d+", text)
    assert "only large differences" not in text


def test_unfinished_run_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "half", Fake(record={"finished": False}))
    text, _ = read_page(build_report([run], tmp_path / "out"))
    assert "half had not ended" in text


def test_a_run_with_the_baseline_alone_has_a_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Fake(pictures=False, skip=("rounds.csv", "selections.csv")))
    path = run / "metrics.csv"
    kept = [line for line in path.read_text().splitlines() if line.startswith(("arm", "baseline"))]
    path.write_text("\n".join(kept) + "\n")
    text, _ = read_page(build_report([run], tmp_path / "out"))
    assert "none yet" in text


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Fake(arms=("random", "uga")))
    pages = [build_report([run], tmp_path / name) for name in ("a", "b")]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    for path in (tmp_path / "a" / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "figures" / path.name).read_bytes()


def test_arms_and_seeds_of_several_runs_are_merged(tmp_path: Path) -> None:
    arms = [("random", "foreground_random"), ("uga", "anchors_doubt")]
    runs = [
        write_run(tmp_path / f"run{i}", Fake(arms=a, pictures=False)) for i, a in enumerate(arms)
    ]
    runs.append(write_run(tmp_path / "seed1", Fake(arms=arms[0] + arms[1], seeds=(1,))))
    text, outline = read_page(build_report(runs, tmp_path / "out"))
    assert "4 ways" in text
    assert "2 seeds" in text
    assert "Section 1" not in text
    assert outline.headings.count(1) == 1
    with (tmp_path / "out" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["run"] for row in rows} == {"run0", "run1", "seed1"}


def test_runs_with_other_settings_have_sections(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / f"steps{steps}", Fake(changes={"bound_steps": steps}, pictures=False))
        for steps in (100, 200)
    ]
    text, outline = read_page(build_report(runs, tmp_path / "out"))
    assert "Section 2: steps200" in text
    assert re.search(r"bound_steps</code></th><td[^>]*>100</td><td[^>]*>200<", text)
    assert len(set(outline.ids)) == len(outline.ids)


def test_same_arm_and_seed_twice_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", Fake(pictures=False))
    shutil.copytree(run, tmp_path / "two")
    with pytest.raises(RunFolderError, match=r"two: arm 'default', seed 0 is also in .*one"):
        build_report([run, tmp_path / "two"], tmp_path / "out")


def test_the_report_of_several_runs_never_overwrites_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", Fake(pictures=False))
    with pytest.raises(RunFolderError, match="write the report elsewhere"):
        build_report([run, write_run(tmp_path / "two", Fake(seeds=(1,)))], run)


def test_bounds_of_an_igniter_that_differs_are_noted(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / arm, Fake(arms=(arm,))) for arm in ("random", "uga")]
    path = runs[1] / "metrics.csv"
    path.write_text(re.sub(r"(baseline,.*dice_global,).*", r"\g<1>0.9", path.read_text()))
    text, _ = read_page(build_report(runs, tmp_path / "out"))
    assert "baseline of seed 0 differs between random and uga" in text


def test_a_large_report_is_built_in_time(tmp_path: Path) -> None:
    fake = Fake(
        seeds=range(5),
        centers=[f"center_{i}" for i in range(5)],
        arms=tuple(STRATEGIES)[:8],
        patches=300,
        pictures=False,
    )
    run = write_run(tmp_path / "run", fake)
    start = time.process_time()
    build_report([run], tmp_path / "out")
    assert time.process_time() - start < 40


def test_labels_keep_their_distance_and_their_order() -> None:
    wanted = [0.5, 0.51, 0.1, 0.505, 0.99]
    placed = spread(wanted, 0.1, 0.0, 1.0)
    assert np.all(np.diff(np.sort(placed)) >= 0.1 - 1e-9)
    assert np.argsort(placed).tolist() == np.argsort(wanted).tolist()
    assert spread([0.5] * 50, 0.1, 0.0, 1.0)[0] == pytest.approx(0.0)
    assert spread([], 0.1, 0.0, 1.0) == []


def test_each_arm_has_a_look_of_its_own() -> None:
    styles = arm_styles((name, name) for name in STRATEGIES)
    arms: list[ArmStyle] = [styles[name] for name in STRATEGIES]
    assert len({(style.colour, style.marker) for style in arms}) == len(arms)


def test_overlay_leaves_tissue_outside_the_mask_untouched() -> None:
    image = np.full((20, 20, 3), 200, np.uint8)
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15] = 1
    drawn = overlay(image, mask)
    assert np.array_equal(drawn[mask == 0], image[mask == 0])
    assert not np.array_equal(drawn[10, 10], drawn[5, 5])


def test_pictures_must_lie_beside_their_list(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Fake())
    path = run / "pictures" / "pictures.json"
    listed = json.loads(path.read_text())
    listed[0]["file"] = "../../secret.npz"
    path.write_text(json.dumps(listed))
    with pytest.raises(RunFolderError, match="does not lie beside the list"):
        build_report([run], tmp_path / "out")
