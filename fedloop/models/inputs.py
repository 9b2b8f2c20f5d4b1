"""Images as readers give them, turned into network input."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedloop.errors import ModelError
from fedloop.imaging.intensity import RGB_DEVIATION, RGB_MEAN
from fedloop.settings import ImagingSettings


def memory_format(spatial_dims: int) -> torch.memory_format:
    """Channels last, 2D or 3D: the layout in which convolutions are fastest."""
    return torch.channels_last if spatial_dims == 2 else torch.channels_last_3d


def to_input(images: NDArray[Any] | torch.Tensor, imaging: ImagingSettings) -> torch.Tensor:
    """Return network input, float32, channels last, on the device of ``images``.

    Args:
        images: ``(N, C, *spatial)``, uint8 RGB in [0, 255], or float32 that a reader has already
            normalised by its case (``zscore``, ``window``) and that passes unchanged.
        imaging: its intensity kind says what uint8 means.

    Raises:
        ModelError: another dtype or number of axes, or uint8 where the campaign is not RGB.
    """
    if isinstance(images, np.ndarray):
        # A read-only array (a memory map) is copied: torch would warn about it.
        tensor = torch.from_numpy(np.require(images, requirements="W"))
    else:
        tensor = images
    spatial_dims = tensor.ndim - 2
    if spatial_dims not in (2, 3):
        raise ModelError(
            f"images must be (N, C, *2 or 3 spatial axes), found {tuple(tensor.shape)}"
        )
    if tensor.dtype == torch.uint8:
        if imaging.intensity.kind != "rgb":
            raise ModelError(
                f"found raw uint8 images, but the intensity kind is {imaging.intensity.kind!r}: "
                "such images are normalised by their reader into float32"
            )
        # One fused expression a·x + b on the target device, after the small uint8 copy moved there.
        tensor = tensor.to(torch.float32, memory_format=memory_format(spatial_dims))
        return tensor.mul_(1 / (255 * RGB_DEVIATION)).sub_(RGB_MEAN / RGB_DEVIATION)
    if tensor.dtype != torch.float32:
        raise ModelError(f"images must be uint8 or float32, found {tensor.dtype}")
    return tensor.contiguous(memory_format=memory_format(spatial_dims))
