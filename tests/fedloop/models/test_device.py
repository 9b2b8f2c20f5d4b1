from __future__ import annotations

import pytest
import torch

from fedloop.errors import ModelError
from fedloop.models.device import autocast, choose_device, place

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")


def test_cpu_says_why() -> None:
    device = choose_device("cpu")
    assert device.torch_device.type == "cpu"
    assert "CPU as asked" in device.message
    assert not device.is_cuda


@NO_CUDA
def test_auto_falls_back_and_cuda_is_refused() -> None:
    assert choose_device("auto").message.startswith("no CUDA device found: running on the CPU (")
    with pytest.raises(ModelError, match="no CUDA device: check"):
        choose_device("cuda")


def test_unknown_name() -> None:
    with pytest.raises(ModelError, match="known: auto, cpu, cuda"):
        choose_device("tpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_is_named() -> None:
    assert "GiB" in choose_device("auto").message


def test_autocast_follows_the_setting() -> None:
    device = choose_device("cpu")
    layer = torch.nn.Linear(2, 2)
    with autocast(device, False):
        assert layer(torch.ones(1, 2)).dtype == torch.float32
    with autocast(device, True):
        expected = torch.bfloat16 if device.bfloat16 else torch.float32
        assert layer(torch.ones(1, 2)).dtype == expected


def test_place_sets_the_layout() -> None:
    network = place(torch.nn.Conv2d(3, 4, 3), choose_device("cpu"), 2)
    assert next(network.parameters()).is_contiguous(memory_format=torch.channels_last)
