"""Uncertainty maps from the class probabilities of an ensemble's members.

Everywhere ``probabilities`` is ``(K, C, *spatial)``: K members, C classes (0 is the background),
non-negative and summing to 1 over classes. Natural logarithms; probabilities below :data:`FLOOR`
count as :data:`FLOOR` inside a logarithm, so every map is finite. Maps are ``(*spatial)`` float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]

FLOOR = 1e-6
"""Bounds a cross-entropy at 13.8 nats; bfloat16 logits do not resolve smaller probabilities."""


@dataclass(frozen=True, slots=True)
class Maps:
    """All maps of one window, computed together because they share the logarithms."""

    mean: NDArray[np.float32]
    """``(C, *spatial)``: the ensemble's probabilities."""
    entropy: Map
    uga: Map
    mutual_information: Map
    anchor: Map


def measure(probabilities: NDArray[np.float32]) -> Maps:
    """Compute every map; each logarithm is taken once."""
    mean = probabilities.mean(0)
    log_mean = np.log(np.maximum(mean, FLOOR))
    log_members = np.maximum(probabilities, FLOOR)
    np.log(log_members, out=log_members)
    # einsum multiplies and sums in one pass, without a temporary as large as all members.
    members = -len(probabilities)
    own = np.einsum("kc...,kc...->...", probabilities, log_members) / members
    uga = np.einsum("c...,kc...->...", mean, log_members) / members
    entropy = -np.einsum("c...,c...->...", mean, log_mean)
    # Rounding can push equal quantities past each other by some 1e-7: hold the inequalities.
    np.maximum(entropy, 0, out=entropy)
    return Maps(
        mean=mean,
        entropy=entropy,
        uga=np.maximum(uga, entropy),
        mutual_information=np.clip(entropy - own, 0, entropy),
        anchor=np.clip(1 - probabilities[:, 0].max(0), 0, 1),
    )


def entropy(mean: NDArray[np.float32]) -> Map:
    """Entropy of the ensemble mean ``(C, *spatial)``: total uncertainty, in [0, ln C]."""
    return measure(mean[None]).entropy


def uga(probabilities: NDArray[np.float32]) -> Map:
    """Mean over members of the cross-entropy between ensemble mean and member.

    ``-Σ_c mean_c · (1/K) Σ_k log p_kc``: the entropy of the mean plus the mean Kullback-Leibler
    divergence from the mean to the members, so disagreement counts twice.
    """
    return measure(probabilities).uga


def mutual_information(probabilities: NDArray[np.float32]) -> Map:
    """Entropy of the mean minus the members' mean entropy: disagreement, in [0, entropy]."""
    return measure(probabilities).mutual_information


def anchor(probabilities: NDArray[np.float32]) -> Map:
    """Minimum over members of the foreground probability: a lower confidence bound of lesion."""
    return measure(probabilities).anchor
