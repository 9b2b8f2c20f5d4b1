"""A site is its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.site import SITE_FILE, open_site
from fedloop.errors import DataError, SettingsError
from fedloop.imaging.case import IGNORE
from fedloop.settings import DataSettings, ModelSpec


def test_cases_come_in_the_order_of_the_file(make_site, spec: ModelSpec) -> None:
    site = make_site("Zürich", pool=("a3", "a1"), test=("a0",))
    assert site.name == "Zürich"
    assert [c.case_id for c in site.cases("pool", spec.imaging)] == ["a3", "a1"]
    assert [c.case_id for c in site.cases("test", spec.imaging)] == ["a0"]
    assert site.cases("labelled", spec.imaging) == ()


def test_a_bank_holds_the_patches_of_a_role(make_site, spec: ModelSpec) -> None:
    site = make_site(labelled=("a0",), pool=("a1", "a2"))
    bank = site.bank("labelled", spec.imaging, with_labels=True)
    assert bank.images.shape == (4, 3, 16, 16)
    assert set(np.unique(bank.labels)) == {0, 1}
    hidden = site.bank("pool", spec.imaging, with_labels=False)
    assert len(hidden) == 8
    assert (hidden.labels == IGNORE).all()


def test_two_sites_of_one_data_set_do_not_share_banks(make_site, spec: ModelSpec) -> None:
    first = make_site("A", labelled=("a0",)).bank("labelled", spec.imaging, with_labels=True)
    second = make_site("B", labelled=("a1",)).bank("labelled", spec.imaging, with_labels=True)
    assert (first.case_ids, second.case_ids) == (("a0",), ("a1",))
    assert not np.array_equal(first.images, second.images)


def test_an_unknown_case_names_file_role_and_case(make_site, spec: ModelSpec) -> None:
    site = make_site(pool=("a1", "a9"))
    with pytest.raises(DataError, match=r"site\.yaml: key 'pool': case 'a9' is not in "):
        site.cases("pool", spec.imaging)


def test_what_a_site_remembers_lies_in_its_folder(make_site) -> None:
    site = make_site()
    assert site.store.folder.parent == site.log_file.parent == site.folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such configuration file"),
        ("name: A\n", "key 'data' is required"),
        ("name: ''\ndata: {}\n", "key 'name': found ''"),
        ("name: A\ndata: {}\npol: [a]\n", "unknown key 'pol' (found ['a']); did you mean 'pool'?"),
        ("name: A\ndata: {}\nthreads: -1\n", "key 'threads': found -1"),
    ],
)
def test_a_wrong_site_file_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / SITE_FILE).write_text(text)
    with pytest.raises(SettingsError) as caught:
        open_site(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / SITE_FILE))
    assert message in str(caught.value)


def test_a_missing_data_folder_is_named(make_site, spec: ModelSpec, tmp_path: Path) -> None:
    site = make_site(pool=("a",), data=DataSettings(root=tmp_path / "gone"))
    with pytest.raises(DataError, match="gone is no folder"):
        site.cases("pool", spec.imaging)
