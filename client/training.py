"""Answer to ``train``: fine-tune every member on what this site may learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from client.batches import BatchSampler, Source
from client.localstate import LocalState
from client.networks import load_networks, norm_arrays
from client.pool import remembered_view
from client.site import Site
from fedloop import seeds
from fedloop.errors import DataError
from fedloop.imaging.case import IGNORE
from fedloop.models.augment import augment
from fedloop.models.device import Device, autocast, choose_device
from fedloop.models.inputs import to_input
from fedloop.models.losses import build_loss
from fedloop.models.optimisers import build_optimiser, cosine
from fedloop.models.weights import state_arrays
from fedloop.records import Arrays, TrainInstruction
from strategies.base import Strategy
from strategies.registry import build_strategy


@dataclass(frozen=True)
class TrainingAnswer:
    """What goes back: the shared arrays of each member, and scalars."""

    members: list[Arrays]
    metrics: dict[str, float]


def train(site: Site, instruction: TrainInstruction, members: Sequence[Arrays]) -> TrainingAnswer:
    """Train all members for one round.

    Raises:
        DataError: the site has nothing to train on.
    """
    device = choose_device(site.settings.device)
    sources = training_sources(site, instruction)
    strategy = build_strategy(instruction.strategy)
    local = LocalState(site.folder / "local" / instruction.campaign)
    norms = norm_arrays(instruction.spec, device)
    # Only what stays here under this strategy: another one asked for later must not take it along.
    started = local.overlay(
        instruction, members, before=True, keep=lambda name: strategy.is_local(name, norms)
    )
    networks = load_networks(instruction.spec, started, device)
    losses, shared, kept = [], [], []
    for member, network in enumerate(networks):
        seed = seeds.derive(
            instruction.seed,
            site=site.name,
            cycle=instruction.cycle,
            round=instruction.round,
            member=member,
            purpose="train",
        )
        losses.append(train_network(network, sources, instruction, strategy, device, seed))
        arrays = state_arrays(network)
        shared.append({n: a for n, a in arrays.items() if not strategy.is_local(n, norms)})
        kept.append({n: a for n, a in arrays.items() if strategy.is_local(n, norms)})
    if any(kept):
        local.save(instruction, kept)
    own = {s.name: len(s.labels) for s in sources if s.name != "agreed"}
    return TrainingAnswer(
        members=shared,
        metrics={
            "examples": float(sum(own.values())),
            "corrected_patches": float(own.get("corrected", 0)),
            "steps": float(instruction.steps),
            "loss": float(np.mean(losses)),
        },
    )


def training_sources(site: Site, instruction: TrainInstruction) -> list[Source]:
    """What this site learns from: its own labels, corrections, and pool patches all members agree
    on. Shares follow the study's batches of 6 labelled, 6 corrected and 4 agreed patches.

    Raises:
        DataError: nothing to train on.
    """
    imaging = instruction.spec.imaging
    sources: list[Source] = []
    agreed_share = instruction.training.pseudo_label_share
    own_share = 1.0 - agreed_share
    if site.settings.labelled:
        bank = site.bank("labelled", imaging, with_labels=True)
        sources.append(Source("labelled", bank.images, bank.labels, own_share, balanced=True))
    if instruction.labels == "corrections":
        sources += _correction_sources(site, instruction, own_share, agreed_share)
    if not sources:
        raise DataError(
            f"site {site.name!r} has neither labelled cases nor corrections to train on"
        )
    return sources


def _correction_sources(
    site: Site, instruction: TrainInstruction, own_share: float, agreed_share: float
) -> list[Source]:
    corrections = site.store.corrections(instruction.campaign, up_to_cycle=instruction.cycle)
    if not corrections:
        return []
    bank = site.bank("pool", instruction.spec.imaging, with_labels=False)
    index = [correction.item.pool_index for correction in corrections]
    masks = np.stack([correction.mask for correction in corrections])
    found = [Source("corrected", bank.images[index], masks, own_share)]
    view = remembered_view(site, instruction.campaign, instruction.cycle)
    if view is None or agreed_share == 0:
        return found
    if not np.array_equal(view.cell, bank.cell) or not np.array_equal(view.case, bank.case):
        raise DataError(f"site {site.name!r}: its pool has changed since patches were selected")
    agreed = view.agreed
    rest = np.setdiff1d(np.arange(len(agreed)), index)
    known = (agreed[rest] != IGNORE).any(axis=tuple(range(1, agreed.ndim)))
    rest = rest[known]
    if len(rest):
        found.append(Source("agreed", bank.images[rest], agreed[rest], agreed_share))
    return found


def train_network(
    network: nn.Module,
    sources: Sequence[Source],
    instruction: TrainInstruction,
    strategy: Strategy[Any],
    device: Device,
    seed: int,
) -> float:
    """Train one network in place; returns the mean loss over the steps."""
    settings = instruction.training
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    sampler = BatchSampler(sources, settings.batch_size, rng)
    loss_function = build_loss(settings.loss, len(instruction.spec.classes))
    base = settings.optimiser.learning_rate
    optimiser = build_optimiser(network.parameters(), settings.optimiser, learning_rate=base)
    received = {n: p.detach().clone() for n, p in network.named_parameters()}
    total = torch.zeros((), device=device.torch_device)
    network.train()
    devices = [device.torch_device] if device.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)  # dropout and stochastic depth draw from the global generator
        for step in range(instruction.steps):
            factor = cosine(instruction.first_step + step, instruction.total_steps)
            for group in optimiser.param_groups:
                group["lr"] = base * factor
            images, labels = _batch(sampler, instruction, generator, device)
            optimiser.zero_grad(set_to_none=True)
            with autocast(device, settings.amp):
                logits = network(images)
            loss = loss_function(logits, labels)
            total += loss.detach()
            penalty = strategy.penalty(network, received)
            (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    network.eval()
    return float(total / instruction.steps)


def _batch(
    sampler: BatchSampler,
    instruction: TrainInstruction,
    generator: torch.Generator,
    device: Device,
) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = sampler.draw()
    inputs = to_input(images, instruction.spec.imaging)
    inputs, targets = augment(
        inputs, torch.from_numpy(labels), instruction.training.augment, generator
    )
    return inputs.to(device.torch_device), targets.to(device.torch_device)
