"""Answer to ``evaluate``: overlap on the held-out cases.

Per-case results stay in the site's folder (``evaluations/``); only means and pooled scalars leave.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from client.localstate import LocalState
from client.networks import load_networks
from client.personalise import personalise
from client.site import Site
from fedloop.errors import DataError
from fedloop.imaging.case import Case
from fedloop.imaging.geometry import Grid
from fedloop.imaging.intensity import normaliser
from fedloop.metrics.overlap import Counts, count, dice, mean_dice, precision, recall, total
from fedloop.models.device import Device, choose_device
from fedloop.models.inference import predict_windows
from fedloop.records import Arrays, EvaluateInstruction, Step
from fedloop.settings import ModelSpec


def evaluate(
    site: Site, instruction: EvaluateInstruction, members: Sequence[Arrays]
) -> dict[str, float]:
    """Measure the ensemble on the site's test cases and keep the details at the site.

    Raises:
        DataError: the site has no test cases, or one has no readable label.
    """
    cases = site.cases("test", instruction.spec.imaging)
    if not cases:
        raise DataError(f"site {site.name!r} has no test cases to evaluate on")
    device = choose_device(site.settings.device)
    local = LocalState(site.folder / "local" / instruction.campaign)
    own = local.overlay(instruction, members, before=False)
    networks = load_networks(instruction.spec, own, device)
    rows, pooled = evaluate_cases(networks, cases, instruction.spec, device, amp=instruction.amp)
    summary = _summary(rows, pooled)
    if instruction.personal_steps:
        networks = personalise(site, instruction, own, device)
        _, fine_tuned = evaluate_cases(
            networks, cases, instruction.spec, device, amp=instruction.amp
        )
        summary["dice_personal"] = mean_dice(fine_tuned)
    _write(evaluation_file(site.folder, instruction), {"summary": summary, "cases": rows})
    return {name: value for name, value in summary.items() if not math.isnan(value)}


def evaluation_file(folder: Path, step: Step) -> Path:
    """Where a site keeps the per-case results of one evaluation."""
    name = f"cycle_{step.cycle:02d}_round_{step.round:03d}.json"
    return folder / "evaluations" / step.campaign / name


def evaluate_cases(
    networks: Sequence[nn.Module],
    cases: Sequence[Case],
    spec: ModelSpec,
    device: Device,
    *,
    amp: bool,
) -> tuple[list[dict[str, Any]], Counts]:
    """One row per case, and the counts pooled over all of them."""
    rows, parts = [], []
    for case in cases:
        counts, tissue = count_case(networks, case, spec, device, amp=amp)
        rows.append(_row(case, counts, tissue, spec))
        parts.append(counts)
    return rows, total(parts, len(spec.classes))


def count_case(
    networks: Sequence[nn.Module], case: Case, spec: ModelSpec, device: Device, *, amp: bool
) -> tuple[Counts, int]:
    """Counts of one case and its number of tissue voxels, window by window.

    Glass is background: windows without tissue are not predicted at all, and in the others what
    is predicted outside tissue does not count.
    """
    classes = len(spec.classes)
    predictions = {
        window.box: window.probabilities.mean(axis=0).argmax(axis=0).astype(np.uint8)
        for window in predict_windows(
            networks,
            case,
            spec.imaging,
            normalise=normaliser(case, spec.imaging.intensity),
            classes=classes,
            device=device,
            amp=amp,
            with_features=False,
        )
    }
    parts: list[Counts] = []
    tissue = 0
    grid = Grid(case.shape, spec.imaging.patch_size)
    for box in grid.windows(spec.imaging.window_cells):
        reference = case.read_label(box)
        predicted = predictions.pop(box, None)
        if predicted is None:
            predicted = np.zeros(box.size, np.uint8)
        else:
            shown = case.read_tissue(box)
            predicted[~shown] = 0
            tissue += int(np.count_nonzero(shown))
        parts.append(count(predicted, reference, classes))
    return total(parts, classes), tissue


def _row(case: Case, counts: Counts, tissue: int, spec: ModelSpec) -> dict[str, Any]:
    row: dict[str, Any] = {
        "case": case.case_id,
        "center": case.center,
        "category": case.category,
        "dice": mean_dice(counts),
        "precision": _mean(precision(counts)),
        "recall": _mean(recall(counts)),
        "fp_share": float(sum(counts.fp[1:])) / max(1, tissue),
        "lesion": bool(sum(counts.tp[1:]) + sum(counts.fn[1:])),
    }
    if len(spec.classes) > 2:
        row |= {
            f"dice_{n}": v for n, v in zip(spec.classes[1:], dice(counts)[1:].tolist(), strict=True)
        }
    return row


def _summary(rows: Sequence[dict[str, Any]], pooled: Counts) -> dict[str, float]:
    with_lesion = [row["dice"] for row in rows if row["lesion"]]
    return {
        "cases": float(len(rows)),
        "dice_global": mean_dice(pooled),
        "dice_case_mean": float(np.mean(with_lesion)) if with_lesion else math.nan,
        "precision": _mean(precision(pooled)),
        "recall": _mean(recall(pooled)),
    }


def _mean(per_class: NDArray[np.float64]) -> float:
    """Mean over the foreground classes for which the ratio is defined; NaN for none."""
    defined = per_class[1:][~np.isnan(per_class[1:])]
    return float(defined.mean()) if len(defined) else math.nan


def _write(path: Path, tree: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(tree), encoding="utf-8")
    os.replace(temporary, path)
