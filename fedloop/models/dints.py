"""DiNTS with plain arguments: MONAI splits it into a search space and a network around it."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from monai.networks.nets.dints import DiNTS, TopologyInstance
from torch import nn


def build_dints(
    *,
    spatial_dims: int,
    in_channels: int,
    num_classes: int,
    arch_code: tuple[Any, Any] | None = None,
    channel_mul: float = 1.0,
    num_blocks: int = 6,
    num_depths: int = 3,
    act_name: tuple[Any, ...] | str = "RELU",
    norm_name: tuple[Any, ...] | str = ("INSTANCE", {"affine": True}),
    use_downsample: bool = True,
) -> nn.Module:
    """DiNTS with a searched architecture, or with every path and its first convolution."""
    paths = 3 * num_depths - 2
    code = arch_code or (np.ones((num_blocks, paths)), np.ones((num_blocks, paths), np.int64))
    common: dict[str, Any] = {
        "spatial_dims": spatial_dims,
        "act_name": act_name,
        "norm_name": norm_name,
        "use_downsample": use_downsample,
    }
    # The constructor prints a recommendation; the dry forward at build checks it properly.
    with contextlib.redirect_stdout(io.StringIO()):
        space = TopologyInstance(
            arch_code=[np.asarray(part) for part in code],
            channel_mul=channel_mul,
            num_blocks=num_blocks,
            num_depths=num_depths,
            **common,
        )
    network: nn.Module = DiNTS(space, in_channels, num_classes, **common)
    return network
