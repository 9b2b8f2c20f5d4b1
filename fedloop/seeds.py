"""Seeds derived from what a random decision is for, never from the order of execution.

Two engines, or a run and its resumed twin, meet the same numbers because a seed depends only on
``(seed, site, cycle, round, member, purpose)``.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(
    seed: int,
    *,
    site: str = "",
    cycle: int = 0,
    round: int = 0,  # the field's own word; shadowing the builtin is harmless here
    member: int = 0,
    purpose: str,
) -> int:
    """Return a 63-bit seed for one purpose, stable across processes, machines and versions."""
    text = f"{seed}|{site}|{cycle}|{round}|{member}|{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(
    seed: int,
    *,
    site: str = "",
    cycle: int = 0,
    round: int = 0,
    member: int = 0,
    purpose: str,
) -> np.random.Generator:
    """Return a NumPy generator seeded by :func:`derive`."""
    return np.random.default_rng(
        derive(seed, site=site, cycle=cycle, round=round, member=member, purpose=purpose)
    )
