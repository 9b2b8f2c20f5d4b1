"""Random shapes: smooth fields and irregular discs, the two primitives of every slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

_COARSE_SIGMA = 2.5
"""Sigma, in coarse pixels, at which noise is filtered: bilinear enlargement then stays smooth."""


@dataclass(frozen=True)
class Blob:
    """An irregular disc: ``mask`` (h, w) lies at rows ``top:top + h``, columns ``left:left + w``.

    The frame may leave the slide; :meth:`clip` gives the part that does not.
    """

    mask: Mask
    top: int
    left: int

    def clip(self, shape: tuple[int, int]) -> tuple[tuple[slice, slice], Mask]:
        """Return the slide's window under the blob and the blob's mask in that window."""
        spans = []
        for start, length, limit in zip((self.top, self.left), self.mask.shape, shape, strict=True):
            low, high = max(0, start), min(limit, start + length)
            spans.append((slice(low, max(low, high)), slice(low - start, max(low, high) - start)))
        (rows, own_rows), (columns, own_columns) = spans
        return (rows, columns), self.mask[own_rows, own_columns]


def smooth_field(rng: np.random.Generator, side_px: int, sigma_px: float) -> Floats:
    """Return a Gaussian random field (side, side) of zero mean and unit variance.

    White noise is filtered on a coarse grid and enlarged, since a wide filter at full resolution
    would take longer than the rest of the slide.
    """
    step = max(1, int(sigma_px / _COARSE_SIGMA))
    coarse_side = -(-side_px // step) + 2
    noise: Floats = rng.standard_normal((coarse_side, coarse_side), dtype=np.float32)
    field: Floats = gaussian_filter(noise, sigma_px / step, truncate=3.0)
    if step > 1:
        field = _enlarge(_enlarge(field, step, side_px).T, step, side_px).T
    else:
        field = field[:side_px, :side_px]
    field = field - field.mean()
    field /= np.float32(max(float(field.std()), 1e-6))
    return field


def _enlarge(field: Floats, step: int, side_px: int) -> Floats:
    """Enlarge axis 0 of ``field`` by ``step`` with linear interpolation, to ``side_px`` rows."""
    position = np.arange(side_px, dtype=np.float32) / step
    below = position.astype(np.intp)
    weight = (position - below.astype(np.float32))[:, None]
    upper, lower = field[below], field[below + 1]
    lower -= upper
    lower *= weight
    upper += lower
    return upper


def irregular_disc(
    rng: np.random.Generator, center: tuple[int, int], radius_px: float, wobble: float
) -> Blob:
    """Return a disc about ``center`` (row, column) whose rim a smooth field moves in and out.

    ``wobble`` is the relative deviation of the radius.
    """
    reach = int(radius_px * 1.8) + 4
    rim = smooth_field(rng, 2 * reach + 1, max(1.5, radius_px / 3))
    offset = np.arange(-reach, reach + 1, dtype=np.float32)
    distance = np.hypot(offset[:, None], offset[None, :])
    return Blob(
        distance < radius_px * (1 + wobble * rim),
        top=center[0] - reach,
        left=center[1] - reach,
    )
