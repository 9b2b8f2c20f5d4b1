"""Where a patch lies: frozen boxes in voxel coordinates, and the physical size of a voxel.

Axis order is the array's own: ``(row, column)`` for slides and tiles, ``(i, j, k)`` of the
RAS-oriented array for volumes. Intervals are half-open, ``[start, stop)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from fedloop.errors import DataError


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned box of voxels; ``start`` may be negative where a halo leaves the image."""

    start: tuple[int, ...]
    size: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.start) != len(self.size):
            raise DataError(f"box start {self.start} and size {self.size} differ in dimensions")
        if any(extent <= 0 for extent in self.size):
            raise DataError(f"box size {self.size} must be positive")

    @property
    def ndim(self) -> int:
        return len(self.start)

    @property
    def stop(self) -> tuple[int, ...]:
        return tuple(a + n for a, n in zip(self.start, self.size, strict=True))

    @property
    def voxels(self) -> int:
        return math.prod(self.size)

    @property
    def slices(self) -> tuple[slice, ...]:
        """NumPy index of the box; only meaningful where ``start`` is not negative."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def overlaps(self, other: Box) -> bool:
        return all(
            a < d and c < b
            for a, b, c, d in zip(self.start, self.stop, other.start, other.stop, strict=True)
        )

    def padded(self, halo: int) -> Box:
        """The box grown by ``halo`` voxels on every side."""
        return Box(tuple(a - halo for a in self.start), tuple(n + 2 * halo for n in self.size))

    def clipped(self, shape: tuple[int, ...]) -> Box:
        """The part of the box inside an image of ``shape``.

        Raises:
            DataError: nothing of the box lies inside.
        """
        start = tuple(max(0, a) for a in self.start)
        stop = tuple(min(n, b) for n, b in zip(shape, self.stop, strict=True))
        if any(b <= a for a, b in zip(start, stop, strict=True)):
            raise DataError(f"box {self.start}+{self.size} lies outside an image of {shape}")
        return Box(start, tuple(b - a for a, b in zip(start, stop, strict=True)))


@dataclass(frozen=True, slots=True)
class Resolution:
    """Physical size of one voxel at the working resolution.

    Slides and tiles carry ``mpp`` (microns per pixel, one number per axis), volumes carry
    ``spacing_mm``. Plain tiles of unknown scale carry neither.
    """

    mpp: tuple[float, float] | None = None
    spacing_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch of one case: its cell in the case's patch grid and its box of voxels.

    ``cell`` is the grid coordinate (row, column[, slab]); two patches of a case never overlap.
    """

    case_id: str
    cell: tuple[int, ...]
    box: Box


@dataclass(frozen=True, slots=True)
class Grid:
    """A gap-free grid of equal patches over an image; border patches reach past the edge."""

    shape: tuple[int, ...]
    patch_size: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.patch_size):
            raise DataError(
                f"patch size {self.patch_size} has {len(self.patch_size)} axes, "
                f"the image {self.shape} has {len(self.shape)}"
            )

    @property
    def cells(self) -> tuple[int, ...]:
        """Number of patches along each axis (ceiling division)."""
        return tuple(-(-n // p) for n, p in zip(self.shape, self.patch_size, strict=True))

    def box(self, cell: tuple[int, ...]) -> Box:
        return Box(
            tuple(c * p for c, p in zip(cell, self.patch_size, strict=True)), self.patch_size
        )

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return iter(product(*(range(n) for n in self.cells)))

    def windows(self, cells_per_window: int) -> Iterator[Box]:
        """Boxes of up to ``cells_per_window`` patches per axis that tile the image in order."""
        starts = [range(0, n, cells_per_window) for n in self.cells]
        for first in product(*starts):
            count = tuple(
                min(cells_per_window, n - c) for n, c in zip(self.cells, first, strict=True)
            )
            yield Box(
                tuple(c * p for c, p in zip(first, self.patch_size, strict=True)),
                tuple(c * p for c, p in zip(count, self.patch_size, strict=True)),
            )
