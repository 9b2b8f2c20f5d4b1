"""How each MONAI network is constructed: one small entry per network."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from monai.networks import nets
from torch import nn

from fedloop.configuration import suggest
from fedloop.errors import ModelError
from fedloop.models.dints import build_dints
from fedloop.settings import ModelSettings

_LOG = logging.getLogger(__name__)
_NETS: Any = nets  # MONAI re-exports its networks without __all__, which strict typing refuses
_WARNED: set[str] = set()


@dataclass(frozen=True)
class Task:
    """What the data dictate: spatial dimensions, channels in, classes out, patch size."""

    spatial_dims: int
    in_channels: int
    classes: int
    patch_size: tuple[int, ...]


@dataclass(frozen=True)
class Adapter:
    """How one network is constructed.

    Args:
        construct: the class, or a function with an inspectable signature.
        fixed: arguments that the task decides (or that fedloop does not let a configuration set),
            by name. They cannot be given as parameters.
        defaults: parameters for a configuration that names the network only.
    """

    construct: Callable[..., nn.Module]
    fixed: Callable[[Task], dict[str, Any]]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def allowed(self, task: Task) -> list[str]:
        """Names of the parameters a configuration may set."""
        names = list(inspect.signature(self.construct).parameters)
        return [name for name in names if name not in self.fixed(task)]


def _usual(task: Task) -> dict[str, Any]:
    return {
        "spatial_dims": task.spatial_dims,
        "in_channels": task.in_channels,
        "out_channels": task.classes,
    }


def _without_download(construct: Callable[..., nn.Module]) -> Callable[[Task], dict[str, Any]]:
    # Pretrained weights are downloads, which a hospital's site must never attempt.
    extra = {"pretrained": False} if "pretrained" in inspect.signature(construct).parameters else {}
    return lambda task: _usual(task) | extra


def _dynunet(task: Task) -> dict[str, Any]:
    # Deep supervision adds an axis in training only; the loss sees one output.
    return _usual(task) | {"deep_supervision": False, "deep_supr_num": 1}


def _unetr(task: Task) -> dict[str, Any]:
    return _usual(task) | {"img_size": task.patch_size}


def _dints_fixed(task: Task) -> dict[str, Any]:
    return {
        "spatial_dims": task.spatial_dims,
        "in_channels": task.in_channels,
        "num_classes": task.classes,
    }


_LEVELS = {"channels": [16, 32, 64, 128], "strides": [2, 2, 2]}

ADAPTERS: dict[str, Adapter] = {
    "UNet": Adapter(_NETS.UNet, _usual, ModelSettings().parameters),
    "DynUNet": Adapter(
        _NETS.DynUNet,
        _dynunet,
        {"kernel_size": [3] * 4, "strides": [1, 2, 2, 2], "upsample_kernel_size": [2] * 3},
    ),
    "SegResNet": Adapter(_NETS.SegResNet, _usual),
    "UNETR": Adapter(_NETS.UNETR, _unetr),
    "SwinUNETR": Adapter(_NETS.SwinUNETR, _usual),
    "AttentionUnet": Adapter(_NETS.AttentionUnet, _usual, _LEVELS),
    "FlexibleUNet": Adapter(
        _NETS.FlexibleUNet,
        _without_download(_NETS.FlexibleUNet),
        {"backbone": "efficientnet-b0"},
    ),
    "DiNTS": Adapter(build_dints, _dints_fixed),
}
"""The tested networks."""


def find_adapter(name: str) -> Adapter:
    """Return the tested adapter, or one for any other MONAI class with the usual arguments.

    Raises:
        ModelError: there is no such network, or its arguments are not the usual ones.
    """
    if name in ADAPTERS:
        return ADAPTERS[name]
    others = _others()
    if name not in others:
        near = suggest(name, [*ADAPTERS, *others])
        raise ModelError(f"unknown network {name!r}{near}")
    if name not in _WARNED:
        _WARNED.add(name)
        _LOG.warning("network %s is not among the tested ones (%s)", name, ", ".join(ADAPTERS))
    return Adapter(others[name], _without_download(others[name]))


def _others() -> dict[str, Callable[..., nn.Module]]:
    """MONAI networks outside the table that take dimensions, channels and classes by name."""
    members: dict[str, Any] = vars(_NETS)
    # MONAI exports most networks under several spellings; only the class's own name counts.
    return {
        name: value
        for name, value in members.items()
        if name not in ADAPTERS and _is_usual(value) and value.__name__ == name
    }


def _is_usual(value: object) -> bool:
    if not (inspect.isclass(value) and issubclass(value, nn.Module)):
        return False
    usual = {"spatial_dims", "in_channels", "out_channels"}
    return usual <= set(inspect.signature(value).parameters)
