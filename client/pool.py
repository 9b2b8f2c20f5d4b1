"""The site's pool as the ensemble of a cycle sees it: scores, predictions, agreed labels."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from client.ranking.base import Pool
from client.site import Site
from fedloop.errors import DataError, SelectionError
from fedloop.imaging.case import IGNORE, Case
from fedloop.imaging.geometry import Grid
from fedloop.imaging.intensity import normaliser
from fedloop.metrics.overlap import count, mean_dice
from fedloop.models.device import Device
from fedloop.models.inference import predict_windows
from fedloop.records import Arrays, SelectInstruction
from fedloop.uncertainty.pool import SCORES, CaseScores, score_case


@dataclass(frozen=True)
class PoolView:
    """All patches of a pool, case by case; ``n`` patches.

    ``case`` and ``cell`` as in :class:`client.ranking.base.Pool`; ``predicted`` and ``agreed`` are
    ``(n, *patch)`` class ids (``agreed``: IGNORE where members differ); ``true_error`` and
    ``true_dice`` are ``(n,)`` and empty outside a study.
    """

    case: NDArray[np.int64]
    cell: NDArray[np.int64]
    scores: NDArray[np.float32]
    features: NDArray[np.float32]
    predicted: NDArray[np.uint8]
    agreed: NDArray[np.uint8]
    true_error: NDArray[np.float32]
    true_dice: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.case)

    def for_ranking(self) -> Pool:
        return Pool(
            case=self.case,
            cell=self.cell,
            scores={name: self.scores[i] for i, name in enumerate(SCORES)},
            features=self.features,
            true_error=self.true_error if len(self.true_error) else None,
        )


def view_pool(
    site: Site,
    instruction: SelectInstruction,
    members: Sequence[Arrays],
    networks: Sequence[nn.Module],
    device: Device,
) -> PoolView:
    """Predict and score the site's pool, or read it from the cache.

    The cache is keyed by the weights, the spec and the names of the cases: images must not be
    replaced under the same name while a campaign runs.
    """
    path = _cache_file(site, instruction, members)
    if (cached := _read(path)) is not None:
        return cached
    view = _compute(site, instruction, networks, device)
    _write(path, view)
    return view


def remembered_view(site: Site, campaign: str, cycle: int) -> PoolView | None:
    """The view a cycle's patches were chosen from; none before the first selection.

    Raises:
        DataError: the site selected, but its cache was removed since.
    """
    link = _link_file(site, campaign, cycle)
    if not link.exists():
        return None
    path = _cache_folder(site) / link.read_text(encoding="utf-8")
    view = _read(path)
    if view is None:
        raise DataError(
            f"{path}: the pool predictions of cycle {cycle} are gone; "
            "restore the site's cache folder or repeat the cycle"
        )
    return view


def remember_view(site: Site, instruction: SelectInstruction, members: Sequence[Arrays]) -> None:
    """Note which view a cycle's selection was made from."""
    link = _link_file(site, instruction.campaign, instruction.cycle)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.write_text(_cache_file(site, instruction, members).name, encoding="utf-8")


def _link_file(site: Site, campaign: str, cycle: int) -> Path:
    return site.folder / "pool" / f"{campaign}_cycle_{cycle:02d}.txt"


def _compute(
    site: Site, instruction: SelectInstruction, networks: Sequence[nn.Module], device: Device
) -> PoolView:
    spec = instruction.spec
    parts: list[dict[str, NDArray[Any]]] = []
    for number, case in enumerate(site.cases("pool", spec.imaging)):
        windows = predict_windows(
            networks,
            case,
            spec.imaging,
            normalise=normaliser(case, spec.imaging.intensity),
            classes=len(spec.classes),
            device=device,
            amp=instruction.amp,
            with_features=True,
        )
        scored = score_case(
            windows, case, spec.imaging, threshold=instruction.pseudo_label_threshold
        )
        if len(scored):  # a case without tissue has no patches, and no width of features either
            parts.append(
                _part(site, case, number, scored, len(spec.classes), spec.imaging.patch_size)
            )
    if not parts:
        raise SelectionError(f"site {site.name!r}: no patch of its pool shows enough tissue")
    return PoolView(
        **{
            key: np.concatenate([part[key] for part in parts], axis=1 if key == "scores" else 0)
            for key in parts[0]
        }
    )


def _part(
    site: Site,
    case: Case,
    number: int,
    scored: CaseScores,
    classes: int,
    patch_size: tuple[int, ...],
) -> dict[str, NDArray[Any]]:
    errors, dices = (
        _truth(case, scored, classes, patch_size)
        if site.settings.study and case.has_label
        else (np.empty(0, np.float32), np.empty(0, np.float32))
    )
    return {
        "case": np.full(len(scored.cell), number, np.int64),
        "cell": scored.cell,
        "scores": np.stack([scored.scores[name] for name in SCORES]),
        "features": scored.features,
        "predicted": scored.predicted,
        "agreed": scored.pseudo_labels,
        "true_error": errors,
        "true_dice": dices,
    }


def _truth(
    case: Case, scored: CaseScores, classes: int, patch_size: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Wrong voxels and Dice of each patch; Dice is NaN where neither side has foreground."""
    grid = Grid(case.shape, patch_size)
    errors = np.zeros(len(scored.cell), np.float32)
    dices = np.full(len(scored.cell), np.nan, np.float32)
    for i, cell in enumerate(scored.cell):
        reference = case.read_label(grid.box(tuple(int(c) for c in cell)))
        predicted = scored.predicted[i]
        known = reference != IGNORE
        errors[i] = np.count_nonzero((reference != predicted) & known)
        if ((reference > 0) & known).any() or ((predicted > 0) & known).any():
            dices[i] = mean_dice(count(predicted, reference, classes))
    return errors, dices


# --------------------------------------------------------------------------- cache


def _cache_file(site: Site, instruction: SelectInstruction, members: Sequence[Arrays]) -> Path:
    digest = hashlib.sha256()
    digest.update(instruction.spec.model_dump_json().encode())
    digest.update(f"{instruction.pseudo_label_threshold}|{instruction.amp}".encode())
    digest.update(site.settings.data.model_dump_json().encode())
    digest.update("|".join(site.settings.pool).encode() + str(site.settings.study).encode())
    for arrays in members:
        for name in sorted(arrays):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return _cache_folder(site) / f"pool_{digest.hexdigest()[:32]}.npz"


def _cache_folder(site: Site) -> Path:
    return site.settings.cache or site.folder / "pool"


def _read(path: Path) -> PoolView | None:
    try:
        # Opened here: NumPy forgets to close a file it cannot read.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return PoolView(**{field.name: stored[field.name] for field in fields(PoolView)})
    except (
        OSError,
        ValueError,
        LookupError,
        EOFError,
        TypeError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ):
        # A missing or torn cache entry is computed again; it holds nothing else.
        return None


def _write(path: Path, view: PoolView) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.savez(stream, **{field.name: getattr(view, field.name) for field in fields(view)})
    os.replace(temporary, path)
