"""Training batches mixed from several sources in fixed shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloop.errors import SettingsError
from fedloop.imaging.case import IGNORE


@dataclass(frozen=True)
class Source:
    """Patches of one origin.

    Args:
        name: ``labelled``, ``corrected`` or ``agreed`` (pseudo-labels).
        images: ``(n, C, *patch)``.
        labels: ``(n, *patch)`` class ids with IGNORE.
        share: of every batch.
        balanced: draw patches with and without foreground equally often.
    """

    name: str
    images: NDArray[Any]
    labels: NDArray[np.uint8]
    share: float
    balanced: bool = False

    def probabilities(self) -> NDArray[np.float64] | None:
        """Sampling probability of each patch; none means uniform."""
        if not self.balanced:
            return None
        axes = tuple(range(1, self.labels.ndim))
        positive = ((self.labels > 0) & (self.labels != IGNORE)).any(axis=axes)
        if positive.all() or not positive.any():
            return None
        return np.asarray(np.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum()))


def batch_counts(sources: Sequence[Source], batch_size: int) -> list[int]:
    """Patches per source in a batch; every source gets at least one, the sum is ``batch_size``.

    Raises:
        SettingsError: more sources than places in a batch.
    """
    if len(sources) > batch_size:
        raise SettingsError(
            f"training.batch_size: {batch_size} is too small for {len(sources)} kinds of patches "
            f"({', '.join(source.name for source in sources)})"
        )
    total = sum(source.share for source in sources)
    counts = [max(1, int(source.share / total * batch_size)) for source in sources]
    while sum(counts) < batch_size:
        exact = [source.share / total * batch_size for source in sources]
        counts[int(np.argmax([e - c for e, c in zip(exact, counts, strict=True)]))] += 1
    while sum(counts) > batch_size:
        counts[int(np.argmax(counts))] -= 1
    return counts


class BatchSampler:
    """Draws batches; equal generators draw equal batches."""

    def __init__(
        self, sources: Sequence[Source], batch_size: int, rng: np.random.Generator
    ) -> None:
        self._sources = sources
        self._counts = batch_counts(sources, batch_size)
        self._probabilities = [source.probabilities() for source in sources]
        self._rng = rng

    def draw(self) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Images ``(batch, C, *patch)`` and labels ``(batch, *patch)``."""
        images, labels = [], []
        for source, count, probability in zip(
            self._sources, self._counts, self._probabilities, strict=True
        ):
            index = self._rng.choice(len(source.labels), size=count, p=probability)
            images.append(source.images[index])
            labels.append(source.labels[index])
        return np.concatenate(images), np.concatenate(labels)
