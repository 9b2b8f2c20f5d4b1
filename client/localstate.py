"""Arrays that never leave the site (FedBN's norm layers), kept per round so that a repeated round
starts from where it started the first time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fedloop.errors import RunFolderError
from fedloop.records import Arrays, Step

ROUNDS_KEPT = 2
_NAME = re.compile(r"^c(\d+)_r(\d+)_m(\d+)\.safetensors$")


class LocalState:
    """Local arrays of one campaign under ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def overlay(
        self,
        step: Step,
        members: Sequence[Arrays],
        *,
        before: bool,
        keep: Callable[[str], bool] = lambda _: True,
    ) -> list[Arrays]:
        """The received members with the site's own local arrays laid over them.

        Args:
            before: use what was stored in rounds before ``step`` (training), else up to and with
                it (selection, evaluation).
            keep: names of the local arrays to lay over.
        """
        limit = (step.cycle, step.round - 1 if before else step.round)
        return [
            {**arrays, **{n: a for n, a in self._latest(k, limit).items() if keep(n)}}
            for k, arrays in enumerate(members)
        ]

    def save(self, step: Step, members: Sequence[Arrays]) -> None:
        """Keep the local arrays a round ended with; old rounds are removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for k, arrays in enumerate(members):
            target = self.folder / f"c{step.cycle}_r{step.round}_m{k}.safetensors"
            temporary = target.with_suffix(".tmp")
            save_file(dict(arrays), temporary)
            os.replace(temporary, target)
            for _, _, old in self._stored(k)[:-ROUNDS_KEPT]:
                old.unlink(missing_ok=True)

    def _latest(self, member: int, limit: tuple[int, int]) -> Arrays:
        found = [path for cycle, number, path in self._stored(member) if (cycle, number) <= limit]
        if not found:
            return {}
        try:
            arrays: Arrays = load_file(found[-1])
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"{found[-1]}: damaged local state: {error}") from None
        return arrays

    def _stored(self, member: int) -> list[tuple[int, int, Path]]:
        """``(cycle, round, file)`` of a member, oldest first."""
        found = []
        for path in self.folder.glob("*.safetensors"):
            match = _NAME.match(path.name)
            if match and int(match.group(3)) == member:
                found.append((int(match.group(1)), int(match.group(2)), path))
        return sorted(found)
