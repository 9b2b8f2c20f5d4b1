"""Voxel values become network input: one normaliser per case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedloop.errors import DataError
from fedloop.settings import IntensitySettings

Normaliser = Callable[[NDArray[Any]], NDArray[np.float32]]

RGB_MEAN, RGB_DEVIATION = 0.7, 0.25
SMALLEST_DEVIATION = 1e-6


class HasStatistics(Protocol):
    """A case that knows the mean and deviation of its tissue voxels."""

    def statistics(self) -> tuple[float, float]: ...


def normaliser(
    of: HasStatistics | tuple[float, float] | object, settings: IntensitySettings
) -> Normaliser:
    """Return the function that maps raw voxels of one case to float32 network input.

    Args:
        of: the case, or its ``(mean, deviation)``; only looked at for ``zscore``.
        settings: the campaign's intensity settings.

    Raises:
        DataError: ``zscore`` without statistics, or an empty window.
    """
    match settings.kind:
        case "rgb":
            return _rgb
        case "window":
            return _window(*settings.window)
        case "zscore":
            return _zscore(*_statistics(of))


def voxel_statistics(voxels: NDArray[Any], tissue: NDArray[np.bool_]) -> tuple[float, float]:
    """Mean and deviation over tissue (over everything where there is none).

    Args:
        voxels: ``(C, *shape)``.
        tissue: ``shape``.
    """
    chosen = voxels[:, tissue] if tissue.any() else voxels
    return float(chosen.mean(dtype=np.float64)), float(chosen.std(dtype=np.float64))


def _statistics(of: object) -> tuple[float, float]:
    if isinstance(of, tuple):
        mean, deviation = of
        return float(mean), float(deviation)
    statistics = getattr(of, "statistics", None)
    if not callable(statistics):
        raise DataError(f"zscore needs the case's statistics, {type(of).__name__} has none")
    mean, deviation = statistics()
    return float(mean), float(deviation)


def _rgb(voxels: NDArray[Any]) -> NDArray[np.float32]:
    if voxels.dtype != np.uint8:
        raise DataError(
            f"imaging.intensity `rgb` needs uint8 colour images, found {voxels.dtype}: "
            "use `zscore` or `window`"
        )
    scaled = voxels.astype(np.float32)
    scaled *= np.float32(1 / (255 * RGB_DEVIATION))
    scaled -= np.float32(RGB_MEAN / RGB_DEVIATION)
    return scaled


def _window(low: float, high: float) -> Normaliser:
    if not high > low:
        raise DataError(f"imaging.intensity.window ({low}, {high}) is empty: give (low, high)")

    def apply(voxels: NDArray[Any]) -> NDArray[np.float32]:
        clipped = np.clip(voxels.astype(np.float32), np.float32(low), np.float32(high))
        return np.asarray((clipped - np.float32(low)) / np.float32(high - low), dtype=np.float32)

    return apply


def _zscore(mean: float, deviation: float) -> Normaliser:
    scale = max(deviation, SMALLEST_DEVIATION)  # a constant image becomes zeros, not NaN

    def apply(voxels: NDArray[Any]) -> NDArray[np.float32]:
        centred = voxels.astype(np.float32) - np.float32(mean)
        return np.asarray(centred / np.float32(scale), dtype=np.float32)

    return apply
