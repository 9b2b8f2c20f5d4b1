"""A stored ensemble comes back exactly, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedloop.errors import ModelError
from fedloop.models.card import ModelCard, card_of
from fedloop.models.registry import build_network
from fedloop.models.store import load_card, load_ensemble, load_members, save_ensemble
from fedloop.models.weights import state_arrays
from fedloop.settings import ImagingSettings, ModelSettings, ModelSpec

torch.set_num_threads(1)

CARD = ModelCard(
    model=ModelSettings(parameters={"channels": [4, 8], "strides": [2]}, members=2),
    imaging=ImagingSettings(patch_size=(16, 16), mpp=2.0),
    classes=("background", "tumour"),
    in_channels=3,
    spatial_dims=2,
    trained_with="two synthetic slides",
)


def members(first_seed: int = 0) -> list[torch.nn.Module]:
    return [
        build_network(
            CARD.model, spatial_dims=2, in_channels=3, classes=2, patch_size=(16, 16), seed=s
        )
        for s in (first_seed, first_seed + 1)
    ]


def save(folder: Path, first_seed: int = 0) -> ModelCard:
    return save_ensemble(folder, [state_arrays(n) for n in members(first_seed)], CARD)


def test_round_trip(tmp_path: Path) -> None:
    written = save(tmp_path / "new" / "model")
    networks, card = load_ensemble(tmp_path / "new" / "model")
    assert card == written
    assert card.model_copy(update={"digests": ()}) == CARD
    images = torch.randn(1, 3, 16, 16)
    for loaded, original in zip(networks, members(), strict=True):
        assert not loaded.training
        assert torch.equal(loaded(images), original.eval()(images))


def test_replacing_leaves_only_the_new_members(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    card = save(tmp_path, first_seed=5)
    assert load_card(tmp_path) == card
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert (tmp_path / "notes.txt").exists()


def test_a_crash_before_the_card_keeps_the_old_ensemble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = save(tmp_path)

    def crash(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("fedloop.models.store.configuration.save", crash)
    with pytest.raises(ModelError, match="cannot be written: disk full"):
        save(tmp_path, first_seed=5)
    assert load_members(tmp_path)[1] == old


def test_transposed_arrays_survive(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    save_ensemble(tmp_path, [{"a": array}], CARD)
    loaded, _ = load_members(tmp_path)
    np.testing.assert_array_equal(loaded[0]["a"], array)


def test_altered_member_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    path = sorted(tmp_path.glob("*.safetensors"))[1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"member-1-.*altered or damaged"):
        load_ensemble(tmp_path)


def test_missing_member_is_named(tmp_path: Path) -> None:
    save(tmp_path)
    next(tmp_path.glob("member-0-*")).unlink()
    with pytest.raises(ModelError, match="member 0 of the model cannot be read"):
        load_ensemble(tmp_path)


@pytest.mark.parametrize("text", ["", "classes: [a]", "digests: [../../etc/passwd]", "a: [b"])
def test_wrong_card(tmp_path: Path, text: str) -> None:
    save(tmp_path)
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(ModelError, match="not a stored model"):
        load_ensemble(tmp_path)


def test_no_model_and_no_members(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such configuration file"):
        load_card(tmp_path)
    with pytest.raises(ModelError, match="at least one member"):
        save_ensemble(tmp_path, [], CARD)


def test_card_of_a_campaign_says_what_its_spec_says() -> None:
    spec = ModelSpec(
        model=CARD.model, imaging=CARD.imaging, classes=CARD.classes, in_channels=CARD.in_channels
    )
    assert card_of(spec, trained_with=CARD.trained_with) == CARD
