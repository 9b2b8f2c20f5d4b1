"""Which device computes, and how a user is told."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from fedloop.errors import ModelError
from fedloop.models.inputs import memory_format


@dataclass(frozen=True, slots=True)
class Device:
    """A compute device.

    Args:
        torch_device: what tensors and networks are moved to.
        name: the hardware's name, such as ``NVIDIA H100`` or ``CPU (8 cores)``.
        message: one plain sentence for the user.
        bfloat16: whether the hardware computes in bfloat16 itself. Where it does not, autocast
            would be emulated and slower than float32.
    """

    torch_device: torch.device
    name: str
    message: str
    bfloat16: bool

    @property
    def is_cuda(self) -> bool:
        return self.torch_device.type == "cuda"


def choose_device(wanted: str = "auto") -> Device:
    """Resolve the setting ``device`` (``auto``, ``cpu`` or ``cuda``).

    Raises:
        ModelError: ``cuda`` was asked for and there is none, or the name is unknown.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise ModelError(f"unknown device {wanted!r}; known: auto, cpu, cuda")
    if wanted == "cpu":
        return _cpu("running on the CPU as asked")
    if torch.cuda.is_available():
        return _cuda()
    if wanted == "cuda":
        raise ModelError(
            "device 'cuda' was asked for, but PyTorch finds no CUDA device: "
            "check `nvidia-smi` and that a CUDA build of torch is installed, or set device: auto"
        )
    return _cpu("no CUDA device found: running on the CPU")


def place(network: nn.Module, device: Device, spatial_dims: int) -> nn.Module:
    """Move ``network`` to the device, in the channels-last layout of the inputs; returns it."""
    # The stubs of torch omit `memory_format` alone.
    moved: nn.Module = network.to(  # type: ignore[call-overload]
        device.torch_device, memory_format=memory_format(spatial_dims)
    )
    return moved


def autocast(device: Device, enabled: bool) -> AbstractContextManager[None]:
    """Mixed precision (bfloat16) where ``enabled`` and the hardware has it, else float32."""
    return torch.autocast(device.torch_device.type, torch.bfloat16, enabled and device.bfloat16)


def _cpu(reason: str) -> Device:
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    plural = "core" if cores == 1 else "cores"
    # Without AVX-512 oneDNN has no bfloat16 convolution: autocast would fall back to a scalar one.
    bfloat16 = torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "SVE"))
    return Device(
        torch.device("cpu"), f"CPU ({cores} {plural})", f"{reason} ({cores} {plural})", bfloat16
    )


def _cuda() -> Device:
    name = torch.cuda.get_device_name()
    gigabytes = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Device(
        torch.device("cuda"),
        name,
        f"running on {name} ({gigabytes:.0f} GiB)",
        torch.cuda.is_bf16_supported(including_emulation=False),
    )
