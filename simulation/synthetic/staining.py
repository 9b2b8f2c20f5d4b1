"""From anatomy to colour: nuclei, eosin, section thickness, then the center's stain and scanner."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from fedloop.seeds import generator
from simulation.synthetic import tissues
from simulation.synthetic.anatomy import Anatomy
from simulation.synthetic.centers import Scanner, Stain
from simulation.synthetic.textures import Floats, smooth_field

_TRUNCATE = 2.5
"""Filters stop here (in sigmas): the tail is below one grey level and doubles their cost."""

_FOLD_CHANCE = 0.4
_FOLD_GAIN = 1.7


def hematoxylin(seed: int, anatomy: Anatomy, mpp: float) -> Floats:
    """Return the optical density of nuclei and ground, (H, W), before the center's gain."""
    rng = generator(seed, purpose="nuclei")
    inside = np.flatnonzero(anatomy.tissue)
    draw = rng.random(inside.size, dtype=np.float32)
    # Densities count nuclei per pixel of 2 um; a coarser pixel holds more of them.
    density = tissues.DENSITY * np.float32((mpp / tissues.REFERENCE_MPP) ** 2)
    ladder = np.cumsum(density, axis=1)
    hit = draw < ladder[:, -1][anatomy.compartments.ravel()[inside]]
    places, draw = inside[hit], draw[hit]
    kinds = anatomy.compartments.ravel()[places]
    size = (draw[:, None] >= ladder[kinds]).sum(axis=1)
    darkness = tissues.DARKNESS[kinds, size] * (
        1 + tissues.SPREAD[kinds] * rng.standard_normal(places.size, dtype=np.float32)
    )
    overlap = _spread_nuclei(anatomy.tissue.shape, places, size, darkness, mpp)
    # Overlapping nuclei saturate instead of adding up.
    np.expm1(-np.maximum(overlap, 0), out=overlap)
    overlap *= np.float32(-1.35)
    overlap += tissues.HEMATOXYLIN[anatomy.compartments]
    return overlap


def _spread_nuclei(
    shape: tuple[int, ...],
    places: NDArray[np.intp],
    size: NDArray[np.intp],
    darkness: Floats,
    mpp: float,
) -> Floats:
    """Sum one Gaussian per nucleus, of its size and darkness, over the slide."""
    total = np.zeros(shape, np.float32)
    for number, sigma_um in enumerate(tissues.NUCLEUS_SIGMA_UM):
        sigma_px = sigma_um / mpp
        points = np.zeros(shape, np.float32)
        chosen = size == number
        points.ravel()[places[chosen]] = darkness[chosen]
        blurred = gaussian_filter(points, sigma_px, truncate=_TRUNCATE)
        total += blurred * np.float32(0.9 * 2 * np.pi * sigma_px**2)
    return total


def eosin(seed: int, anatomy: Anatomy, nuclei: Floats, mpp: float) -> Floats:
    """Return the optical density of cytoplasm and stroma, (H, W), thinned where nuclei are."""
    rng = generator(seed, purpose="eosin")
    side = anatomy.tissue.shape[0]
    ground: Floats = gaussian_filter(
        tissues.EOSIN[anatomy.compartments], 3.0 / mpp, truncate=_TRUNCATE
    )
    ground *= (
        1 + 0.18 * smooth_field(rng, side, 8.0 / mpp) + 0.10 * smooth_field(rng, side, 80.0 / mpp)
    )
    ground *= 1 - 0.35 * np.clip(nuclei, 0, 1)
    return np.maximum(ground, 0, out=ground)


def thickness(seed: int, anatomy: Anatomy, mpp: float) -> Floats:
    """Return how much tissue light crosses, (H, W): about 1, more in folds, 0 beside the node."""
    rng = generator(seed, purpose="section")
    side = anatomy.tissue.shape[0]
    section = 1 + 0.12 * smooth_field(rng, side, 240.0 / mpp)
    if rng.random() < _FOLD_CHANCE:
        fold = np.abs(smooth_field(rng, side, 180.0 / mpp) - 0.3) < 0.02
        section[fold] *= _FOLD_GAIN
    edge = gaussian_filter(anatomy.tissue.astype(np.float32), 2.0 / mpp, truncate=_TRUNCATE)
    np.maximum(section, 0, out=section)
    section *= edge
    return section


def scan(
    seed: int,
    nuclei: Floats,
    ground: Floats,
    section: Floats,
    stain: Stain,
    scanner: Scanner,
    mpp: float,
) -> NDArray[np.uint8]:
    """Return the image (H, W, 3) that this stain and scanner make of the optical densities."""
    rng = generator(seed, purpose="scanner")
    blue = section * nuclei * np.float32(stain.hematoxylin_gain)
    pink = section * ground * np.float32(stain.eosin_gain)
    image = np.empty((*section.shape, 3), np.uint8)
    for channel in range(3):
        density = blue * np.float32(stain.hematoxylin[channel])
        density += pink * np.float32(stain.eosin[channel])
        light = np.exp(density * np.float32(-scanner.gamma))
        light *= np.float32(scanner.illumination[channel])
        light = gaussian_filter(light, scanner.blur_um / mpp, truncate=_TRUNCATE)
        light += rng.standard_normal(light.shape, dtype=np.float32) * np.float32(scanner.noise)
        image[..., channel] = np.clip(light, 0, 1) * 255
    return image
