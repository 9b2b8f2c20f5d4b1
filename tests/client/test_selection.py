"""A cycle is selected once, and no patch is asked for twice."""

from __future__ import annotations

import numpy as np
import pytest

from client.pool import remembered_view
from client.selection import select
from client.site import AnnotatorSettings
from fedloop.errors import SelectionError, SettingsError


def chosen(site, cycle: int = 1) -> list[int]:
    return [item.pool_index for item in site.store.items("c", cycle)]


def test_only_counts_are_told(make_site, select_instruction, members) -> None:
    site = make_site(pool=("a0", "a1"))
    answer = select(site, select_instruction(), members)
    assert answer.keys() == {"pool_patches", "selected_patches", "predicted_foreground"}
    assert (answer["pool_patches"], answer["selected_patches"]) == (8, 3)
    assert 0 <= answer["predicted_foreground"] <= 1
    items = site.store.items("c", 1)
    assert [item.rank for item in items] == [0, 1, 2]
    assert {item.case_id for item in items} <= {"a0", "a1"}


def test_a_repeated_request_gets_the_first_answer(
    make_site, select_instruction, members, monkeypatch
) -> None:
    site = make_site(pool=("a0", "a1"))
    first = select(site, select_instruction(), members)
    queue = chosen(site)
    monkeypatch.setattr("client.selection.view_pool", None)
    moved = [{n: a + np.float32(1) for n, a in m.items()} for m in members]
    assert select(site, select_instruction(patches=7), moved) == first
    assert chosen(site) == queue


@pytest.mark.parametrize("strategy", ["random", "anchors_doubt", "uga"])
def test_later_cycles_never_choose_a_patch_again(
    make_site, select_instruction, members, strategy: str
) -> None:
    site = make_site(pool=("a0", "a1"))
    for cycle in (1, 2, 3):
        select(site, select_instruction(cycle, strategy=strategy), members)
    queues = [chosen(site, cycle) for cycle in (1, 2, 3)]
    assert [len(queue) for queue in queues] == [3, 3, 2]  # then the pool is empty
    assert sorted(index for queue in queues for index in queue) == list(range(8))
    with pytest.raises(SelectionError, match="empty"):
        select(site, select_instruction(4, strategy=strategy), members)


def test_items_point_at_what_was_seen(make_site, select_instruction, members) -> None:
    site = make_site(pool=("a3", "a1"))
    select(site, select_instruction(strategy="uga"), members)
    view = remembered_view(site, "c", 1)
    assert view is not None
    for item in site.store.items("c", 1):
        assert item.case_id == ("a3", "a1")[view.case[item.pool_index]]
        assert item.cell == tuple(view.cell[item.pool_index])
        assert np.array_equal(item.predicted, view.predicted[item.pool_index])


def test_equal_seeds_choose_equally_and_sites_differ(
    make_site, select_instruction, members
) -> None:
    sites = {name: make_site(name, pool=("a0", "a1", "a2", "a3")) for name in "AB"}
    for site in sites.values():
        select(site, select_instruction(patches=6), members)
    again = make_site("C", pool=("a0", "a1", "a2", "a3"))
    renamed = again.settings.model_copy(update={"name": "A"})
    object.__setattr__(again, "settings", renamed)
    select(again, select_instruction(patches=6), members)
    assert chosen(sites["A"]) == chosen(again)
    assert chosen(sites["A"]) != chosen(sites["B"])


def test_a_site_without_a_pool(make_site, select_instruction, members) -> None:
    with pytest.raises(SelectionError, match="site 'A' has no pool cases"):
        select(make_site(), select_instruction(), members)


def test_an_unknown_strategy_queues_nothing(make_site, select_instruction, members) -> None:
    site = make_site(pool=("a0",))
    with pytest.raises(SettingsError, match="did you mean 'random'"):
        select(site, select_instruction(strategy="randm"), members)
    assert site.store.selection("c", 1) is None


def test_an_automatic_annotator_answers_and_what_it_left_is_done_next_time(
    make_site, select_instruction, members, monkeypatch
) -> None:
    site = make_site(pool=("a0", "a1"), annotator=AnnotatorSettings(name="simulated"))
    done = []

    class Tired:
        def correct(self, store, item, case, grid) -> None:
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(item.item_id)
            store.correct(
                item, case.read_label(grid.box(item.cell)), corrected_px=0, seconds=1, reader="x"
            )

    with monkeypatch.context() as patch:
        patch.setattr("client.selection.build_annotator", lambda *_: Tired())
        with pytest.raises(KeyboardInterrupt):
            select(site, select_instruction(), members)
    assert site.store.counts("c", 1).corrected == 2
    select(site, select_instruction(), members)
    counts = site.store.counts("c", 1)
    assert (counts.selected, counts.corrected) == (3, 3)
    # Two seconds of the first, twelve and more of the simulated clinician for the third alone.
    assert 14 <= counts.seconds < 26


def test_an_unknown_annotator_is_named(make_site, select_instruction, members) -> None:
    site = make_site(pool=("a0",), annotator=AnnotatorSettings(name="simulatd"))
    with pytest.raises(
        SettingsError, match=r"annotator\.name: found 'simulatd'; did you mean 'simu"
    ):
        select(site, select_instruction(), members)
