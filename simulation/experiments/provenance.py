"""What a reader needs to trust and repeat a run: command, versions, machine, time, memory."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fedloop import __version__
from simulation.experiments.world import World

PACKAGES = ("flwr", "torch", "monai", "numpy", "nibabel", "openslide-python", "tifffile", "ray")


def run_record(
    worlds: Mapping[int, World],
    *,
    command: str,
    device: str,
    started: datetime,
    seconds: float,
    processes: int,
    finished: bool,
) -> dict[str, Any]:
    """The content of ``run.json``."""
    first = next(iter(worlds.values()))
    notes = sorted({note for world in worlds.values() for note in world.notes})
    return {
        "command": command,
        "versions": versions(),
        "machine": machine(device),
        "started": started.astimezone(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "processes": processes,
        "igniter_site": first.igniter_site,
        "center_rule": first.rule,
        "notes": notes,
        "centers": {
            name: {
                "labelled": len(roles.labelled),
                "pool": len(roles.pool),
                "test": len(roles.test),
            }
            for name, roles in first.centers.items()
        },
        "finished": finished,
    }


def write_record(out: Path, record: Mapping[str, Any]) -> None:
    temporary = out / "run.json.tmp"
    temporary.write_text(json.dumps(record, indent=2), encoding="utf-8")
    os.replace(temporary, out / "run.json")


def read_record(out: Path) -> dict[str, Any] | None:
    """The stored record, or none where there is no readable one."""
    try:
        record: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record


def versions() -> dict[str, str]:
    found = {"fedloop": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine(device: str) -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "device": device,
        "memory_gib": round(memory, 1),
    }


def peak_memory_mib() -> float:
    """Largest resident size of any single process of the run so far, in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / unit


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
