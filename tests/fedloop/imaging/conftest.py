"""Writers of small real files, as fixtures (tests have no packages to import helpers from)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

Write = Callable[..., Path]
Outline = tuple[str, Sequence[tuple[float, float]]]


@pytest.fixture(scope="session")
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def _slide(
    path: Path, pixels: NDArray[np.uint8], *, mpp: float | None = 0.5, levels: int = 3
) -> Path:
    """Tiled pyramidal TIFF, each level the area mean (masks: every second pixel) of the last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = pixels.ndim == 3
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            writer.write(
                pixels,
                tile=(64, 64),
                photometric="rgb" if colour else "minisblack",
                compression="deflate",
                subfiletype=int(level > 0),
                metadata=None,
                **_tags(mpp, level),
            )
            height, width = (n // 2 * 2 for n in pixels.shape[:2])
            if colour:
                blocks = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
                pixels = blocks.mean(axis=(1, 3)).round().astype(np.uint8)
            else:
                pixels = np.ascontiguousarray(pixels[:height:2, :width:2])
    return path


def _tags(mpp: float | None, level: int) -> dict[str, Any]:
    if mpp is None:
        return {}
    per_cm = 1e4 / (mpp * 2**level)
    return {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}


def _asap(path: Path, outlines: Iterable[Outline]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(asap_text(outlines))
    return path


def asap_text(outlines: Iterable[Outline]) -> str:
    lines = ['<?xml version="1.0"?>', "<ASAP_Annotations><Annotations>"]
    for i, (group, vertices) in enumerate(outlines):
        lines.append(f'<Annotation Name="A{i}" Type="Polygon" PartOfGroup="{group}"><Coordinates>')
        lines += [
            f'<Coordinate Order="{k}" X="{x!r}" Y="{y!r}" />' for k, (x, y) in enumerate(vertices)
        ]
        lines.append("</Coordinates></Annotation>")
    return "\n".join([*lines, "</Annotations></ASAP_Annotations>"])


def _picture(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def _volume(path: Path, voxels: NDArray[Any], affine: NDArray[Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine).to_filename(path)
    return path


@pytest.fixture(scope="session")
def write_slide() -> Write:
    return _slide


@pytest.fixture(scope="session")
def write_asap() -> Write:
    return _asap


@pytest.fixture(scope="session")
def write_picture() -> Write:
    return _picture


@pytest.fixture(scope="session")
def write_volume() -> Write:
    return _volume


@pytest.fixture(scope="session")
def asap_bytes() -> Callable[[Iterable[Outline]], bytes]:
    return lambda outlines: asap_text(outlines).encode()
