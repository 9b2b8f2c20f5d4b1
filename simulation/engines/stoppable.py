"""A grid that can be taken away from a coordinator that runs in another thread."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Event

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedloop.errors import RoundError


class StoppableGrid(Grid):
    """Passes everything on to ``grid`` until ``stop`` is set, then raises.

    A coordinator asks who is online before it pulls; without this, one whose sites are gone
    would wait for them until its deadline, which is meant for clinicians and may be hours away.
    """

    def __init__(self, grid: Grid, stop: Event) -> None:
        self._grid = grid
        self._stop = stop

    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Raises: RoundError: the simulation has ended."""
        self._check()
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Raises: RoundError: the simulation has ended."""
        self._check()
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Raises: RoundError: the simulation has ended."""
        self._check()
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Raises: RoundError: the simulation has ended."""
        self._check()
        return self._grid.send_and_receive(messages, timeout=timeout)

    def _check(self) -> None:
        if self._stop.is_set():
            raise RoundError("the simulation ended before the campaign")
