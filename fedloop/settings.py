"""All settings of fedloop: frozen, typed, and with their defaults HERE.

Configuration files hold deviations only (``fedloop.configuration`` reads them). Units stand in the
names. Nothing in this module imports torch or flwr, so every part of the product can read settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Steps = Annotated[int, Field(ge=1, le=1_000_000)]
Turn = Annotated[int, Field(ge=0, le=10_000)]
"""A cycle or a round. These and other upper bounds keep an instruction from asking a site for
endless work or memory."""
CampaignName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=128)]
"""Also the name of folders, at the coordinator and at every site."""


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


# --------------------------------------------------------------------------- imaging


class IntensitySettings(Settings):
    """How voxel values become network input.

    ``rgb``: uint8 / 255, minus .7, over .25 (bright-field slides are mostly bright).
    ``zscore``: per case, by the mean and deviation of its tissue voxels.
    ``window``: clip to ``window`` (HU for CT) and scale to 0..1.
    """

    kind: Literal["rgb", "zscore", "window"] = "rgb"
    window: tuple[float, float] = (-175.0, 250.0)


class ImagingSettings(Settings):
    """Patch geometry and preprocessing, equal at every site of a campaign."""

    patch_size: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        default=(64, 64), min_length=2, max_length=3
    )
    mpp: float | None = Field(default=None, gt=0, description="working microns per pixel (slides)")
    spacing_mm: tuple[float, float, float] | None = Field(
        default=None, description="resample volumes to this voxel size; none keeps their own"
    )
    intensity: IntensitySettings = IntensitySettings()
    tissue: Literal["saturation", "bright", "all"] = Field(
        default="all",
        description="what counts as tissue: stained (saturation), not black (bright), everything",
    )
    min_tissue: Fraction = Field(default=0.3, description="patches with less tissue are skipped")
    window_cells: Positive = Field(
        default=6, le=64, description="patches per axis read in one inference"
    )
    halo: NotNegative = Field(
        default=16, le=512, description="context voxels around an inference window"
    )


class AugmentSettings(Settings):
    """Random changes of a training patch."""

    flip: bool = True
    rotate90: bool = True
    intensity_jitter: float = Field(
        default=0.05, ge=0, description="deviation of gain and offset per channel"
    )


# --------------------------------------------------------------------------- data


class SyntheticCamelyonSettings(Settings):
    """The synthetic lymph-node world; one value per knob of ``simulation.synthetic``."""

    side_px: Positive = Field(default=1024, description="level-0 side of a slide")
    mpp: float = Field(default=2.0, gt=0)
    shift: float = Field(default=0.8, ge=0, description="0 = one scanner and stain for all")
    tissue_shift: float = Field(default=1.0, ge=0, description="0 = one tissue mix for all")
    lesion_scale: float = Field(default=1.0, gt=0)
    mimics: float = Field(default=1.0, ge=0)
    igniter_slides: tuple[str, ...] = (
        *("negative",) * 2,
        *("itc",) * 2,
        *("micro",) * 3,
        *("macro",) * 3,
    )
    pool_slides: tuple[str, ...] = ("negative", "negative", "itc", "micro", "micro", "macro")
    test_slides: tuple[str, ...] = (
        *("negative",) * 2,
        "itc",
        *("micro",) * 3,
        *("macro",) * 2,
    )


class DataSettings(Settings):
    """Where the images are and how they are dealt to centers and splits."""

    root: Path | None = Field(default=None, description="folder of the data set")
    synthetic: SyntheticCamelyonSettings | None = Field(
        default=None, description="generate a data set per seed instead of reading `root`"
    )
    classes: tuple[str, ...] = Field(default=("background", "foreground"), min_length=2)
    test_fraction: Fraction = Field(default=0.4, description="where centers.csv has no `split`")
    min_cases_per_center: Positive = Field(
        default=2, description="smaller centers are joined under the name `other`"
    )
    virtual_sites: NotNegative = Field(
        default=0, description="deal the cases of a one-center set to N virtual sites (0: never)"
    )
    max_cases_per_center: NotNegative = Field(default=0, description="0: all")
    itc_exhaustive: bool = Field(
        default=True, description="False: unmarked tissue of ITC slides is unknown, not normal"
    )

    @model_validator(mode="after")
    def _one_source(self) -> DataSettings:
        if self.root is not None and self.synthetic is not None:
            raise ValueError("give either `root` or `synthetic`, not both")
        return self


# --------------------------------------------------------------------------- model, training


class ModelSettings(Settings):
    """A network by its MONAI name and parameters; ``members`` of them form the ensemble.

    Input channels and classes are filled in from the data.
    """

    network: str = "UNet"
    parameters: dict[str, Any] = {
        "channels": [12, 24, 48, 48],
        "strides": [2, 2, 2],
        "norm": "batch",
        "bias": False,
    }
    members: Positive = Field(default=3, le=64)


class OptimiserSettings(Settings):
    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    momentum: Fraction = 0.9


class TrainingSettings(Settings):
    """One site's local training; ``steps`` are per round."""

    optimiser: OptimiserSettings = OptimiserSettings()
    batch_size: Positive = Field(default=16, le=4096)
    loss: Literal["dice_ce", "ce"] = "dice_ce"
    augment: AugmentSettings = AugmentSettings()
    amp: bool = Field(default=True, description="bfloat16 autocast (CUDA and CPU)")
    pseudo_label_share: Fraction = Field(
        default=0.3,
        description="share of a batch drawn from pool patches on which all members agree",
    )
    pseudo_label_threshold: float = Field(default=0.9, gt=0.5, lt=1.0)


class IgniterSettings(Settings):
    """The first model, trained at one site on its own labels."""

    site: str | None = Field(default=None, description="none: the center with the most cases")
    steps: Steps = 500
    learning_rate: float = Field(default=3e-3, gt=0)


# --------------------------------------------------------------------------- federation, selection


class StrategySettings(Settings):
    """A federated strategy by name with its parameters (see ``strategies``)."""

    name: str = "fedavg"
    parameters: dict[str, Any] = {}


class FederationSettings(Settings):
    strategy: StrategySettings = StrategySettings()
    rounds: Positive = Field(default=8, le=10_000)
    steps_per_round: Steps = 5
    cycles: Positive = Field(
        default=1, le=10_000, description="select → correct → rounds, this many times"
    )
    weighting: Literal["uniform", "examples"] = Field(
        default="uniform",
        description="how a site counts in the average: all equal, or by its training examples",
    )
    central_weight: float = Field(
        default=1.0,
        gt=0,
        description="how much a site that trains on its own labels alone (the owner of the "
        "central set) counts, compared with a site that trains on corrections",
    )
    quorum: Fraction = Field(default=1.0, description="share of asked sites that must answer")
    round_timeout_seconds: float = Field(default=3600.0, gt=0)
    evaluate_every: NotNegative = Field(
        default=0, description="also measure Dice after every n-th round; 0: at the end of a cycle"
    )
    personal: bool = Field(default=False, description="also fine-tune and score a site's own copy")
    personal_steps: Steps = 20


class SelectionSettings(Settings):
    """A query strategy by name with its parameters (see ``client.ranking``)."""

    strategy: str = "anchors_doubt"
    parameters: dict[str, Any] = {}
    patches: Positive = Field(default=5, le=100_000, description="patches per site and cycle")
    per_case_quota: NotNegative = Field(default=0, description="most patches of a case; 0: none")


class ClinicianSettings(Settings):
    """The simulated clinician's modelled time: looking at a patch, then drawing what is wrong."""

    seconds_per_patch: float = Field(default=12.0, ge=0)
    seconds_per_1000_px: float = Field(
        default=20.0, ge=0, description="per 1 000 corrected pixels (2D) or voxels (3D)"
    )


# --------------------------------------------------------------------------- experiment


class ArmSettings(Settings):
    """One compared method. ``draws`` > 1 repeats a random arm and averages it per seed."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9_+-]*$")
    strategy: str
    parameters: dict[str, Any] = {}
    draws: Positive = 1


class ExperimentSettings(Settings):
    """A whole experiment: data, model, arms, budgets and seeds (``fedloop simulate``)."""

    name: str = Field(default="experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    title: str = ""
    reduced: bool = Field(default=False, description="a quick form; the report says so")
    seeds: tuple[NotNegative, ...] = Field(default=(0,), min_length=1)
    budgets: tuple[Positive, ...] = Field(default=(5, 10), min_length=1)
    arms: tuple[ArmSettings, ...] = (
        ArmSettings(name="random", strategy="random", draws=3),
        ArmSettings(name="fg_random", strategy="foreground_random", draws=3),
        ArmSettings(name="uga", strategy="uga"),
        ArmSettings(name="default", strategy="anchors_doubt"),
    )
    bounds: tuple[Literal["site_alone", "pooled", "oracle"], ...] = ()
    bound_steps: Steps = 500
    per_case_quota: NotNegative = Field(default=0, description="most patches of a case; 0: none")
    data: DataSettings = DataSettings()
    imaging: ImagingSettings = ImagingSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    igniter: IgniterSettings = IgniterSettings()
    federation: FederationSettings = FederationSettings()
    clinician: ClinicianSettings = ClinicianSettings()
    pictures_per_center: NotNegative = Field(default=3, description="best, median, worst")
    workers: NotNegative = Field(default=0, description="processes; 0: one per CPU core")
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> ExperimentSettings:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"arm names must differ, found {names}")
        if taken := {"baseline", "oracle", "pooled", "site_alone"} & set(names):
            raise ValueError(f"arm name {sorted(taken)[0]!r} is reserved")
        if sum(arm.strategy == "oracle_error" for arm in self.arms) > 1:
            raise ValueError("at most one arm may use the strategy 'oracle_error'")
        for name in ("seeds", "budgets"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must differ, found {list(values)}")
        for budget in self.budgets:
            if budget % self.federation.cycles:
                raise ValueError(
                    f"budgets: {budget} patches cannot be dealt evenly to "
                    f"{self.federation.cycles} cycles (federation.cycles)"
                )
        return self


# --------------------------------------------------------------------------- campaign


class ModelSpec(Settings):
    """Everything a site needs to rebuild the network and feed it as the coordinator means it."""

    model: ModelSettings
    imaging: ImagingSettings
    classes: tuple[str, ...] = Field(min_length=2)
    in_channels: Positive = 3

    @property
    def spatial_dims(self) -> int:
        return len(self.imaging.patch_size)


class CampaignSettings(Settings):
    """One human-in-the-loop run over some sites: what the coordinator's state machine executes.

    ``initial_model`` is a folder written by ``fedloop.models.store``; without it the campaign
    starts from random weights and ``igniter`` must say who trains the first model.
    """

    campaign: CampaignName
    seed: NotNegative
    spec: ModelSpec
    training: TrainingSettings = TrainingSettings()
    federation: FederationSettings = FederationSettings()
    selection: SelectionSettings | None = Field(
        default=None, description="none: ignite and evaluate only"
    )
    igniter: IgniterSettings | None = None
    initial_model: Path | None = None
    annotating_sites: tuple[str, ...] = ()
    training_sites: tuple[str, ...] = ()
    evaluating_sites: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_a_start(self) -> CampaignSettings:
        if self.initial_model is None and self.igniter is None:
            raise ValueError("give `initial_model` or `igniter`")
        return self
