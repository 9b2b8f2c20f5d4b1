"""Simulation against the same training steps in a bare PyTorch loop: wall time and peak memory.

    python benchmarks/simulation_overhead.py [--sites 5] [--rounds 10] [--steps 20] [--repeats 3]

Both sides train the same networks on the same patches for the same number of steps, one thread
each, in a fresh process per repeat. The simulation adds what makes it a federation: messages
encoded, checked and decoded, weights averaged, a checkpoint flushed to disk after every round.
Reading images and importing libraries is left out of both times; memory is the whole process's.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE, PATCH, TILES = 512, 64, 4
CLASSES = ("background", "foreground")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sites", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20, help="local steps per round and member")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="profile one simulation instead")
    parser.add_argument("--worker", choices=("bare", "simulation"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(_measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        _write_tiles(Path(folder) / "data", arguments.sites)
        _compare(arguments, Path(folder))


def _compare(arguments: argparse.Namespace, folder: Path) -> None:
    found: dict[str, list[dict[str, float]]] = {"bare": [], "simulation": []}
    if arguments.profile:
        _run("simulation", arguments, folder, 0, profile=True)
        return
    for repeat in range(arguments.repeats):
        for side in found:  # in turn, so that a drift of the machine meets both
            found[side].append(_run(side, arguments, folder, repeat))
    steps = arguments.sites * arguments.rounds * arguments.steps * arguments.members
    print(f"{steps} training steps, {arguments.repeats} repeats (medians)")
    print(f"{'':12}{'seconds':>9}{'ms/step':>9}{'peak MiB':>10}")
    medians = {}
    for side, runs in found.items():
        medians[side] = {k: statistics.median(run[k] for run in runs) for k in runs[0]}
        m = medians[side]
        print(f"{side:12}{m['seconds']:9.2f}{1e3 * m['seconds'] / steps:9.2f}{m['peak_mib']:10.0f}")
    pairs = zip(found["simulation"], found["bare"], strict=True)
    ratios = [s["seconds"] / b["seconds"] for s, b in pairs]
    memory = medians["simulation"]["peak_mib"] / medians["bare"]["peak_mib"]
    print(
        f"time ratio {statistics.median(ratios):.3f} (pairs {min(ratios):.3f} to "
        f"{max(ratios):.3f}), memory ratio {memory:.2f}"
    )


def _run(
    side: str, arguments: argparse.Namespace, folder: Path, repeat: int, *, profile: bool = False
) -> dict[str, float]:
    command = [sys.executable]
    if profile:
        command += ["-m", "cProfile", "-s", "tottime"]
    command += [__file__, "--worker", side, "--folder", str(folder / f"{side}_{repeat}")]
    for name in ("sites", "rounds", "steps", "members"):
        command += [f"--{name}", str(getattr(arguments, name))]
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    if profile:
        print("\n".join(done.stdout.splitlines()[:45]))
        return {}
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _write_tiles(root: Path, sites: int) -> None:
    """Noise tiles with discs: what they show does not matter here."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for site in range(sites):
        for kind in ("images", "labels"):
            (root / f"site_{site}" / kind).mkdir(parents=True)
        for tile in range(TILES):
            y, x = rng.integers(0, SIDE, 2)
            disc = np.hypot(rows - y, columns - x) < SIDE / 3
            image = rng.integers(0, 200, (SIDE, SIDE, 3), dtype=np.uint8) + 55 * disc[..., None]
            name = f"site_{site}_{tile}.png"
            Image.fromarray(image.astype(np.uint8)).save(root / f"site_{site}" / "images" / name)
            Image.fromarray(disc).save(root / f"site_{site}" / "labels" / name)


def _measure(arguments: argparse.Namespace) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    run = _bare if arguments.worker == "bare" else _simulation
    seconds = run(arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mib": peak}


def _spec(arguments: argparse.Namespace) -> Any:
    from fedloop.settings import ImagingSettings, ModelSettings, ModelSpec

    return ModelSpec(
        model=ModelSettings(members=arguments.members),
        imaging=ImagingSettings(patch_size=(PATCH, PATCH)),
        classes=CLASSES,
    )


def _simulation(arguments: argparse.Namespace) -> float:
    from client.site import SITE_FILE, SiteSettings, open_site
    from fedloop.configuration import save
    from fedloop.models.card import card_of
    from fedloop.models.registry import build_network
    from fedloop.models.store import save_ensemble
    from fedloop.models.weights import state_arrays
    from fedloop.settings import (
        CampaignSettings,
        DataSettings,
        FederationSettings,
        SelectionSettings,
    )
    from server.app import CAMPAIGN_FILE
    from simulation.engines.inprocess import run_campaign

    folder, spec = arguments.folder, _spec(arguments)
    names = [f"site_{i}" for i in range(arguments.sites)]
    sites = {}
    for name in names:
        sites[name] = folder / name
        sites[name].mkdir(parents=True)
        cases = tuple(f"{name}_{i}" for i in range(TILES))
        settings = SiteSettings(
            name=name,
            data=DataSettings(root=folder.parent / "data", classes=CLASSES),
            labelled=cases,
            threads=1,
        )
        save(settings, sites[name] / SITE_FILE)
        open_site(sites[name]).bank("labelled", spec.imaging, with_labels=True)
    network = build_network(
        spec.model, spatial_dims=2, in_channels=3, classes=2, patch_size=(PATCH, PATCH), seed=0
    )
    start = [state_arrays(network)] * arguments.members
    save_ensemble(folder / "start", start, card_of(spec, trained_with="nothing"))
    campaign = CampaignSettings(
        campaign="benchmark",
        seed=0,
        spec=spec,
        federation=FederationSettings(rounds=arguments.rounds, steps_per_round=arguments.steps),
        selection=SelectionSettings(),
        initial_model=folder / "start",
        training_sites=tuple(names),
    )
    place = folder / "campaign"
    place.mkdir()
    save(campaign, place / CAMPAIGN_FILE)
    started = time.perf_counter()
    run_campaign(place, sites)
    return time.perf_counter() - started


def _bare(arguments: argparse.Namespace) -> float:
    import torch

    from fedloop.imaging.bank import load_bank
    from fedloop.imaging.dataset import open_dataset
    from fedloop.models.augment import augment
    from fedloop.models.device import autocast, choose_device
    from fedloop.models.inputs import memory_format, to_input
    from fedloop.models.losses import build_loss
    from fedloop.models.registry import build_network
    from fedloop.settings import AugmentSettings, DataSettings

    spec, device = _spec(arguments), choose_device("cpu")
    dataset = open_dataset(
        DataSettings(root=arguments.folder.parent / "data", classes=CLASSES), spec.imaging
    )
    banks = [load_bank(cases, spec.imaging) for cases in dataset.centers.values()]
    loss_function = build_loss("dice_ce", 2)
    networks = [
        build_network(
            spec.model, spatial_dims=2, in_channels=3, classes=2, patch_size=(PATCH, PATCH), seed=0
        ).to(memory_format=memory_format(2))
        for _ in range(arguments.members)
    ]
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    started = time.perf_counter()
    for _ in range(arguments.rounds):
        for bank in banks:
            for network in networks:
                optimiser = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)
                network.train()
                for _ in range(arguments.steps):
                    index = rng.integers(0, len(bank), 16)
                    images, labels = augment(
                        to_input(bank.images[index], spec.imaging),
                        torch.from_numpy(bank.labels[index]),
                        AugmentSettings(),
                        generator,
                    )
                    optimiser.zero_grad(set_to_none=True)
                    with autocast(device, enabled=True):
                        logits = network(images)
                    loss_function(logits, labels).backward()
                    optimiser.step()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
