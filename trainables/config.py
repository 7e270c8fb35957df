"""TrialConfig: everything that one training run is a function of.

A config is checked where it is built: `TrialConfig.parse(mapping)` raises `ConfigError` with one line
that names the key, the value, what is allowed and the remedy. Lengths are in steps; a YAML may give them in epochs
(`90ep`), see `trainables.epochs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from trainables.data_config import DataConfig
from trainables.diagnosis_config import DiagnosisConfig
from trainables.epochs import in_steps
from trainables.errors import complaint
from trainables.section import Fraction, NonNegative, Positive, PositiveInt, Section, Step

NormName = Literal[
    "bn", "sync_bn", "ghost_bn", "frozen_bn", "gn", "gn_ws", "evonorm_s0", "frn_tlu", "batch_renorm", "norm_free"
]
ScheduleKind = Literal[
    "constant",
    "step",
    "multi_step",
    "cosine",
    "cosine_warmup",
    "warm_restarts",
    "one_cycle",
    "polynomial",
    "warmup_stable_decay",
]
WARMED_UP: tuple[ScheduleKind, ...] = ("cosine_warmup", "one_cycle", "polynomial", "warmup_stable_decay")
OptimizerName = Literal["sgd", "adamw", "lars", "lamb"]
AmpName = Literal["fp32", "tf32", "bf16", "fp16"]

SMALL_IMAGE = 64
"""Below this side, in pixels, the stem is a 3x3 convolution of stride 2 without max-pooling: with ImageNet's stem the
last stage would be a single pixel, and batch norm at a small batch would see almost no values."""


class ModelConfig(Section):
    """The network."""

    name: Literal["resnet18", "resnet50"] = "resnet50"
    """Constructor in torchvision.models."""
    width: Annotated[float, Field(ge=0.5, multiple_of=0.5)] = 1.0
    """Channels of every stage over that constructor's; a half, for quick trials, has a quarter of the weights."""
    norm: NormName = "bn"
    """Normalisation layer: bn, sync_bn (statistics over all ranks), ghost_bn (over `ghost_batch_size` samples),
    frozen_bn, gn (32 groups), gn_ws (with weight standardisation), evonorm_s0, frn_tlu, batch_renorm, or norm_free
    (timm's nf_resnet50; wants optim.agc)."""
    ghost_batch_size: Annotated[int, Field(ge=2)] = 16
    """Samples that share statistics under ghost_bn."""
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the batch's statistics in the running ones, of every kind of batch norm."""
    bn_eps: Positive = 1e-5
    """Added to the variance by every kind of batch norm."""
    zero_init_last_gamma: bool = True
    """Each residual branch starts at zero (Goyal et al. 2017, section 5.1)."""

    @model_validator(mode="after")
    def _norm_free_exists(self) -> Self:
        if self.norm == "norm_free" and self.name != "resnet50":
            raise ValueError(complaint("model.name", self.name, "resnet50 with norm_free", "set model.name=resnet50"))
        if self.norm == "norm_free" and self.width != 1.0:
            raise ValueError(complaint("model.width", self.width, "1.0 with norm_free", "leave it out"))
        return self


class OptimConfig(Section):
    """The loss and its optimizer."""

    kind: OptimizerName = "sgd"
    """sgd, adamw, lars or lamb (the last two for large batches)."""
    lr: Positive = 0.1
    """Peak learning rate; where `lr_batch_size` is set, the rate for a batch of that size."""
    lr_batch_size: PositiveInt | None = None
    """Linear scaling rule: the rate in use is lr * global_batch_size / lr_batch_size. null: lr is used as it is."""
    momentum: Fraction = 0.9
    """Momentum of sgd and lars."""
    nesterov: bool = False
    """Nesterov's form of the momentum, for sgd and lars."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay rates of the moments of adamw and lamb."""
    eps: Positive = 1e-8
    """Added to the root of the second moment, for adamw and lamb."""
    trust_coefficient: Positive = 0.001
    """lars: a layer's rate is this share of the ratio of its weight norm to its gradient norm."""
    weight_decay: NonNegative = 5e-5
    """L2 penalty (sgd, lars), decoupled decay (adamw), or decay before the trust ratio (lamb) on weights."""
    decay_norms: bool = False
    """true: scale and shift of norm layers are decayed too."""
    decay_biases: bool = False
    """true: the biases of convolutions and of the classifier are decayed too."""
    clip_grad_norm: Positive | None = None
    """Largest global gradient norm, in L2; null: no clipping."""
    agc: Positive | None = None
    """Adaptive gradient clipping: largest norm of a unit's gradient over that of its weight (Brock et al. 2021); the
    classifier is left out. null: none."""
    micro_batch_size: PositiveInt | None = None
    """Gradient accumulation: the most samples that one rank sends through the network at once; null: its whole share
    of the batch."""
    label_smoothing: Fraction = 0.0
    """Share of the target that is spread over all classes."""
    loss: Literal["ce", "bce"] = "ce"
    """ce: cross-entropy; bce: binary cross-entropy of each class (Wightman et al. 2021)."""
    ema_decay: Fraction | None = None
    """Exponential moving average of the weights, which is what evaluation then uses; null: none."""
    fused: bool = True
    """One kernel for the whole update of sgd and adamw. Differs from the plain one in the last bits."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0 and self.kind in ("sgd", "lars"):
            allowed, remedy = "above 0 with optim.nesterov", "raise it, or set optim.nesterov=false"
            raise ValueError(complaint("optim.momentum", self.momentum, allowed, remedy))
        return self


class ScheduleConfig(Section):
    """Learning rate as a function of the step; lengths are in steps."""

    kind: ScheduleKind = "cosine_warmup"
    """constant, step, multi_step, cosine, cosine_warmup, warm_restarts, one_cycle, polynomial, warmup_stable_decay."""
    warmup_steps: Step = 10
    """cosine_warmup, polynomial, warmup_stable_decay: steps of linear ramp to the peak. one_cycle: steps of the rising
    half."""
    step_size: PositiveInt | None = None
    """step: the rate is multiplied by `gamma` each so many steps."""
    milestones: tuple[PositiveInt, ...] = ()
    """multi_step: at each of these steps the rate is multiplied by `gamma`."""
    gamma: Positive = 0.1
    """step, multi_step: the factor. Above 1 the rate jumps up, as at the end of a constant warm-up."""
    start_factor: Positive = 1.0
    """step, multi_step: the first rate as a share of the peak (0.1 with gamma 10: a constant warm-up that ends in a
    jump)."""
    t_max: PositiveInt | None = None
    """cosine, cosine_warmup: the step at which the rate reaches its minimum; null: max_steps. Training past it lets the
    rate climb again, a classic mistake."""
    period: PositiveInt | None = None
    """warm_restarts: steps of the first cycle."""
    period_factor: PositiveInt = 1
    """warm_restarts: each cycle is so many times as long as the one before."""
    power: Positive = 2.0
    """polynomial: exponent of the decay."""
    decay_steps: PositiveInt | None = None
    """warmup_stable_decay: steps of the final linear decay."""
    min_factor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Least rate as a share of the peak: cosine, cosine_warmup, warm_restarts, polynomial, warmup_stable_decay."""

    @model_validator(mode="after")
    def _lengths_are_given(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones must rise: each step once, in ascending order")
        if self.milestones and self.kind != "multi_step":
            allowed = f"empty under schedule.kind {self.kind}"
            raise ValueError(complaint("schedule.milestones", self.milestones, allowed, "set schedule.kind=multi_step"))
        needed = {"step": "step_size", "warm_restarts": "period", "warmup_stable_decay": "decay_steps"}.get(self.kind)
        if needed is not None and getattr(self, needed) is None:
            allowed = f"a number of steps under schedule.kind {self.kind}"
            raise ValueError(complaint(f"schedule.{needed}", None, allowed, f"set schedule.{needed}"))
        return self


class PrecisionConfig(Section):
    """Number format and memory layout."""

    amp: AmpName = "fp32"
    """fp32; tf32 (a GPU's matrix units round inputs to 10 bits); bf16 or fp16 autocast with float32 weights, fp16 with
    a loss scaler."""
    loss_scale: Positive | None = None
    """A fixed loss scale, under fp16; null: a scale that adapts, as torch.amp.GradScaler's."""
    channels_last: bool = True
    """Memory layout of images and filters."""
    compile: bool = False
    """torch.compile the network: faster on a GPU, other last bits."""

    @model_validator(mode="after")
    def _scale_has_fp16(self) -> Self:
        if self.loss_scale is not None and self.amp != "fp16":
            allowed, remedy = f"null under precision.amp {self.amp}", "set precision.amp=fp16, or leave it out"
            raise ValueError(complaint("precision.loss_scale", self.loss_scale, allowed, remedy))
        return self


class CheckpointConfig(Section):
    """States on disk that an interrupted run goes on from."""

    every: Step = 500
    """Steps between checkpoints; 0: none. A run of fewer steps keeps none, unless it is told to stop."""
    keep: Annotated[int, Field(ge=2)] = 2
    """Latest checkpoints kept; of those that were evaluated at their step, the one with the best val_top1 is kept
    besides."""


class DetectorConfig(Section):
    """When a run counts as ill. Scores are in units of the run's own noise."""

    enabled: bool = True
    """false: train on whatever happens."""
    history: Annotated[int, Field(ge=8)] = 40
    """Steps of accepted loss that make the baseline."""
    min_history: Annotated[int, Field(ge=4)] = 16
    """Steps before any rule but 'non-finite', 'wrong update', 'ranks apart' and 'input shift' may fire."""
    spike_score: Positive = 6.0
    """Excess over the baseline's median, in noise units, that makes a step suspicious."""
    confirm: PositiveInt = 4
    """Suspicious steps, of the last 2 * confirm, that confirm a symptom; one bad batch never does."""
    erratic_window: Annotated[int, Field(ge=8)] = 60
    """Steps over which a run that is worse than guessing and noisy counts as unstable, from the second window on."""
    stall_steps: PositiveInt = 2000
    """Steps past the warm-up after which a run whose loss never left chance has stalled. A ResNet-50 on ImageNet leaves
    it within 1,400 steps under every optimizer of AlgoPerf's logs."""
    stall_share: Fraction = 0.5
    """The same as a share of max_steps, for shorter runs."""

    @model_validator(mode="after")
    def _rules_can_fire(self) -> Self:
        if self.min_history > min(self.history, 2 * self.erratic_window):
            allowed = (
                f"up to detector.history ({self.history}) and twice detector.erratic_window ({self.erratic_window})"
            )
            raise ValueError(complaint("detector.min_history", self.min_history, allowed, "lower it"))
        return self


class FaultConfig(Section):
    """One injected fault: a swap of an ingredient for a bad one."""

    use: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")]
    """Import path `module:Name`; the built-in ones are in trainables.faults."""
    start_step: Step = 0
    """First step it acts on."""
    stop_step: PositiveInt | None = None
    """First step it no longer acts on; null: it stays."""
    params: dict[str, Any] = Field(default_factory=dict)
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
    """Samples of one step over all ranks."""
    eval_every: PositiveInt = 25
    """Steps between evaluations on val/; the last step is always evaluated."""
    report_every: PositiveInt = 10
    """Steps between reports."""
    read_every: PositiveInt = 16
    """Steps whose signals are read from a GPU at once, so that it never waits; on a CPU each step is read by itself."""
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
    checkpoint: CheckpointConfig = CheckpointConfig()
    faults: tuple[FaultConfig, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _lengths_in_steps(cls, values: Any) -> Any:
        return in_steps(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        schedule, last = self.schedule, self.max_steps
        if schedule.kind in WARMED_UP and schedule.warmup_steps >= last:
            allowed, remedy = f"below max_steps ({last})", "shorten the warm-up or train longer"
            raise ValueError(complaint("schedule.warmup_steps", schedule.warmup_steps, allowed, remedy))
        if schedule.kind == "cosine_warmup" and schedule.t_max is not None and schedule.t_max <= schedule.warmup_steps:
            allowed = f"above schedule.warmup_steps ({schedule.warmup_steps})"
            raise ValueError(complaint("schedule.t_max", schedule.t_max, allowed, "raise it"))
        if schedule.kind == "warmup_stable_decay" and (schedule.decay_steps or 0) > last - schedule.warmup_steps:
            allowed = f"up to max_steps - schedule.warmup_steps ({last - schedule.warmup_steps})"
            raise ValueError(complaint("schedule.decay_steps", schedule.decay_steps, allowed, "lower it"))
        return self

    @model_validator(mode="after")
    def _images_grow_in_time(self) -> Self:
        if self.data.start_size is not None and self.data.grow_steps[1] > self.max_steps:
            allowed = f"up to max_steps ({self.max_steps}), or data.image_size is never reached"
            raise ValueError(complaint("data.grow_steps", list(self.data.grow_steps), allowed, "let them grow sooner"))
        return self
