"""One bounded store of decoded arrays per process, shared by all cases.

Cases themselves hold no pixels and no open files: they stay picklable, and a site with thousands of
them keeps only what it looked at last.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from numpy.typing import NDArray

BUDGET_BYTES = 1 << 30
KEPT_AT_LEAST = 4
"""A volume larger than the budget still keeps its image, label and tissue, or each box read would
decode the whole file again."""


class ArrayCache:
    """Least-recently-used arrays within a budget of bytes. Entries are read-only."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget_bytes = budget_bytes
        self._bytes = 0
        self._arrays: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return the array stored under ``key``, calling ``load`` where there is none."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        array = load()  # outside the lock: decoding takes long, and may itself ask the cache
        array.flags.writeable = False
        with self._lock:
            if key not in self._arrays:
                self._arrays[key] = array
                self._bytes += array.nbytes
            while self._bytes > self._budget_bytes and len(self._arrays) > KEPT_AT_LEAST:
                self._bytes -= self._arrays.popitem(last=False)[1].nbytes
        return array

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._arrays.clear()
            self._bytes = 0

    def renew_lock(self) -> None:
        """Replace the lock: a forked child may inherit it held by a thread it does not have."""
        self._lock = threading.Lock()


ARRAYS = ArrayCache()
if hasattr(os, "register_at_fork"):  # absent on Windows, which does not fork
    os.register_at_fork(after_in_child=ARRAYS.renew_lock)
