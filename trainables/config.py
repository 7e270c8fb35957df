"""TrialConfig: everything that one training run is a function of.

A config is checked where it is built: `TrialConfig.parse(mapping)` raises `ConfigError` with one line
that names the key, the value, what is allowed and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeGuard, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from trainables.errors import ConfigError, complaint

NormName = Literal["bn", "ghost_bn", "gn", "frozen_bn"]
NormalizationName = Literal["per_channel", "imagenet", "one_scale", "no_div255", "bgr"]
ScheduleKind = Literal["constant", "step", "cosine", "cosine_warmup", "one_cycle"]

PositiveInt = Annotated[int, Field(ge=1)]
Step = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A frozen section of a config; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("a value that is no boolean")
        return value

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Check `values` and build the section; raises ConfigError, one line, for the first fault."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(explain_first(error, cls)) from None


class DataConfig(Section):
    """Which images, and how they become the model's input."""

    path: str = "digits"
    """`digits` (scikit-learn's handwritten digits, embedded) or a folder with train/ and val/, each of class
    folders."""
    image_size: Annotated[int, Field(ge=8, le=1024)] = 32
    """Side of the square that the model sees, in pixels."""
    normalization: NormalizationName = "per_channel"
    """How uint8 pixels become floats: per_channel (the data set's own mean and std), imagenet, or a discrepancy that
    people really make: one_scale (one mean and std for all channels), no_div255 (missing /255), bgr (channels
    reversed)."""
    augment: Literal["none", "flip", "crop", "crop_flip"] = "crop"
    """Random resized crop and horizontal flip, drawn per (seed, epoch, sample id)."""
    loader_threads: Annotated[int, Field(ge=0, le=64)] = 1
    """Threads that decode ahead; 0 decodes in the step. Changes nothing but speed."""


class ModelConfig(Section):
    """The network."""

    name: Literal["resnet18", "resnet50"] = "resnet50"
    """Constructor in torchvision.models."""
    norm: NormName = "bn"
    """Normalisation layer: bn, ghost_bn (statistics over `ghost_batch_size` samples), gn (32 groups), frozen_bn."""
    ghost_batch_size: Annotated[int, Field(ge=2)] = 16
    """Samples that share statistics under ghost_bn."""
    zero_init_last_gamma: bool = True
    """Each residual branch starts at zero (Goyal et al. 2017, section 5.1)."""


class OptimConfig(Section):
    """SGD with momentum."""

    lr: Positive = 0.1
    """Peak learning rate; where `lr_batch_size` is set, the rate for a batch of that size."""
    lr_batch_size: PositiveInt | None = None
    """Linear scaling rule: the rate in use is lr * global_batch_size / lr_batch_size. None: lr is used as it is."""
    momentum: Fraction = 0.9
    """SGD momentum."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: NonNegative = 5e-5
    """L2 penalty on weights; norms and biases are left out."""
    clip_grad_norm: Positive | None = None
    """Largest global gradient norm, in L2; None: no clipping."""


class ScheduleConfig(Section):
    """Learning rate as a function of the step; every number is in steps."""

    kind: ScheduleKind = "cosine_warmup"
    """constant, step, cosine, cosine_warmup, one_cycle."""
    warmup_steps: Step = 10
    """cosine_warmup: steps of linear ramp from 0 to the peak. one_cycle: steps of the rising half."""
    milestones: tuple[PositiveInt, ...] = ()
    """step: at each of these steps the rate is multiplied by `gamma`."""
    gamma: Positive = 0.1
    """step: the factor at each milestone. Above 1 the rate jumps up, as at the end of a constant warm-up."""
    start_factor: Positive = 1.0
    """step: the first rate as a share of the peak (0.1 with gamma 10: a constant warm-up that ends in a jump)."""

    @model_validator(mode="after")
    def _milestones_rise(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones must rise: each step once, in ascending order")
        return self


class PrecisionConfig(Section):
    """Number format and memory layout."""

    amp: Literal["fp32", "bf16"] = "fp32"
    """fp32, or bf16 autocast with float32 weights."""
    channels_last: bool = True
    """Memory layout of images and filters."""


class DetectorConfig(Section):
    """When a run counts as ill. Scores are in units of the run's own noise."""

    enabled: bool = True
    """False: train on whatever happens."""
    history: Annotated[int, Field(ge=8)] = 40
    """Steps of accepted loss that make the baseline."""
    min_history: Annotated[int, Field(ge=4)] = 16
    """Steps before any rule but 'non-finite' and 'input shift' may fire."""
    spike_score: Positive = 6.0
    """Excess over the baseline's median, in noise units, that makes a step suspicious."""
    confirm: PositiveInt = 4
    """Suspicious steps, of the last 2 * confirm, that confirm a symptom; one bad batch never does."""
    erratic_window: Annotated[int, Field(ge=8)] = 60
    """Steps over which a run that is worse than guessing and noisy counts as unstable, from the second window on."""

    @model_validator(mode="after")
    def _rules_can_fire(self) -> Self:
        if self.min_history > min(self.history, 2 * self.erratic_window):
            allowed = (
                f"up to detector.history ({self.history}) and twice detector.erratic_window ({self.erratic_window})"
            )
            raise ValueError(complaint("detector.min_history", self.min_history, allowed, "lower it"))
        return self


class DiagnosisConfig(Section):
    """The replay diagnosis."""

    enabled: bool = True
    """False: a trial with a symptom stops without a cause."""
    snapshot_every: PositiveInt = 10
    """Steps between snapshots kept in memory for replay."""
    snapshots: Annotated[int, Field(ge=2)] = 4
    """Recent snapshots kept, besides step 0's."""
    horizon: PositiveInt = 16
    """Steps replayed after the onset of the symptom."""
    replicates: Annotated[int, Field(ge=1, le=32)] = 2
    """Further replays, each with another placebo, that confirm the leading causes."""
    present_score: Positive = 6.0
    """tau_hi: severity, in noise units, from which an event counts as present."""
    absent_score: Positive = 3.0
    """tau_lo: severity up to which it counts as absent; between the two a replay is inconclusive."""
    min_confidence: Fraction = 0.6
    """Below it the verdict is `unexplained`."""
    timeout_s: Positive = 900.0
    """Seconds after which stopper and scheduler may end a trial whose diagnosis has not come."""

    @model_validator(mode="after")
    def _thresholds_are_apart(self) -> Self:
        if self.absent_score >= self.present_score:
            allowed = f"below diagnosis.present_score ({self.present_score:g})"
            raise ValueError(complaint("diagnosis.absent_score", self.absent_score, allowed, "lower it"))
        return self


class FaultConfig(Section):
    """One injected fault: a swap of an ingredient for a bad one."""

    use: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")]
    """Import path `module:Name`; the built-in ones are in trainables.faults."""
    start_step: Step = 0
    """First step it acts on."""
    stop_step: PositiveInt | None = None
    """First step it no longer acts on; None: it stays."""
    params: dict[str, Any] = {}
    """Keyword arguments of the fault."""

    @model_validator(mode="after")
    def _acts_on_a_step(self) -> Self:
        if self.stop_step is not None and self.stop_step <= self.start_step:
            allowed = f"above start_step ({self.start_step}), or null"
            raise ValueError(complaint("faults.stop_step", self.stop_step, allowed, "raise stop_step"))
        return self


class TrialConfig(Section):
    """One training run; step k is a function of (config, seed, k) and nothing else."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Keys the weights, the sample order and the augmentation."""
    max_steps: PositiveInt = 100
    """Optimizer steps of the whole run."""
    global_batch_size: PositiveInt = 32
    """Samples of one step over all workers."""
    eval_every: PositiveInt = 25
    """Steps between evaluations on val/; the last step is always evaluated."""
    report_every: PositiveInt = 10
    """Steps between reports."""
    threads: Annotated[int, Field(ge=1, le=256)] = 2
    """Intra-op threads of torch on a CPU. Part of the config because sums depend on it to the last bit."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    precision: PrecisionConfig = PrecisionConfig()
    detector: DetectorConfig = DetectorConfig()
    diagnosis: DiagnosisConfig = DiagnosisConfig()
    faults: tuple[FaultConfig, ...] = ()

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if self.schedule.kind in ("cosine_warmup", "one_cycle") and self.schedule.warmup_steps >= self.max_steps:
            raise ValueError(
                f"schedule.warmup_steps: {self.schedule.warmup_steps} is not allowed; allowed: below max_steps "
                f"({self.max_steps}); remedy: shorten the warm-up or train longer"
            )
        return self


def explain_first(error: ValidationError, root: type[BaseModel]) -> str:
    """Turn the first of pydantic's findings into one line of our own form."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path) or "config"
    value = first.get("input")
    if first["type"] == "extra_forbidden":
        known = _known_keys(root, path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        remedy = f"write {near[0]!r}" if near else "remove it"
        return complaint(key, value, f"the keys {', '.join(sorted(known))}", remedy)
    if first["type"] == "value_error":
        message = str(first["msg"]).removeprefix("Value error, ")
        return message if "; remedy: " in message else complaint(key, value, message, "correct it")
    allowed = str(first["msg"]).removeprefix("Input should be ")
    return complaint(
        key, value, allowed[:1].lower() + allowed[1:], f"correct {key} in the YAML or with --set {key}=..."
    )


def _known_keys(root: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the section that lies at `path` below `root`."""
    section = root
    for part in path:
        if part in section.model_fields:
            annotation = section.model_fields[part].annotation
            section = next((a for a in (annotation, *get_args(annotation)) if _is_section(a)), section)
    return list(section.model_fields)


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
