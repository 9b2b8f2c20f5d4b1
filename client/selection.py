"""Answer to ``query.select``: rank the pool, queue the best patches, tell only counts."""

from __future__ import annotations

from collections.abc import Sequence

from client.annotation.annotator import build_annotator
from client.annotation.store import Item
from client.localstate import LocalState
from client.networks import load_networks
from client.pool import PoolView, remember_view, view_pool
from client.ranking.registry import build_strategy
from client.site import Site
from fedloop import seeds
from fedloop.errors import SelectionError
from fedloop.imaging.geometry import Grid
from fedloop.models.device import choose_device
from fedloop.records import Arrays, SelectInstruction


def select(
    site: Site, instruction: SelectInstruction, members: Sequence[Arrays]
) -> dict[str, float]:
    """Queue this cycle's patches once; a repeated request gets the first answer again.

    Raises:
        SelectionError: the site has no pool, or the strategy cannot rank it.
    """
    if not site.settings.pool:
        raise SelectionError(f"site {site.name!r} has no pool cases to select from")
    done = site.store.selection(instruction.campaign, instruction.cycle)
    if done is None:
        done = _select(site, instruction, members)
    _answer_queue(site, instruction)
    counts = site.store.counts(instruction.campaign, instruction.cycle)
    pool_patches, foreground = done
    return {
        "pool_patches": pool_patches,
        "selected_patches": counts.selected,
        "predicted_foreground": foreground,
    }


def _select(
    site: Site, instruction: SelectInstruction, members: Sequence[Arrays]
) -> tuple[int, float]:
    device = choose_device(site.settings.device)
    local = LocalState(site.folder / "local" / instruction.campaign)
    own = local.overlay(instruction, members, before=False)
    networks = load_networks(instruction.spec, own, device)
    view = view_pool(site, instruction, own, networks, device)
    remember_view(site, instruction, own)
    wanted = instruction.selection
    strategy = build_strategy(wanted.strategy, wanted.parameters, wanted.per_case_quota)
    rng = seeds.generator(
        instruction.seed,
        site=site.name,
        cycle=instruction.cycle,
        purpose=f"select {instruction.campaign}",
    )
    fresh = _not_yet_chosen(site, instruction, view)
    pool = view.for_ranking()
    choices = strategy.rank(pool.subset(fresh), wanted.patches, rng)
    foreground = float(pool.score("foreground").mean())
    case_ids = site.settings.pool
    items = [
        Item(
            rank=rank,
            case_id=case_ids[int(view.case[index])],
            cell=tuple(int(c) for c in view.cell[index]),
            pool_index=index,
            score=choice.score,
            reason=choice.reason,
            predicted=view.predicted[index],
        )
        for rank, choice in enumerate(choices)
        for index in [int(fresh[choice.index])]
    ]
    site.store.enqueue(
        instruction.campaign,
        instruction.cycle,
        items,
        pool_patches=len(view),
        predicted_foreground=foreground,
    )
    return len(view), foreground


def _not_yet_chosen(site: Site, instruction: SelectInstruction, view: PoolView) -> list[int]:
    """Pool indices that no earlier cycle of the campaign has queued."""
    taken = {
        item.pool_index
        for cycle in range(1, instruction.cycle)
        for item in site.store.items(instruction.campaign, cycle)
    }
    return [i for i in range(len(view)) if i not in taken]


def _answer_queue(site: Site, instruction: SelectInstruction) -> None:
    """Let the site's automatic annotator, if it has one, correct what is pending."""
    wanted = site.settings.annotator
    if wanted is None:
        return
    pending = site.store.items(instruction.campaign, instruction.cycle, pending_only=True)
    if not pending:
        return
    annotator = build_annotator(wanted.name, wanted.parameters)
    cases = {case.case_id: case for case in site.cases("pool", instruction.spec.imaging)}
    for item in pending:
        case = cases[item.case_id]
        annotator.correct(
            site.store, item, case, Grid(case.shape, instruction.spec.imaging.patch_size)
        )
