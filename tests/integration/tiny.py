"""A data set, sites and a campaign so small that a whole campaign takes about a second.

Real files all the way: PNG tiles in center folders, ``site.yaml`` per site, ``campaign.yaml``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from client.annotation.store import CorrectionStore
from client.site import SITE_FILE, AnnotatorSettings, SiteSettings
from fedloop import configuration
from fedloop.settings import (
    CampaignSettings,
    DataSettings,
    FederationSettings,
    IgniterSettings,
    ImagingSettings,
    ModelSettings,
    ModelSpec,
    SelectionSettings,
    StrategySettings,
    TrainingSettings,
)
from server.app import CAMPAIGN_FILE

CAMPAIGN = "tiny"
CENTRAL = "central"
ANNOTATING = ("north", "south")
SITES = (CENTRAL, *ANNOTATING)
TILE_PX = 96
PATCH_PX = 32
PATCHES = 2

IMAGING = ImagingSettings(patch_size=(PATCH_PX, PATCH_PX), window_cells=3, halo=8)
MODEL = ModelSettings(
    network="UNet",
    parameters={"channels": [4, 8], "strides": [2], "norm": "batch", "bias": False},
    members=2,
)


@dataclass(frozen=True)
class Tiny:
    """A campaign's folder and the folders of its sites."""

    folder: Path
    sites: Mapping[str, Path]

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def store(self, site: str) -> CorrectionStore:
        return CorrectionStore(self.sites[site] / "annotation")


def write_data(root: Path) -> Path:
    """``ROOT/<center>/{images,labels}`` and ``centers.csv``: pale tiles with one dark blob each."""
    rng = np.random.default_rng(0)
    rows = []
    for center in SITES:
        for number in range(3):
            case = f"{center}_{number}"
            image, mask = _tile(rng, tint=SITES.index(center) * 12)
            _write(root / center / "images" / f"{case}.png", image)
            _write(root / center / "labels" / f"{case}.png", mask)
            rows.append({"case": case, "center": center})
    with (root / "centers.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["case", "center"])
        writer.writeheader()
        writer.writerows(rows)
    return root


def make(
    folder: Path, data: Path, *, strategy: str = "fedavg", cycles: int = 1, quorum: float = 1.0
) -> Tiny:
    """A campaign folder and fresh site folders under ``folder``."""
    sites = {name: folder / "sites" / name for name in SITES}
    for name, site in sites.items():
        site.mkdir(parents=True)
        configuration.save(site_settings(name, data), site / SITE_FILE)
    campaign = folder / "campaign"
    campaign.mkdir()
    settings = campaign_settings(strategy=strategy, cycles=cycles, quorum=quorum)
    configuration.save(settings, campaign / CAMPAIGN_FILE)
    return Tiny(campaign, sites)


def open_existing(folder: Path) -> Tiny:
    """What :func:`make` wrote there before."""
    return Tiny(folder / "campaign", {name: folder / "sites" / name for name in SITES})


def site_settings(name: str, data: Path) -> SiteSettings:
    """The central site owns labels; the others have a pool, a test case and a simulated reader."""
    cases = tuple(f"{name}_{number}" for number in range(3))
    central = name == CENTRAL
    return SiteSettings(
        name=name,
        data=DataSettings(root=data),
        labelled=cases if central else (),
        pool=() if central else cases[:2],
        test=() if central else cases[2:],
        annotator=None if central else AnnotatorSettings(name="simulated"),
        study=True,
        device="cpu",
        threads=1,
    )


def campaign_settings(
    *, strategy: str = "fedavg", cycles: int = 1, quorum: float = 1.0
) -> CampaignSettings:
    return CampaignSettings(
        campaign=CAMPAIGN,
        seed=7,
        spec=ModelSpec(model=MODEL, imaging=IMAGING, classes=("background", "foreground")),
        training=TrainingSettings(batch_size=4),
        federation=FederationSettings(
            strategy=StrategySettings(name=strategy),
            rounds=2,
            steps_per_round=2,
            cycles=cycles,
            quorum=quorum,
            round_timeout_seconds=120.0,
        ),
        selection=SelectionSettings(strategy="anchors_doubt", patches=PATCHES),
        igniter=IgniterSettings(site=CENTRAL, steps=4),
        annotating_sites=ANNOTATING,
        training_sites=SITES,
        evaluating_sites=ANNOTATING,
    )


def weights(tiny: Tiny) -> dict[str, bytes]:
    """The final model's files, byte for byte."""
    files = {path.name: path.read_bytes() for path in sorted(tiny.model.glob("*.safetensors"))}
    if len(files) != MODEL.members:
        raise AssertionError(f"{tiny.model}: expected {MODEL.members} members, found {list(files)}")
    return files


def change_campaign(tiny: Tiny, **changes: Any) -> None:
    """Rewrite ``campaign.yaml`` with other values."""
    path = tiny.folder / CAMPAIGN_FILE
    settings = configuration.load(CampaignSettings, path)
    configuration.save(settings.model_copy(update=changes), path)


def _tile(rng: np.random.Generator, tint: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:TILE_PX, :TILE_PX]
    center = rng.integers(20, TILE_PX - 20, size=2)
    blob = (rows - center[0]) ** 2 + (columns - center[1]) ** 2 < rng.integers(10, 18) ** 2
    image = rng.integers(190 - tint, 230 - tint, size=(TILE_PX, TILE_PX, 3))
    image[blob] -= np.array([60, 110, 40])
    return image.astype(np.uint8), blob.astype(np.uint8)


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
