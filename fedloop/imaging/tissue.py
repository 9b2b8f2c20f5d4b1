"""Where there is something to look at: tissue on a slide, the field of view of a camera, a body."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedloop.errors import DataError

TissueKind = Literal["saturation", "bright", "all"]

SATURATION_LIMITS = (0.04, 0.10)
"""Otsu's threshold splits any histogram, also that of bare glass or of a tile that is all tissue.
Held between the colour of glass noise and that of the palest stained tissue, it stays true."""
DENSE = 0.9
"""Share of the light; what lets less through is no glass (an optical density of 0.046)."""
BLACK = 0.15
"""Share of the light below which nothing is stained tissue: pen, slide edge, unscanned parts."""
SMOOTHING_PX = 5
SAMPLES = 1_000_000


def tissue_mask(image: NDArray[Any], kind: TissueKind) -> NDArray[np.bool_]:
    """Return the tissue of a whole image, given small (slides: a thumbnail).

    Args:
        image: ``(C, *shape)``; uint8 RGB, or float of one channel.
        kind: ``saturation`` (coloured against glass), ``bright`` (not the black surround) or
            ``all``.

    Returns:
        ``shape``, ``True`` on tissue.

    Raises:
        DataError: ``saturation`` is asked of an image without colour.
    """
    match kind:
        case "all":
            return np.ones(image.shape[1:], dtype=np.bool_)
        case "bright":
            return _bright(image)
        case "saturation":
            if image.shape[0] != 3 or image.dtype != np.uint8:
                raise DataError(
                    "imaging.tissue `saturation` needs RGB images: use `bright` or `all` for "
                    f"images of {image.shape[0]} channel(s) of {image.dtype}"
                )
            return _stained(image)


def otsu(values: NDArray[np.float32], bins: int = 256) -> float:
    """Threshold of two classes with the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=bins)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(float)
    above = counts.sum() - below
    sums = np.cumsum(counts * middles)
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * (mean_below - mean_above) ** 2))])


def _stained(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    # Smoothed before the saturation: noise of glass has colour, its local mean has none.
    smooth = np.stack(
        [ndimage.uniform_filter(c.astype(np.float32), SMOOTHING_PX, mode="nearest") for c in image]
    )
    relative = np.minimum(smooth / _white(smooth)[:, None, None], 1.0)
    brightest = relative.max(axis=0)
    saturation = 1 - relative.min(axis=0) / np.maximum(brightest, BLACK)
    coloured = saturation > float(np.clip(otsu(saturation), *SATURATION_LIMITS))
    # Nuclei and pale stroma can be nearly grey, but they absorb light; glass does not.
    dense = (saturation > SATURATION_LIMITS[0]) & (relative.mean(axis=0) < DENSE)
    return np.asarray((coloured | dense) & (brightest > BLACK))


def _white(smooth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colour of the light: the brightest pixels' mean, where they are bright and nearly grey.

    Lamps of some scanners are yellowish; where no glass is in view, plain white is assumed, or the
    palest tissue would count as glass.
    """
    darkest = smooth.min(axis=0)
    brightest = darkest >= np.percentile(darkest, 95)
    white = smooth[:, brightest].mean(axis=1)
    if white.min() < 200 or white.max() - white.min() > 0.1 * white.max():
        return np.full(3, 255.0, dtype=np.float32)
    return np.asarray(white, dtype=np.float32)


def _bright(image: NDArray[Any]) -> NDArray[np.bool_]:
    values = image.max(axis=0)
    sample = values.ravel()[:: max(1, values.size // SAMPLES)]
    low, high = np.percentile(sample, (1, 99))
    if image.dtype == np.uint8:
        threshold = float(np.clip(0.1 * high, 10, 40))  # black is 0 there, whatever is in view
    else:
        threshold = float(low + 0.1 * (high - low))
    smooth = ndimage.uniform_filter(values.astype(np.float32), 3, mode="nearest")
    mask = smooth > threshold if high > low else smooth >= threshold
    # A vessel or a gas bubble inside the view is dark, but part of it.
    return np.asarray(ndimage.binary_fill_holes(mask), dtype=np.bool_)
