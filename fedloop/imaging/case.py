"""The one door to an image: a slide, a tile or a volume seen as a :class:`Case`."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fedloop.imaging.geometry import Box, Resolution

IGNORE = 255
"""Label of voxels that neither train nor count: unknown, unannotated, outside the image."""


@runtime_checkable
class Case(Protocol):
    """One image with its reference label, read by boxes at the working resolution.

    Readers open their file lazily and may be used from one thread at a time. A box may leave the
    image: what lies outside is filled (images: by the nearest edge value or the background of the
    modality; labels: :data:`IGNORE`; tissue: ``False``).
    """

    @property
    def case_id(self) -> str: ...

    @property
    def center(self) -> str: ...

    @property
    def category(self) -> str:
        """Lesion category (``negative``, ``itc``, ``micro``, ``macro``) or ``""``."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape at the working resolution, without channels."""
        ...

    @property
    def channels(self) -> int: ...

    @property
    def resolution(self) -> Resolution: ...

    def read(self, box: Box) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Image voxels, channels first: ``(C, *box.size)``; uint8 for RGB, else float32.

        Raises:
            DataError: the file cannot be read there, or holds non-finite voxels.
        """
        ...

    def read_label(self, box: Box) -> NDArray[np.uint8]:
        """Reference labels ``box.size``: class ids, :data:`IGNORE` where unknown.

        Raises:
            DataError: the label is missing, unreadable or holds an unknown class.
        """
        ...

    def read_tissue(self, box: Box) -> NDArray[np.bool_]:
        """``True`` where there is something to look at (``box.size``)."""
        ...

    @property
    def has_label(self) -> bool: ...
