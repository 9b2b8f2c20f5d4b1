"""All patches of some cases in memory, for training and scoring small data sets fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloop.errors import DataError
from fedloop.imaging.case import IGNORE, Case
from fedloop.imaging.geometry import Box, Grid
from fedloop.imaging.intensity import normaliser
from fedloop.settings import ImagingSettings


@dataclass(frozen=True, eq=False)
class PatchBank:
    """Patches of several cases, in the order of the cases and of their grids.

    images: ``(n, C, *patch)``; raw uint8 where intensity is ``rgb``, else normalised float32.
    labels: ``(n, *patch)`` uint8, :data:`IGNORE` outside the image and where unknown.
    case: ``(n,)`` int64 index into ``case_ids``.
    cell: ``(n, d)`` int64 grid cell.
    """

    images: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.uint8]
    case: NDArray[np.int64]
    cell: NDArray[np.int64]
    case_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.case)


@dataclass(frozen=True, eq=False)
class _Window:
    """The kept patches of one window of one case."""

    images: NDArray[Any]
    labels: NDArray[np.uint8]
    cell: NDArray[np.int64]


def load_bank(
    cases: Sequence[Case], imaging: ImagingSettings, *, with_labels: bool = True
) -> PatchBank:
    """Read the patches of ``cases`` that show enough tissue.

    A patch is kept when its tissue share, of the part inside the image, is at least
    ``imaging.min_tissue``. Without labels all labels are :data:`IGNORE`.

    Raises:
        DataError: no cases, a case cannot be read, or its channels differ from the first one's.
    """
    if not cases:
        raise DataError("no cases to load patches from")
    windows: list[_Window] = []
    owners: list[NDArray[np.int64]] = []
    channels = cases[0].channels
    for index, case in enumerate(cases):
        if case.channels != channels:
            raise DataError(
                f"case {case.case_id} has {case.channels} channel(s), case {cases[0].case_id} has "
                f"{channels}: give them to separate experiments"
            )
        for window in _windows(case, imaging, with_labels):
            windows.append(window)
            owners.append(np.full(len(window.cell), index, dtype=np.int64))
    patch = imaging.patch_size
    kind = np.uint8 if imaging.intensity.kind == "rgb" else np.float32
    case_index = _joined(owners, (), np.int64)
    cell = _joined([w.cell for w in windows], (len(patch),), np.int64)
    # Windows come block by block; the order of a bank is that of the grid, whatever the window.
    order = np.lexsort([*cell.T[::-1], case_index])
    return PatchBank(
        images=_joined([w.images for w in windows], (channels, *patch), kind)[order],
        labels=_joined([w.labels for w in windows], patch, np.uint8)[order],
        case=case_index[order],
        cell=cell[order],
        case_ids=tuple(case.case_id for case in cases),
    )


def tissue_share(case: Case, window: Box, patch_size: tuple[int, ...]) -> NDArray[np.float64]:
    """Share of tissue per patch of a window, of the part inside the image: ``(*cells)``."""
    axes = tuple(range(1, 2 * window.ndim, 2))
    tissue = _by_cell(case.read_tissue(window), patch_size).sum(axis=axes)
    inside = np.ones((1,) * window.ndim)
    for axis, (a, b, n) in enumerate(zip(window.start, window.stop, case.shape, strict=True)):
        in_image = (np.arange(a, b) < n).reshape(-1, patch_size[axis]).sum(axis=1)
        inside = inside * in_image.reshape([-1 if i == axis else 1 for i in range(window.ndim)])
    return np.asarray(tissue / np.maximum(inside, 1))


def _windows(case: Case, imaging: ImagingSettings, with_labels: bool) -> Iterator[_Window]:
    patch = imaging.patch_size
    raw = imaging.intensity.kind == "rgb"
    normalise = None if raw else normaliser(case, imaging.intensity)
    for window in Grid(case.shape, patch).windows(imaging.window_cells):
        keep = tissue_share(case, window, patch) >= imaging.min_tissue
        if not keep.any():
            continue
        voxels = case.read(window)
        if raw and voxels.dtype != np.uint8:
            raise DataError(
                f"case {case.case_id} is no colour image ({voxels.dtype}): set "
                "imaging.intensity.kind to `zscore` or `window`"
            )
        if normalise is not None:
            voxels = normalise(voxels)
        first = [a // p for a, p in zip(window.start, patch, strict=True)]
        yield _Window(
            images=np.stack([_kept(c, patch, keep) for c in voxels], axis=1),
            labels=_kept(case.read_label(window), patch, keep)
            if with_labels
            else np.full((int(keep.sum()), *patch), IGNORE, dtype=np.uint8),
            cell=np.argwhere(keep).astype(np.int64) + np.asarray(first, dtype=np.int64),
        )


def _by_cell(array: NDArray[Any], patch: tuple[int, ...]) -> NDArray[Any]:
    """Split every axis in two: ``(cells_0, patch_0, cells_1, patch_1, ...)``."""
    return array.reshape([m for n, p in zip(array.shape, patch, strict=True) for m in (n // p, p)])


def _kept(array: NDArray[Any], patch: tuple[int, ...], keep: NDArray[np.bool_]) -> NDArray[Any]:
    """``(kept, *patch)`` in the order of the cells."""
    axes = range(len(patch))
    split = _by_cell(array, patch).transpose([2 * a for a in axes] + [2 * a + 1 for a in axes])
    return np.asarray(split[keep])


def _joined(parts: list[NDArray[Any]], rest: tuple[int, ...], kind: type) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros((0, *rest), dtype=kind)
