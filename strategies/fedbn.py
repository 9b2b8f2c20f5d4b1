"""FedBN: normalisation layers stay at their site (Li et al., ICLR 2021)."""

from __future__ import annotations

from strategies.base import NoParameters, Strategy


class FedBN(Strategy[NoParameters]):
    """Arrays of normalisation layers, running statistics included, never leave a site.

    The paper keeps batch-norm layers local; here any normalisation layer counts. A site that joins
    starts from the norm layers of the model it receives.
    """

    name = "fedbn"

    def is_local(self, array: str, norm_arrays: frozenset[str]) -> bool:
        return array in norm_arrays
