"""A site's own copy: better suited to it, kept there, and no trace of it in the shared model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from client.evaluation import evaluate, evaluation_file
from client.personalise import personalise
from fedloop.errors import WireError
from fedloop.models.device import choose_device
from fedloop.models.store import load_members
from fedloop.models.weights import state_arrays
from fedloop.records import EvaluateInstruction
from fedloop.settings import TrainingSettings


@pytest.fixture
def instruction(spec) -> EvaluateInstruction:
    return EvaluateInstruction(
        campaign="c",
        seed=0,
        cycle=1,
        round=2,
        spec=spec,
        training=TrainingSettings(batch_size=4),
        personal_steps=3,
    )


def test_global_arrays_stay_what_they_are(make_site, members, instruction) -> None:
    site = make_site(labelled=("a4",), test=("a0",))
    before = [{n: a.copy() for n, a in m.items()} for m in members]
    networks = personalise(site, instruction, members, choose_device("cpu"))
    assert all(np.array_equal(a, before[k][n]) for k, m in enumerate(members) for n, a in m.items())
    own = [state_arrays(network) for network in networks]
    assert any(not np.array_equal(a, members[0][n]) for n, a in own[0].items())
    stored, card = load_members(site.folder / "personal" / "c")
    assert all(np.array_equal(a, own[k][n]) for k, m in enumerate(stored) for n, a in m.items())
    assert "site A's own copy, campaign c" in card.trained_with


def test_the_global_score_is_that_of_the_global_model(make_site, members, instruction) -> None:
    site = make_site(labelled=("a4",), test=("a0", "a1"))
    plain = evaluate(site, instruction.model_copy(update={"personal_steps": 0}), members)
    both = evaluate(site, instruction, members)
    assert "dice_personal" in both
    assert {n: v for n, v in both.items() if n != "dice_personal"} == plain
    tree = json.loads(evaluation_file(site.folder, instruction).read_text())
    assert tree["summary"]["dice_personal"] == both["dice_personal"]
    # ... and a second evaluation is not affected by the copy of the first.
    assert evaluate(site, instruction, members) == both


def test_without_training_settings_it_is_a_wire_error(make_site, members, instruction) -> None:
    site = make_site(labelled=("a4",), test=("a0",))
    broken = instruction.model_copy(update={"training": None})
    with pytest.raises(WireError, match="key 'training' is needed where personal_steps > 0"):
        evaluate(site, broken, members)
