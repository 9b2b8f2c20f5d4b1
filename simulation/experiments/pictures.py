"""Picture strips, chosen by rule: per center the best, the median and the worst test case."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from client.evaluation import evaluation_file
from client.site import Site, open_site
from fedloop.imaging.case import IGNORE, Case
from fedloop.imaging.geometry import Box
from fedloop.imaging.intensity import normaliser
from fedloop.models.device import choose_device
from fedloop.models.inference import predict_case
from fedloop.models.store import load_ensemble
from fedloop.records import EvaluateInstruction
from fedloop.settings import ExperimentSettings, ModelSpec
from fedloop.uncertainty.measures import uga
from simulation.experiments.execute import model_spec, site_folder
from simulation.experiments.jobs import Job, igniter_job, model_folder, path_safe
from simulation.experiments.world import World

RANKS = ("best", "median", "worst")
MAX_SIDE = 512


def shown_job(settings: ExperimentSettings, jobs: Sequence[Job]) -> Job | None:
    """The job whose pictures are shown: the last arm, largest budget, first seed and draw."""
    arms = {arm.name for arm in settings.arms}
    own = [job for job in jobs if job.kind == "arm" and job.arm in arms]
    last = [job for job in own if job.arm == settings.arms[-1].name and job.draw == 0]
    first_seed = [job for job in last if job.seed == settings.seeds[0]]
    return max(first_seed, key=lambda job: job.budget, default=None)


def draw_pictures(
    settings: ExperimentSettings, world: World, jobs: Sequence[Job], out: Path
) -> None:
    """Write ``pictures/*.npz`` and ``pictures/pictures.json``; picked by Dice after the rounds."""
    job = shown_job(settings, jobs)
    folder = out / "pictures"
    folder.mkdir(exist_ok=True)
    index: list[dict[str, Any]] = []
    if job is not None and settings.pictures_per_center:
        spec = model_spec(settings, world)
        before, _ = load_ensemble(model_folder(out, igniter_job(job.seed)))
        after, _ = load_ensemble(model_folder(out, job))
        for center in world.centers:
            for rank, before_dice, after_dice, case_id in _picked(settings, job, center, out):
                name = f"{path_safe(center)}_{rank}.npz"
                site = open_site(site_folder(job, out, center))
                _draw(folder / name, _case(site, case_id, spec), spec, before, after, settings)
                index.append(
                    {
                        "seed": job.seed,
                        "arm": job.arm,
                        "budget": job.budget,
                        "center": center,
                        "case": case_id,
                        "rank": rank,
                        "dice_before": before_dice,
                        "dice_after": after_dice,
                        "file": name,
                    }
                )
    temporary = folder / "pictures.json.tmp"
    temporary.write_text(json.dumps(index, indent=1), encoding="utf-8")
    os.replace(temporary, folder / "pictures.json")


def _picked(
    settings: ExperimentSettings, job: Job, center: str, out: Path
) -> list[tuple[str, float, float, str]]:
    """``(rank, Dice before, Dice after, case)`` among the cases that hold foreground."""
    f = settings.federation
    after = _rows(site_folder(job, out, center), job.name, f.cycles, f.rounds)
    first = igniter_job(job.seed)
    before = _rows(site_folder(first, out, center), first.name, 0, 0)
    cases = [c for c in after if after[c]["lesion"]] or list(after)
    cases.sort(key=lambda c: (-after[c]["dice"], c))
    places = {"best": 0, "median": len(cases) // 2, "worst": len(cases) - 1}
    wanted = RANKS[: settings.pictures_per_center]
    shown: dict[str, str] = {}
    for rank in wanted:
        case = cases[places[rank]]
        if case not in shown.values():
            shown[rank] = case
    return [(r, before[c]["dice"], after[c]["dice"], c) for r, c in shown.items()]


def _rows(site: Path, campaign: str, cycle: int, number: int) -> dict[str, dict[str, Any]]:
    step = EvaluateInstruction.model_construct(campaign=campaign, cycle=cycle, round=number)
    tree = json.loads(evaluation_file(site, step).read_text(encoding="utf-8"))
    return {row["case"]: row for row in tree["cases"]}


def _case(site: Site, case_id: str, spec: ModelSpec) -> Case:
    return next(c for c in site.cases("test", spec.imaging) if c.case_id == case_id)


def _draw(
    path: Path,
    case: Case,
    spec: ModelSpec,
    before: Sequence[nn.Module],
    after: Sequence[nn.Module],
    settings: ExperimentSettings,
) -> None:
    device = choose_device("cpu")

    def predict(networks: Sequence[nn.Module]) -> NDArray[np.float32]:
        return predict_case(
            networks,
            case,
            spec.imaging,
            classes=len(spec.classes),
            device=device,
            amp=settings.training.amp,
            normalise=normaliser(case, spec.imaging.intensity),
        )

    first, last = predict(before).mean(axis=0), predict(after)
    mean = last.mean(axis=0)
    box = Box((0,) * len(case.shape), case.shape)
    tissue = case.read_tissue(box)
    layers = {
        "reference": case.read_label(box),
        "before": (first.argmax(axis=0) * tissue).astype(np.uint8),
        "after": (mean.argmax(axis=0) * tissue).astype(np.uint8),
        "uncertainty": (uga(last) * tissue).astype(np.float16),
    }
    image = case.read(box)
    if image.ndim == 4:
        # A volume is shown by the slice (last axis) with the most reference foreground.
        reference = layers["reference"]
        foreground = (reference > 0) & (reference != IGNORE)
        best = int(foreground.sum(axis=(0, 1)).argmax())
        layers = {name: np.rot90(layer[..., best]) for name, layer in layers.items()}
        image = np.rot90(image[..., best], axes=(1, 2))
    step = max(1, -(-max(image.shape[1:]) // MAX_SIDE))
    np.savez_compressed(
        path,
        image=_displayable(image)[::step, ::step],
        **{name: layer[::step, ::step] for name, layer in layers.items()},
    )


def _displayable(image: NDArray[Any]) -> NDArray[np.uint8]:
    """``(C, H, W)`` of any range to ``(H, W, 3)`` uint8."""
    if image.dtype != np.uint8:
        low, high = np.percentile(image, (1, 99))
        scaled = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1) * 255
        image = scaled.astype(np.uint8)
    shown = image[:3] if image.shape[0] >= 3 else np.repeat(image[:1], 3, axis=0)
    return np.moveaxis(shown, 0, -1)
