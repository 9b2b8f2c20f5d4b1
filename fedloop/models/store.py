"""An ensemble in a folder: safetensors per member and a card that says what it is.

``model.yaml`` names the members by their SHA-256. It is replaced last and atomically, so a folder
holds the old ensemble or the new one at any moment, never a mixture.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import nn

from fedloop import configuration
from fedloop.errors import ModelError, SettingsError
from fedloop.models.card import ModelCard, card_of
from fedloop.models.registry import build_network
from fedloop.models.weights import load_arrays

__all__ = [
    "CARD_FILE",
    "ModelCard",
    "card_of",
    "load_card",
    "load_ensemble",
    "load_members",
    "save_ensemble",
]

CARD_FILE = "model.yaml"
_MEMBER_FILE = re.compile(r"member-\d+-[0-9a-f]{12}\.safetensors")


def save_ensemble(
    folder: Path, members: Sequence[Mapping[str, NDArray[Any]]], card: ModelCard
) -> ModelCard:
    """Write ``members`` (see :func:`fedloop.models.weights.state_arrays`) and their card.

    An ensemble already there is replaced. Returns the card as written, with digests.

    Raises:
        ModelError: there are no members, or the folder cannot be written.
    """
    if not members:
        raise ModelError(f"{folder}: an ensemble needs at least one member")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        digests = tuple(_write_member(folder, i, member) for i, member in enumerate(members))
        card = card.model_copy(update={"digests": digests})
        configuration.save(card, folder / CARD_FILE)
        wanted = {_member_file(i, digest) for i, digest in enumerate(digests)}
        for path in folder.iterdir():
            if _MEMBER_FILE.fullmatch(path.name) and path.name not in wanted:
                path.unlink()
    except OSError as error:
        raise ModelError(f"{folder}: the model cannot be written: {error}") from error
    return card


def load_card(folder: Path) -> ModelCard:
    """Read the card alone.

    Raises:
        ModelError: the folder holds no model, or its card is wrong.
    """
    try:
        card = configuration.load(ModelCard, folder / CARD_FILE)
    except SettingsError as error:
        raise ModelError(f"{folder}: not a stored model: {error}") from error
    if not card.digests:
        raise ModelError(f"{folder}: the card names no members")
    return card


def load_members(folder: Path) -> tuple[list[dict[str, NDArray[Any]]], ModelCard]:
    """Read the members' arrays, each verified by its digest, and the card.

    Raises:
        ModelError: the folder holds no model; a file is missing, altered or damaged.
    """
    card = load_card(folder)
    return [_read_member(folder, i, digest) for i, digest in enumerate(card.digests)], card


def load_ensemble(folder: Path) -> tuple[list[nn.Module], ModelCard]:
    """Build the networks of a stored ensemble (on the CPU, evaluation mode) and return its card.

    Raises:
        ModelError: as :func:`load_members`, or the weights do not fit the network of the card.
    """
    members, card = load_members(folder)
    networks = []
    for arrays in members:
        network = build_network(
            card.model,
            spatial_dims=card.spatial_dims,
            in_channels=card.in_channels,
            classes=len(card.classes),
            patch_size=card.imaging.patch_size,
            seed=0,
        )
        load_arrays(network, arrays)
        networks.append(network.eval())
    return networks, card


def _member_file(index: int, digest: str) -> str:
    """File name with the digest in it: a new ensemble never overwrites the old one's files."""
    return f"member-{index}-{digest[:12]}.safetensors"


def _write_member(folder: Path, index: int, arrays: Mapping[str, NDArray[Any]]) -> str:
    # safetensors stores raw memory: a transposed view would come back scrambled.
    content = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    digest = hashlib.sha256(content).hexdigest()
    path = folder / _member_file(index, digest)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return digest


def _read_member(folder: Path, index: int, digest: str) -> dict[str, NDArray[Any]]:
    path = folder / _member_file(index, digest)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: member {index} of the model cannot be read: {error}") from error
    # The bytes that were verified are the bytes that are parsed: the file is not opened twice.
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise ModelError(
            f"{path}: the file was altered or damaged (SHA-256 {found[:12]}…, the card says "
            f"{digest[:12]}…): copy the model again from its source"
        )
    try:
        arrays: dict[str, NDArray[Any]] = load(content)
    except SafetensorError as error:
        raise ModelError(f"{path}: not a safetensors file: {error}") from error
    return arrays
