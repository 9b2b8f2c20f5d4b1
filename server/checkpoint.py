"""The coordinator's memory on disk: weights per round, and what has been done so far.

A checkpoint folder is built under a temporary name, flushed and renamed; ``state.json`` is replaced
only afterwards, so a kill at any point leaves the last complete step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fedloop.errors import RunFolderError
from fedloop.records import Arrays

VERSION = 1


@dataclass
class CampaignState:
    """What a campaign has completed.

    ``done`` lists finished steps in order (``ignite``, ``select-1``, ``round-1-3`` …);
    ``checkpoint`` names the folder with the current weights; ``history`` has one entry per site
    and round.
    """

    campaign: str
    fingerprint: str
    done: list[str] = field(default_factory=list)
    checkpoint: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


class CheckpointStore:
    """Checkpoints and state of one campaign under ``folder``."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.json"

    def load_state(self, campaign: str, fingerprint: str) -> CampaignState:
        """The stored state, or a fresh one.

        Raises:
            RunFolderError: the file is unreadable or belongs to a campaign with other settings.
        """
        if not self._state_file.exists():
            return CampaignState(campaign, fingerprint)
        try:
            raw = json.loads(self._state_file.read_text(encoding="utf-8"))
            version = raw.pop("version")
            state = CampaignState(**raw)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(f"{self._state_file}: not a campaign state: {error}") from None
        if version != VERSION:
            raise RunFolderError(f"{self._state_file}: version {version}, expected {VERSION}")
        if (state.campaign, state.fingerprint) != (campaign, fingerprint):
            raise RunFolderError(
                f"{self._state_file}: belongs to campaign {state.campaign!r} with other settings; "
                "choose another folder or repeat with the same settings"
            )
        return state

    def save_state(self, state: CampaignState) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self._state_file.with_suffix(".json.tmp")
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump({"version": VERSION, **vars(state)}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self._state_file)

    def save_weights(self, name: str, members: Sequence[Arrays], states: Sequence[Arrays]) -> None:
        """Write one checkpoint; call :meth:`save_state` afterwards to make it current."""
        target = self.folder / "checkpoints" / name
        temporary = target.with_name(f".{name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for k, (arrays, state) in enumerate(zip(members, states, strict=True)):
            _write(temporary / f"member_{k}.safetensors", arrays)
            _write(temporary / f"strategy_{k}.safetensors", state)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)

    def load_weights(self, name: str) -> tuple[list[Arrays], list[Arrays]]:
        """Members and strategy states of one checkpoint.

        Raises:
            RunFolderError: the checkpoint is missing or damaged.
        """
        folder = self.folder / "checkpoints" / name
        members, states = [], []
        try:
            for k in range(len(list(folder.glob("member_*.safetensors")))):
                members.append(load_file(folder / f"member_{k}.safetensors"))
                states.append(load_file(folder / f"strategy_{k}.safetensors"))
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"{folder}: damaged checkpoint: {error}") from None
        if not members:
            raise RunFolderError(f"{folder}: the checkpoint is missing")
        if len(members) != len(list(folder.glob("strategy_*.safetensors"))):
            raise RunFolderError(f"{folder}: damaged checkpoint: a member is missing")
        return members, states

    def prune(self, *current: str | None) -> None:
        """Remove all but the newest checkpoints, never one that is named."""
        folder = self.folder / "checkpoints"
        found = sorted(
            (p for p in folder.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime_ns
        )
        for old in found[: -self.keep]:
            if old.name not in current:
                shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, arrays: Arrays) -> None:
    save_file(dict(arrays), path)
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())
