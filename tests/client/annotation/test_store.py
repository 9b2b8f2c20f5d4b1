"""Nothing acknowledged is lost, nothing half-written counts, no version is ever changed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.annotation import store as module
from client.annotation.store import Correction, CorrectionStore, Counts, Item
from fedloop.errors import DataError

SHAPE = (4, 4)


def item(rank: int = 0, value: int = 1, **changes: object) -> Item:
    made = Item(
        rank=rank,
        case_id=f"case {rank}",
        cell=(rank, 3),
        pool_index=10 + rank,
        score=0.25 * rank,
        reason=f"because {rank}",
        predicted=np.full(SHAPE, value, np.uint8),
    )
    return replace(made, **changes)


def mask(value: int) -> np.ndarray:
    return np.full(SHAPE, value, np.uint8)


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    return CorrectionStore(tmp_path / "annotation")


def fill(store: CorrectionStore, *, cycle: int = 1, count: int = 2, campaign: str = "c") -> None:
    store.enqueue(
        campaign,
        cycle,
        [item(rank) for rank in range(count)],
        pool_patches=9,
        predicted_foreground=0.5,
    )


def correct(store: CorrectionStore, item: Item, value: int, *, px: int = 3, seconds: float = 2.0):
    store.correct(item, mask(value), corrected_px=px, seconds=seconds, reader="Dr. Ö")


def values(corrections: list[Correction]) -> list[int]:
    return [int(c.mask[0, 0]) for c in corrections]


# ------------------------------------------------------------------ the queue


def test_a_queue_comes_back_as_it_was(store: CorrectionStore) -> None:
    assert store.selection("c", 1) is None
    assert store.items("c", 1) == []
    store.enqueue(
        "c", 1, [item(1, 7), item(0, 5, cell=(1, 2, 3))], pool_patches=9, predicted_foreground=0.5
    )
    assert store.selection("c", 1) == (9, 0.5)
    first, second = store.items("c", 1)
    assert (first.rank, first.cell, first.case_id) == (0, (1, 2, 3), "case 0")
    assert (second.pool_index, second.score, second.reason) == (11, 0.25, "because 1")
    assert (int(first.predicted[0, 0]), int(second.predicted[0, 0])) == (5, 7)
    assert first.item_id != second.item_id
    assert store.counts("c", 1) == Counts(2, 0, 0, 0.0)


def test_cycles_and_campaigns_are_apart(store: CorrectionStore) -> None:
    fill(store, cycle=1, count=1)
    fill(store, cycle=2, count=2)
    fill(store, cycle=1, count=3, campaign="d")
    assert [len(store.items("c", n)) for n in (1, 2, 3)] == [1, 2, 0]
    correct(store, store.items("c", 2)[1], 4)
    assert store.counts("c", 1).corrected == store.counts("d", 1).corrected == 0
    assert store.counts("c", 2) == Counts(2, 1, 3, 2.0)
    assert store.corrections("c", up_to_cycle=1) == []
    assert values(store.corrections("c", up_to_cycle=2)) == [4]


def test_a_selection_without_patches_is_a_selection(store: CorrectionStore) -> None:
    fill(store, count=0)
    assert store.selection("c", 1) == (9, 0.5)
    assert store.counts("c", 1) == Counts(0, 0, 0, 0.0)


def test_a_cycle_is_queued_once(store: CorrectionStore) -> None:
    fill(store)
    with pytest.raises(DataError, match="UNIQUE constraint"):
        fill(store, count=5)
    assert len(store.items("c", 1)) == 2


def test_a_selection_is_stored_whole_or_not_at_all(
    store: CorrectionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def fail_at_the_second(self: CorrectionStore, name: str, values: np.ndarray) -> None:
        written.append(name)
        if len(written) == 2:
            raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(CorrectionStore, "_write_mask", fail_at_the_second)
        with pytest.raises(OSError, match="disk full"):
            fill(store)
    assert store.selection("c", 1) is None
    assert store.items("c", 1) == []
    fill(store)
    assert len(store.items("c", 1)) == 2


# ------------------------------------------------------------------ versions


def test_the_newest_version_counts_and_the_old_ones_stay(store: CorrectionStore) -> None:
    fill(store)
    first, second = store.items("c", 1)
    correct(store, first, 5, px=10, seconds=1.5)
    before = {p.name: p.read_bytes() for p in (store.folder / "masks").iterdir()}
    correct(store, first, 6, px=4, seconds=2.5)
    after = {p.name: p.read_bytes() for p in (store.folder / "masks").iterdir()}
    assert before.items() < after.items()
    (correction,) = store.corrections("c", up_to_cycle=1)
    assert (int(correction.mask[0, 0]), correction.corrected_px) == (6, 4)
    assert (correction.seconds, correction.reader) == (2.5, "Dr. Ö")
    # Pixels of the newest version, the work on both; one item is left to do.
    assert store.counts("c", 1) == Counts(2, 1, 4, 4.0)
    assert [i.item_id for i in store.items("c", 1, pending_only=True)] == [second.item_id]


def test_a_mask_of_another_size_is_refused(store: CorrectionStore) -> None:
    fill(store, count=1)
    (queued,) = store.items("c", 1)
    with pytest.raises(DataError, match=r"'case 0', patch \(0, 3\): mask has shape \(4, 5\)"):
        store.correct(queued, np.zeros((4, 5), np.uint8), corrected_px=0, seconds=0, reader="x")
    assert store.counts("c", 1).corrected == 0


def test_an_item_that_was_never_queued_is_refused(store: CorrectionStore) -> None:
    with pytest.raises(DataError, match="FOREIGN KEY"):
        correct(store, item(), 1)


# ------------------------------------------------------------------ crashes


def test_a_crash_between_mask_and_row_loses_nothing_acknowledged(
    store: CorrectionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, count=1)
    (queued,) = store.items("c", 1)
    correct(store, queued, 5)
    write = CorrectionStore._write_mask

    def crash(self: CorrectionStore, name: str, values: np.ndarray) -> None:
        write(self, name, values)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CorrectionStore, "_write_mask", crash)
        with pytest.raises(KeyboardInterrupt):
            correct(store, queued, 6)
    assert values(store.corrections("c", up_to_cycle=1)) == [5]
    assert store.counts("c", 1).corrected_px == 3
    correct(store, queued, 7)
    assert values(store.corrections("c", up_to_cycle=1)) == [7]


def test_a_crash_while_a_mask_is_written_leaves_no_mask(
    store: CorrectionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, count=1)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            correct(store, store.items("c", 1)[0], 6)
    assert store.corrections("c", up_to_cycle=1) == []
    assert not list((store.folder / "masks").glob("corrected*.npz"))


def test_mask_and_folder_are_flushed_before_the_row_is_there(
    store: CorrectionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, count=1)
    (queued,) = store.items("c", 1)
    flushed = []
    fsync = module.os.fsync

    def record(handle: int) -> None:
        fsync(handle)
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        with sqlite3.connect(store.folder / "store.sqlite") as db:
            assert db.execute("SELECT COUNT(*) FROM versions").fetchone() == (0,)
        db.close()

    monkeypatch.setattr(module.os, "fsync", record)
    correct(store, queued, 5)
    assert flushed == [f"corrected_{queued.item_id}_1.tmp", "masks"]


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from client.annotation.store import CorrectionStore
store = CorrectionStore(Path(sys.argv[1]))
for value in range(1, 200):
    for item in store.items("c", 1):
        mask = np.full((4, 4), value, np.uint8)
        store.correct(item, mask, corrected_px=value, seconds=1, reader="x")
        print(item.item_id, value, flush=True)
"""


@pytest.mark.e2e
def test_kill_9_loses_nothing_acknowledged(store: CorrectionStore) -> None:
    fill(store, count=2)
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(store.folder)], stdout=subprocess.PIPE, cwd=root
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(25)]
        process.kill()
        lines += process.stdout.read().splitlines(keepends=True)
    acknowledged = [tuple(map(int, line.split())) for line in lines if line.endswith(b"\n")]
    assert len(acknowledged) >= 25
    newest = dict(acknowledged)
    for correction in store.corrections("c", up_to_cycle=1):
        known = newest[correction.item.item_id]
        # The one that was killed before it could say so may be there as well.
        assert correction.corrected_px in (known, known + 1)
        assert (correction.mask == correction.corrected_px).all()


# ------------------------------------------------------------------ several at once


def test_two_writers_of_one_item_never_share_a_version(store: CorrectionStore) -> None:
    fill(store, count=1)
    (queued,) = store.items("c", 1)
    problems: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for value in range(first, first + 10):
                store.correct(queued, mask(value), corrected_px=value, seconds=1, reader=str(first))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (10, 50, 90)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with sqlite3.connect(store.folder / "store.sqlite") as db:
        rows = db.execute("SELECT mask, corrected_px FROM versions").fetchall()
    db.close()
    assert len({name for name, _ in rows}) == len(rows) == 30
    for name, px in rows:
        assert (store._read_mask(name) == px).all()
    assert store.counts("c", 1).seconds == 30


def test_a_new_store_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    problems: list[BaseException] = []
    barrier = threading.Barrier(6)

    def work(number: int) -> None:
        barrier.wait()
        try:
            fill(CorrectionStore(tmp_path / "annotation"), campaign=f"c{number}")
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    store = CorrectionStore(tmp_path / "annotation")
    assert [store.counts(f"c{n}", 1).selected for n in range(6)] == [2] * 6


# ------------------------------------------------------------------ damage


def test_a_missing_mask_is_named(store: CorrectionStore) -> None:
    fill(store, count=1)
    path = next((store.folder / "masks").glob("predicted*.npz"))
    path.unlink()
    with pytest.raises(DataError, match=r"predicted_1\.npz: a stored mask cannot be read"):
        store.items("c", 1)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_mask_is_a_data_error_or_still_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    store = CorrectionStore(folder)
    rng = np.random.default_rng(0)
    original = rng.integers(0, 3, (16, 16)).astype(np.uint8)
    store._write_mask("m.npz", original)
    path = folder / "masks" / "m.npz"
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        read = store._read_mask("m.npz")
    except DataError as error:
        message = str(error)
    else:
        assert np.array_equal(read, original)
        return
    assert message.startswith(f"{path}: a stored mask cannot be read")


@pytest.mark.parametrize("content", [b"", b"not a database" * 100])
def test_a_damaged_database_is_named(store: CorrectionStore, content: bytes) -> None:
    fill(store)
    for path in store.folder.glob("store.sqlite*"):
        path.unlink()
    (store.folder / "store.sqlite").write_bytes(content)
    if not content:  # an empty file is an empty database
        assert store.items("c", 1) == []
        return
    with pytest.raises(DataError, match=r"store\.sqlite: the store of corrections failed"):
        store.items("c", 1)


# ------------------------------------------------------------------ any sequence of operations

OPERATIONS = st.lists(
    st.tuples(st.just("enqueue"), st.integers(1, 3), st.integers(0, 3))
    | st.tuples(st.just("correct"), st.integers(0, 8), st.integers(1, 200))
    | st.tuples(st.just("reopen"), st.just(0), st.just(0)),
    max_size=14,
)


@settings(max_examples=25)
@given(OPERATIONS)
def test_any_sequence_equals_a_simple_model(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = CorrectionStore(folder)
    queued: dict[int, int] = {}
    items: list[tuple[int, Item]] = []
    versions: dict[int, list[int]] = {}
    for operation, a, b in operations:
        if operation == "reopen":
            store = CorrectionStore(folder)
        elif operation == "enqueue":
            if a in queued:
                with pytest.raises(DataError):
                    fill(store, cycle=a, count=b)
            else:
                fill(store, cycle=a, count=b)
                queued[a] = b
                items += [(a, queued_item) for queued_item in store.items("c", a)]
        elif items:
            _, chosen = items[a % len(items)]
            correct(store, chosen, b, px=b, seconds=0.5)
            versions.setdefault(chosen.item_id, []).append(b)
    for cycle in (1, 2, 3):
        own = [i.item_id for c, i in items if c == cycle]
        done = {i: versions[i] for i in own if i in versions}
        assert [i.item_id for i in store.items("c", cycle)] == own
        assert [i.item_id for i in store.items("c", cycle, pending_only=True)] == [
            i for i in own if i not in done
        ]
        assert store.counts("c", cycle) == Counts(
            len(own),
            len(done),
            sum(v[-1] for v in done.values()),
            0.5 * sum(len(v) for v in done.values()),
        )
        known = [versions[i.item_id][-1] for c, i in items if c <= cycle and i.item_id in versions]
        assert sorted(values(store.corrections("c", up_to_cycle=cycle))) == sorted(known)
