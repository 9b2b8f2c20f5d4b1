"""The site's own copy: the global model fine-tuned once more on what only this site has.

The copy is scored and kept at the site; it never travels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from client.networks import load_networks
from client.site import Site
from client.training import train_network, training_sources
from fedloop import seeds
from fedloop.errors import WireError
from fedloop.models.card import card_of
from fedloop.models.device import Device
from fedloop.models.store import save_ensemble
from fedloop.models.weights import state_arrays
from fedloop.records import Arrays, EvaluateInstruction, TrainInstruction
from fedloop.settings import StrategySettings
from strategies.registry import build_strategy


def personalise(
    site: Site, instruction: EvaluateInstruction, members: Sequence[Arrays], device: Device
) -> tuple[nn.Module, ...]:
    """Fine-tune the members on the site's corrections and labels; saved under ``personal/``.

    Raises:
        WireError: the coordinator asked for it without training settings.
        DataError: the site has nothing to train on.
    """
    if instruction.training is None:
        raise WireError("instruction: key 'training' is needed where personal_steps > 0")
    plain = StrategySettings(name="fedavg")
    local = TrainInstruction(
        campaign=instruction.campaign,
        seed=instruction.seed,
        cycle=instruction.cycle,
        round=instruction.round,
        spec=instruction.spec,
        training=instruction.training,
        strategy=plain,
        steps=instruction.personal_steps,
        total_steps=instruction.personal_steps,
    )
    sources = training_sources(site, local)
    networks = load_networks(instruction.spec, members, device)
    for member, network in enumerate(networks):
        seed = seeds.derive(
            instruction.seed,
            site=site.name,
            cycle=instruction.cycle,
            member=member,
            purpose="personalise",
        )
        train_network(network, sources, local, build_strategy(plain), device, seed)
    card = card_of(
        instruction.spec,
        trained_with=f"site {site.name}'s own copy, campaign {instruction.campaign}",
    )
    save_ensemble(
        site.folder / "personal" / instruction.campaign,
        [state_arrays(network) for network in networks],
        card,
    )
    return networks
