"""A site learns from what it has, and only from that."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.selection import select
from client.site import AnnotatorSettings
from client.training import train, training_sources
from fedloop.errors import DataError
from fedloop.imaging.case import IGNORE
from fedloop.models.registry import build_network
from fedloop.models.weights import norm_names
from fedloop.settings import StrategySettings, TrainingSettings

CORRECTED = {"pool": ("a0", "a1"), "annotator": AnnotatorSettings(name="simulated")}


@pytest.fixture
def corrected_site(make_site, select_instruction, members):
    """A site whose first cycle is selected and corrected."""

    def make(name: str = "A", **options):
        site = make_site(name, **(CORRECTED | options))
        select(site, select_instruction(), members)
        return site

    return make


def names(site, instruction) -> list[tuple[str, int]]:
    return [(s.name, len(s.labels)) for s in training_sources(site, instruction)]


def equal(a, b) -> bool:
    return all(np.array_equal(x[n], y[n]) for x, y in zip(a, b, strict=True) for n in x)


# ------------------------------------------------------------------ sources


def test_only_labelled(make_site, train_instruction, members) -> None:
    site = make_site(labelled=("a4", "a5"))
    assert names(site, train_instruction()) == [("labelled", 8)]
    answer = train(site, train_instruction(), members)
    assert answer.metrics.keys() == {"examples", "corrected_patches", "steps", "loss"}
    assert (answer.metrics["examples"], answer.metrics["corrected_patches"]) == (8, 0)


def test_only_corrections(corrected_site, train_instruction, members) -> None:
    site = corrected_site()
    found = names(site, train_instruction())
    assert found[0] == ("corrected", 3)
    assert [name for name, _ in found] in (["corrected"], ["corrected", "agreed"])
    answer = train(site, train_instruction(), members)
    assert (answer.metrics["examples"], answer.metrics["corrected_patches"]) == (3, 3)


def test_both(corrected_site, train_instruction, members) -> None:
    site = corrected_site(labelled=("a4", "a5"))
    assert names(site, train_instruction())[:2] == [("labelled", 8), ("corrected", 3)]
    answer = train(site, train_instruction(), members)
    assert (answer.metrics["examples"], answer.metrics["corrected_patches"]) == (11, 3)


def test_the_igniter_looks_at_its_own_labels_alone(corrected_site, train_instruction) -> None:
    site = corrected_site(labelled=("a4",))
    assert names(site, train_instruction(labels="site")) == [("labelled", 4)]


def test_nothing_to_train_on(make_site, train_instruction, members) -> None:
    with pytest.raises(DataError, match="site 'A' has neither labelled cases nor corrections"):
        train(make_site(pool=("a0",)), train_instruction(), members)


def test_corrections_of_later_cycles_and_other_campaigns_do_not_count(
    corrected_site, train_instruction
) -> None:
    site = corrected_site(labelled=("a4",))
    assert names(site, train_instruction(cycle=0)) == [("labelled", 4)]
    assert names(site, train_instruction(campaign="d")) == [("labelled", 4)]


def test_corrected_patches_are_no_pseudo_labels(corrected_site, train_instruction, members) -> None:
    site = corrected_site()
    agreed = [s for s in training_sources(site, train_instruction()) if s.name == "agreed"]
    if agreed:
        assert len(agreed[0].labels) <= 8 - 3
        assert (agreed[0].labels != IGNORE).reshape(len(agreed[0].labels), -1).any(1).all()
    off = TrainingSettings(batch_size=4, pseudo_label_share=0.0)
    assert names(site, train_instruction(training=off)) == [("corrected", 3)]


def test_a_pool_that_changed_since_is_refused(
    corrected_site, make_site, train_instruction, members
) -> None:
    site = corrected_site()
    changed = make_site("A", **(CORRECTED | {"pool": ("a0", "a1", "a2")}))
    assert changed.folder == site.folder
    with pytest.raises(DataError, match="its pool has changed since patches were selected"):
        training_sources(changed, train_instruction())


# ------------------------------------------------------------------ repeatable


def test_equal_seeds_give_equal_weights(corrected_site, train_instruction, members) -> None:
    site = corrected_site(labelled=("a4",))
    first = train(site, train_instruction(), members)
    torch.manual_seed(99)  # what other code drew before does not matter
    np.random.seed(99)
    second = train(site, train_instruction(), members)
    assert equal(first.members, second.members)
    assert first.metrics == second.metrics


@pytest.mark.parametrize("change", [{"seed": 6}, {"round": 2}, {"cycle": 2}])
def test_another_seed_round_or_cycle_gives_others(
    corrected_site, train_instruction, members, change
) -> None:
    site = corrected_site(labelled=("a4",))
    base = train(site, train_instruction(), members)
    assert not equal(base.members, train(site, train_instruction(**change), members).members)


def test_members_draw_apart(make_site, train_instruction, members) -> None:
    twins = [members[0], members[0]]
    answer = train(make_site(labelled=("a4",)), train_instruction(), twins)
    assert not equal(answer.members[:1], answer.members[1:])


def test_received_arrays_are_not_written_to(make_site, train_instruction, members) -> None:
    before = [{n: a.copy() for n, a in m.items()} for m in members]
    answer = train(make_site(labelled=("a4",)), train_instruction(), members)
    assert equal(before, members)
    assert not equal(answer.members, members)
    assert all(
        answer.members[k][n].dtype == a.dtype for k, m in enumerate(members) for n, a in m.items()
    )


# ------------------------------------------------------------------ what does not count


def test_ignored_voxels_do_not_train(
    make_site, select_instruction, train_instruction, members
) -> None:
    site = make_site(pool=("a0", "a1"))
    select(site, select_instruction(), members)
    for item in site.store.items("c", 1):
        unknown = np.full((16, 16), IGNORE, np.uint8)
        site.store.correct(item, unknown, corrected_px=0, seconds=0, reader="x")
    settings = TrainingSettings(
        batch_size=4,
        pseudo_label_share=0.0,
        optimiser={"name": "sgd", "weight_decay": 0.0},  # type: ignore[arg-type]
    )
    answer = train(site, train_instruction(training=settings), members)
    for k, arrays in enumerate(answer.members):
        weights = [name for name in arrays if "running" not in name]
        assert all(np.array_equal(arrays[name], members[k][name]) for name in weights)
    assert answer.metrics["loss"] == 0


def test_running_statistics_follow_the_site_s_images(make_site, train_instruction, members) -> None:
    answer = train(make_site(labelled=("a4",)), train_instruction(), members)
    moved = [n for n, a in members[0].items() if not np.array_equal(a, answer.members[0][n])]
    assert any("running_mean" in n for n in moved)


# ------------------------------------------------------------------ strategies


def test_fedbn_keeps_norm_layers_at_the_site(make_site, train_instruction, members, spec) -> None:
    network = build_network(
        spec.model, spatial_dims=2, in_channels=3, classes=2, patch_size=(16, 16), seed=0
    )
    norms = norm_names(network)
    site = make_site(labelled=("a4",))
    instruction = train_instruction(strategy=StrategySettings(name="fedbn"))
    answer = train(site, instruction, members)
    assert set(answer.members[0]) == set(members[0]) - norms
    assert len(list((site.folder / "local" / "c").iterdir())) == 2
    # A repeat of the round starts from the received norm layers again, not from its own result.
    assert equal(train(site, instruction, members).members, answer.members)
    # The next round starts from the site's own.
    following = train_instruction(strategy=StrategySettings(name="fedbn"), round=2)
    other = train(make_site("B", labelled=("a4",)), following, members)
    assert not equal(train(site, following, members).members, other.members)


def test_fedprox_pulls_towards_the_received_weights(make_site, train_instruction, members) -> None:
    site = make_site(labelled=("a4", "a5"))
    settings = TrainingSettings(
        batch_size=4,
        amp=False,
        optimiser={"name": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0},  # type: ignore[arg-type]
    )

    def distance(mu: float) -> float:
        strategy = StrategySettings(name="fedprox", parameters={"mu": mu})
        instruction = train_instruction(training=settings, strategy=strategy, steps=6)
        answer = train(site, instruction, members)
        return sum(
            float(np.square(a - members[0][n]).sum())
            for n, a in answer.members[0].items()
            if "running" not in n
        )

    assert distance(5.0) < 0.9 * distance(0.0)


def test_the_learning_rate_follows_one_cosine_over_the_campaign(
    make_site, train_instruction, members
) -> None:
    site = make_site(labelled=("a4",))
    last = train_instruction(first_step=1000, total_steps=1001, steps=1)
    early = train_instruction(first_step=0, total_steps=1001, steps=1)

    def moved(instruction) -> float:
        answer = train(site, instruction, members)
        return max(
            float(np.abs(a - members[0][n]).max())
            for n, a in answer.members[0].items()
            if "running" not in n
        )

    assert moved(last) < 0.05 * moved(early)
