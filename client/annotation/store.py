"""What was asked of the clinician and what came back: never lost, never half-written.

Items and versions live in SQLite (WAL, ``synchronous=FULL``); masks lie beside it as ``.npz``,
written under a temporary name, flushed and renamed before the row that names them is committed.
A correction is an immutable version of its item; the newest one counts.
"""

from __future__ import annotations

import os
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedloop.errors import DataError

_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    RuntimeError,  # a zip that says it is encrypted, or of an unknown compression
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and zipfile raise for damaged files."""

_TABLES = """
CREATE TABLE IF NOT EXISTS selections (
  campaign TEXT NOT NULL, cycle INTEGER NOT NULL, pool_patches INTEGER NOT NULL,
  predicted_foreground REAL NOT NULL, PRIMARY KEY (campaign, cycle));
CREATE TABLE IF NOT EXISTS items (
  id INTEGER PRIMARY KEY, campaign TEXT NOT NULL, cycle INTEGER NOT NULL, rank INTEGER NOT NULL,
  case_id TEXT NOT NULL, cell TEXT NOT NULL, pool_index INTEGER NOT NULL, score REAL NOT NULL,
  reason TEXT NOT NULL, UNIQUE (campaign, cycle, rank));
CREATE TABLE IF NOT EXISTS versions (
  id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES items(id), reader TEXT NOT NULL,
  mask TEXT NOT NULL, corrected_px INTEGER NOT NULL, seconds REAL NOT NULL);
"""


@dataclass(frozen=True)
class Item:
    """One patch to correct. ``predicted`` is what the model drew: class ids, ``(*patch_size)``."""

    rank: int
    case_id: str
    cell: tuple[int, ...]
    pool_index: int
    score: float
    reason: str
    predicted: NDArray[np.uint8]
    item_id: int = 0


@dataclass(frozen=True)
class Correction:
    """A clinician's mask for an item; ``corrected_px`` voxels differ from the prediction."""

    item: Item
    mask: NDArray[np.uint8]
    corrected_px: int
    seconds: float
    reader: str = ""


@dataclass(frozen=True)
class Counts:
    """What may be told to the coordinator about one cycle.

    ``corrected_px`` counts the newest version of each item, ``seconds`` the work on all of them.
    """

    selected: int
    corrected: int
    corrected_px: int
    seconds: float


class CorrectionStore:
    """The site's queue and corrections under ``folder``; safe to open from several processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        path = self.folder / "store.sqlite"
        try:
            with self._connect(path) as connection:
                yield connection
        except sqlite3.Error as error:
            raise DataError(f"{path}: the store of corrections failed: {error}") from error

    @contextmanager
    def _connect(self, path: Path) -> Iterator[sqlite3.Connection]:
        (self.folder / "masks").mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.executescript(_TABLES)
            with connection:
                yield connection

    # ------------------------------------------------------------------ the queue

    def selection(self, campaign: str, cycle: int) -> tuple[int, float] | None:
        """``(pool patches, predicted foreground)`` of a finished selection, else none."""
        with self._open() as db:
            row = db.execute(
                "SELECT pool_patches, predicted_foreground FROM selections "
                "WHERE campaign=? AND cycle=?",
                (campaign, cycle),
            ).fetchone()
        return (int(row[0]), float(row[1])) if row else None

    def enqueue(
        self,
        campaign: str,
        cycle: int,
        items: Sequence[Item],
        *,
        pool_patches: int,
        predicted_foreground: float,
    ) -> None:
        """Store one cycle's whole selection, or nothing of it."""
        with self._open() as db:
            db.execute(
                "INSERT INTO selections VALUES (?,?,?,?)",
                (campaign, cycle, pool_patches, predicted_foreground),
            )
            for item in items:
                cursor = db.execute(
                    "INSERT INTO items (campaign, cycle, rank, case_id, cell, pool_index, score, "
                    "reason) VALUES (?,?,?,?,?,?,?,?)",
                    (
                        campaign,
                        cycle,
                        item.rank,
                        item.case_id,
                        ",".join(map(str, item.cell)),
                        item.pool_index,
                        item.score,
                        item.reason,
                    ),
                )
                self._write_mask(f"predicted_{cursor.lastrowid}.npz", item.predicted)

    def items(self, campaign: str, cycle: int, *, pending_only: bool = False) -> list[Item]:
        """The items of a cycle in the order of their rank."""
        where = " AND id NOT IN (SELECT item FROM versions)" if pending_only else ""
        with self._open() as db:
            rows = db.execute(
                "SELECT id, rank, case_id, cell, pool_index, score, reason FROM items "  # noqa: S608 - no outside text
                f"WHERE campaign=? AND cycle=?{where} ORDER BY rank",
                (campaign, cycle),
            ).fetchall()
        return [
            Item(
                rank=rank,
                case_id=case_id,
                cell=tuple(int(part) for part in cell.split(",")),
                pool_index=pool_index,
                score=score,
                reason=reason,
                predicted=self._read_mask(f"predicted_{item_id}.npz"),
                item_id=item_id,
            )
            for item_id, rank, case_id, cell, pool_index, score, reason in rows
        ]

    # ------------------------------------------------------------------ corrections

    def correct(
        self,
        item: Item,
        mask: NDArray[np.uint8],
        *,
        corrected_px: int,
        seconds: float,
        reader: str,
    ) -> None:
        """Add a version of an item; when this returns it survives a power cut.

        Raises:
            DataError: the mask has another shape than the patch.
        """
        if mask.shape != item.predicted.shape:
            raise DataError(
                f"correction of case {item.case_id!r}, patch {item.cell}: mask has shape "
                f"{mask.shape}, the patch has {item.predicted.shape}"
            )
        with self._open() as db:
            # Two readers of one item must not count the same versions and share a file name.
            db.execute("BEGIN IMMEDIATE")
            number = db.execute(
                "SELECT COUNT(*) FROM versions WHERE item=?", (item.item_id,)
            ).fetchone()[0]
            name = f"corrected_{item.item_id}_{number + 1}.npz"
            self._write_mask(name, mask)
            db.execute(
                "INSERT INTO versions (item, reader, mask, corrected_px, seconds) "
                "VALUES (?,?,?,?,?)",
                (item.item_id, reader, name, int(corrected_px), float(seconds)),
            )

    def corrections(self, campaign: str, *, up_to_cycle: int) -> list[Correction]:
        """The newest version of every corrected item of the campaign's first cycles."""
        found = []
        for cycle in range(1, up_to_cycle + 1):
            for item in self.items(campaign, cycle):
                with self._open() as db:
                    row = db.execute(
                        "SELECT mask, corrected_px, seconds, reader FROM versions WHERE item=? "
                        "ORDER BY id DESC LIMIT 1",
                        (item.item_id,),
                    ).fetchone()
                if row:
                    found.append(
                        Correction(item, self._read_mask(row[0]), int(row[1]), row[2], row[3])
                    )
        return found

    def counts(self, campaign: str, cycle: int) -> Counts:
        """Progress of one cycle, in counts only."""
        with self._open() as db:
            selected = db.execute(
                "SELECT COUNT(*) FROM items WHERE campaign=? AND cycle=?", (campaign, cycle)
            ).fetchone()[0]
            row = db.execute(
                "SELECT COUNT(DISTINCT item), COALESCE(SUM(corrected_px * (id IN "
                "(SELECT MAX(id) FROM versions GROUP BY item))),0), "
                "COALESCE(SUM(seconds),0) FROM versions WHERE item IN "
                "(SELECT id FROM items WHERE campaign=? AND cycle=?)",
                (campaign, cycle),
            ).fetchone()
        return Counts(int(selected), int(row[0]), int(row[1]), float(row[2]))

    # ------------------------------------------------------------------ masks on disk

    def _write_mask(self, name: str, mask: NDArray[np.uint8]) -> None:
        target = self.folder / "masks" / name
        temporary = target.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, mask=mask)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
        _sync(target.parent)

    def _read_mask(self, name: str) -> NDArray[np.uint8]:
        path = self.folder / "masks" / name
        try:
            # Opened here: NumPy forgets to close a file it cannot read.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                mask: NDArray[np.uint8] = stored["mask"]
                return mask
        except _UNREADABLE as error:
            raise DataError(f"{path}: a stored mask cannot be read: {error}") from None


def _sync(folder: Path) -> None:
    """Flush a folder's entries: a rename alone can be lost with the power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
