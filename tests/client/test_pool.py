"""What a site knows of its pool: computed once, remembered, and never another pool's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from client.networks import load_networks
from client.pool import PoolView, remember_view, remembered_view, view_pool
from fedloop.errors import DataError, SelectionError
from fedloop.imaging.case import IGNORE
from fedloop.models.device import choose_device
from fedloop.settings import DataSettings, ImagingSettings
from fedloop.uncertainty.pool import SCORES


@pytest.fixture
def view_of(members, select_instruction):
    def view(site, instruction=None, arrays=members) -> PoolView:
        instruction = instruction or select_instruction()
        device = choose_device("cpu")
        networks = load_networks(instruction.spec, arrays, device)
        return view_pool(site, instruction, arrays, networks, device)

    return view


def entries(site) -> list[str]:
    return sorted(p.name for p in (site.folder / "pool").glob("pool_*.npz"))


def test_the_view_lists_patches_case_by_case(make_site, view_of) -> None:
    view = view_of(make_site(pool=("a1", "a0"), study=True))
    assert len(view) == 8
    assert view.case.tolist() == [0] * 4 + [1] * 4
    assert view.cell[:4].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert view.scores.shape == (len(SCORES), 8)
    assert view.predicted.shape == view.agreed.shape == (8, 16, 16)
    pool = view.for_ranking()
    assert pool.true_error is not None
    assert np.array_equal(pool.score("uga"), view.scores[SCORES.index("uga")])


def test_true_errors_are_counted_voxel_by_voxel(make_site, view_of, pictures) -> None:
    view = view_of(make_site(pool=("a0",), study=True))
    label = np.asarray(Image.open(pictures / "labels" / "a0.png"))
    for i, (row, column) in enumerate(view.cell):
        reference = label[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
        predicted = view.predicted[i]
        assert view.true_error[i] == np.count_nonzero(reference != predicted)
        hits = 2 * np.count_nonzero((reference == 1) & (predicted == 1))
        both = np.count_nonzero(reference == 1) + np.count_nonzero(predicted == 1)
        assert (
            view.true_dice[i] == pytest.approx(hits / both) if both else np.isnan(view.true_dice[i])
        )


def test_outside_a_study_the_truth_is_not_looked_at(make_site, view_of) -> None:
    view = view_of(make_site(pool=("a0",)))
    assert len(view.true_error) == len(view.true_dice) == 0
    assert view.for_ranking().true_error is None


def test_agreed_labels_are_the_ensemble_s_or_ignored(make_site, view_of) -> None:
    view = view_of(make_site(pool=("a0", "a1")))
    known = view.agreed != IGNORE
    assert np.array_equal(view.agreed[known], view.predicted[known])


def test_the_view_is_computed_once(make_site, view_of, monkeypatch) -> None:
    site = make_site(pool=("a0",))
    first = view_of(site)
    monkeypatch.setattr("client.pool._compute", None)
    again = view_of(site)
    assert all(np.array_equal(getattr(first, n), getattr(again, n)) for n in vars(first))


def test_other_weights_settings_cases_and_data_are_other_entries(
    make_site, view_of, select_instruction, members, tmp_path, pictures
) -> None:
    cache = tmp_path / "cache"
    site = make_site("A", pool=("a0",), cache=cache)
    instruction = select_instruction()
    view_of(site)
    moved = [{n: a + np.float32(0.01) for n, a in m.items()} for m in members]
    view_of(site, arrays=moved)
    view_of(site, instruction.model_copy(update={"pseudo_label_threshold": 0.6}))
    imaging = ImagingSettings(patch_size=(16, 16), halo=4, window_cells=2, min_tissue=0.1)
    spec = instruction.spec.model_copy(update={"imaging": imaging})
    view_of(site, instruction.model_copy(update={"spec": spec}))
    view_of(make_site("A", pool=("a1",), cache=cache))
    view_of(make_site("A", pool=("a0",), cache=cache, study=True))
    data = DataSettings(root=pictures, max_cases_per_center=6)
    view_of(make_site("A", pool=("a0",), cache=cache, data=data))
    assert len(list(cache.glob("pool_*.npz"))) == 7
    # Another site that holds the same cases may share what was computed.
    view_of(make_site("B", pool=("a0",), cache=cache))
    assert len(list(cache.glob("pool_*.npz"))) == 7


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04half", b"x"])
def test_a_torn_cache_entry_is_computed_again(make_site, view_of, content: bytes) -> None:
    site = make_site(pool=("a0",))
    first = view_of(site)
    (name,) = entries(site)
    (site.folder / "pool" / name).write_bytes(content)
    assert np.array_equal(view_of(site).scores, first.scores)


def test_a_case_without_tissue_has_no_patches(
    make_site, view_of, select_instruction, tmp_path, spec
) -> None:
    root = tmp_path / "slides"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for name, level in (("black", 0), ("bright", 200)):
        pixels = np.full((32, 32, 3), level, np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(root / "labels" / f"{name}.png")
    imaging = spec.imaging.model_copy(update={"tissue": "bright"})

    def look(*pool: str) -> PoolView:
        site = make_site("T", pool=pool, data=DataSettings(root=root), study=True)
        other = spec.model_copy(update={"imaging": imaging})
        return view_of(site, select_instruction().model_copy(update={"spec": other}))

    view = look("black", "bright")
    assert len(view) > 0
    assert set(view.case.tolist()) == {1}
    with pytest.raises(SelectionError, match="site 'T': no patch of its pool shows enough tissue"):
        look("black")


def test_the_view_of_a_cycle_is_found_again(
    make_site, view_of, select_instruction, members
) -> None:
    site = make_site(pool=("a0",))
    assert remembered_view(site, "c", 1) is None
    view = view_of(site)
    remember_view(site, select_instruction(), members)
    found = remembered_view(site, "c", 1)
    assert found is not None
    assert np.array_equal(found.agreed, view.agreed)
    assert remembered_view(site, "c", 2) is None
    assert remembered_view(site, "d", 1) is None


def test_a_removed_cache_is_told(make_site, view_of, select_instruction, members) -> None:
    site = make_site(pool=("a0",))
    view_of(site)
    remember_view(site, select_instruction(), members)
    for name in entries(site):
        (site.folder / "pool" / name).unlink()
    with pytest.raises(DataError, match="the pool predictions of cycle 1 are gone"):
        remembered_view(site, "c", 1)
