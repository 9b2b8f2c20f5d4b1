"""The card of a stored ensemble."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from fedloop.settings import ImagingSettings, ModelSettings, ModelSpec, Settings


class ModelCard(Settings):
    """What a stored ensemble is: enough to build, feed and trust it."""

    format: int = Field(default=1, ge=1, le=1, description="of this card")
    model: ModelSettings
    imaging: ImagingSettings
    classes: tuple[str, ...] = Field(min_length=2, description="names; the first is background")
    in_channels: int = Field(ge=1)
    spatial_dims: int = Field(ge=2, le=3)
    trained_with: str = Field(default="", description="data and recipe, in words")
    digests: tuple[str, ...] = Field(
        default=(), description="SHA-256 of each member's file; filled in when saved"
    )

    @field_validator("digests")
    @classmethod
    def _hexadecimal(cls, digests: tuple[str, ...]) -> tuple[str, ...]:
        for digest in digests:
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError(f"{digest!r} is not a SHA-256 digest")
        return digests


def card_of(spec: ModelSpec, *, trained_with: str) -> ModelCard:
    """The card of an ensemble built from ``spec``; digests are filled in when it is saved."""
    return ModelCard(
        model=spec.model,
        imaging=spec.imaging,
        classes=spec.classes,
        in_channels=spec.in_channels,
        spatial_dims=spec.spatial_dims,
        trained_with=trained_with,
    )
