"""Faults below the seam: files on disk, the config, modules, the optimizer, memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from tests.benchmarks.diagnosis.bases import Base, Values
from tests.benchmarks.diagnosis.damage import Damage, bgr, blackened, halved, noise, relabelled
from tests.benchmarks.diagnosis.variant import (
    Changes,
    Fits,
    Reindex,
    Variant,
    anywhere,
    batch_normed,
    with_adam,
    with_sgd,
)
from trainables.config import TrialConfig
from trainables.data.index import ImageIndex
from trainables.ingredients import Edit
from trainables.norms import batch_norms
from trainables.state import TrainState

LIVE = "the state changed outside of any step, which no replay brings back; what it changed names the rest"
IN_ALL = "a rate of this height is at fault at every step: the missing warm-up is no other cause"
NO_RULE = "the batch shrank and the rate did not: too high for it, by the linear rule"


def files(name: str, damage: Damage, *causes: str, why: str = "") -> Variant:
    """Files that come from the onset on are damaged on disk; the index was counted before."""
    return Variant(name, "files", causes, why, damage=damage)


def files_from_start(name: str, damage: Damage, *causes: str, why: str = "") -> Variant:
    """All training files are damaged, as they were when the index was counted."""
    return Variant(name, "files", causes, why, from_start=True, patient=True, damage=damage)


def config(
    name: str, changes: Values | Changes, *causes: str, fits: Fits = anywhere, why: str = "", **more: Any
) -> Variant:
    """A config that is wrong from step 0 on."""
    make: Changes = changes if callable(changes) else lambda _base, _config: changes
    return Variant(
        name, "config", causes, why, from_start=more.pop("from_start", True), fits=fits, changes=make, **more
    )


def rate_times(factor: float) -> Changes:
    """The peak rate is `factor` times the base's."""
    return lambda _base, config: {"optim": {"lr": factor * config.optim.lr}}


def jump(gamma: float) -> Changes:
    """One more milestone, at the onset: the same run as the base's up to it."""
    return lambda base, _config: {"schedule": {"kind": "multi_step", "milestones": [base.onset], "gamma": gamma}}


def in_steps(config: TrialConfig) -> bool:
    """The rate is constant up to the onset."""
    return config.schedule.kind in ("constant", "multi_step")


def index(name: str, reindex: Reindex, *causes: str, why: str = "") -> Variant:
    """An index that is wrong from step 0 on."""
    return Variant(name, "files", causes, why, from_start=True, reindex=reindex)


def each_batch_norm(change: Callable[[torch.nn.BatchNorm2d], object]) -> Edit:
    """`change` to every batch norm of the live model."""

    def edit(state: TrainState) -> None:
        with torch.no_grad():
            for layer in batch_norms(state.model):
                change(layer)

    return edit


def scale_moments(factor: float) -> Edit:
    """The optimizer's tensors times `factor`."""

    def edit(state: TrainState) -> None:
        for name, tensor in state.tensors().items():
            if name.startswith("optimizer/"):
                tensor.mul_(factor)

    return edit


def step_twice(state: TrainState) -> None:
    """An optimizer whose step is two."""
    once = state.optimizer.step

    def twice() -> None:
        once()
        once()

    state.optimizer.step = twice  # type: ignore[method-assign,assignment] # the fault


def keep_gradients(state: TrainState) -> None:
    """An optimizer that clears nothing."""
    state.optimizer.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]


def flip(parameter: str, bit: int) -> Edit:
    """One bit of a weight, in memory."""

    def edit(state: TrainState) -> None:
        with torch.no_grad():
            state.model.get_parameter(parameter).view(-1).view(torch.int32)[7:8].bitwise_xor_(1 << bit)

    return edit


def model(name: str, edit: Edit, *causes: str, why: str = "", from_start: bool = False) -> Variant:
    """A module that is changed outside of the steps."""
    return Variant(name, "model", causes, why, from_start=from_start, fits=batch_normed, edit=edit)


def optimizer(name: str, edit: Edit, *causes: str, why: str = "") -> Variant:
    """An optimizer that is changed outside of the steps."""
    return Variant(name, "optimizer", causes, why, edit=edit)


def in_255(found: ImageIndex) -> ImageIndex:
    """Moments that were counted without the division by 255."""
    (r, g, b), (x, y, z) = found.channel_mean, found.channel_std
    return replace(found, channel_mean=(255 * r, 255 * g, 255 * b), channel_std=(255 * x, 255 * y, 255 * z))


def small_batch(_base: Base, config: TrialConfig) -> Values:
    """A batch of two whose rate follows the linear rule."""
    return {"global_batch_size": 2, "optim": {"lr": config.optim.lr, "lr_batch_size": config.global_batch_size}}


BELOW_THE_SEAM = (
    files("files-labels-100", relabelled(1.0), "label_shuffle", "label_noise",
          why="drawn labels are right by chance for a tenth"),
    files("files-labels-50", relabelled(0.5), "label_noise", "label_shuffle",
          why="a label drawn at random for half of the samples is both"),
    files("files-labels-offset", relabelled(1.0, offset=1), "label_offset"),
    files("files-black-30", blackened(0.3), "corrupt_images"),
    files("files-black-80", blackened(0.8), "corrupt_images"),
    files("files-noise-50", noise(0.5), "corrupt_images"),
    files("files-halved", halved(1.0), "corrupt_images"),
    files("files-bgr", bgr(1.0), "channel_swap"),
    files_from_start("files-labels-from-0", relabelled(1.0), "label_shuffle", "label_noise"),
    index("index-one-mean", lambda found: replace(found, channel_mean=(0.1, 0.5, 0.9)), "wrong_mean_std"),
    index("index-std-255", in_255, "wrong_mean_std", "scale_255", why="moments of 0..255 for pixels of 0..1 are both"),
    config("config-lr-x30", rate_times(30.0), "lr_too_high", "edge_of_stability", fits=with_sgd, why=IN_ALL),
    config("config-lr-x100", rate_times(100.0), "lr_too_high", "edge_of_stability", why=IN_ALL),
    config("config-lr-tiny", rate_times(1e-4), "lr_too_low", patient=True),
    config("config-decay-2", {"optim": {"weight_decay": 2.0}}, "weight_decay", patient=True),
    config("config-decay-20", {"optim": {"weight_decay": 20.0}}, "weight_decay", patient=True),
    config("config-t-max", lambda base, config: {"optim": {"lr": 10 * config.optim.lr},
                                                 "schedule": {"t_max": base.onset // 2 + 6, "min_factor": 0.0}},
           "lr_jump", "lr_too_high", fits=lambda config: config.schedule.kind == "cosine_warmup",
           why="the rate climbs again to a peak that is ten times as high"),
    config("config-bn-momentum-1", {"model": {"bn_momentum": 1.0}}, "bn_momentum", fits=batch_normed,
           in_evaluation=True),
    config("config-bn-momentum-1e-4", {"model": {"bn_momentum": 1e-4}}, "bn_momentum", fits=batch_normed,
           in_evaluation=True),
    config("config-bn-eps-1e4", {"model": {"bn_eps": 1e4}}, "norm_eps", fits=batch_normed, patient=True),
    config("config-fp16-overflow", {"precision": {"amp": "fp16", "loss_scale": 1e9, "channels_last": True}},
           "fp16_overflow", slow=True),
    config("config-fp16-underflow", {"precision": {"amp": "fp16", "loss_scale": 1e-7, "channels_last": True}},
           "fp16_underflow", slow=True),
    config("config-batch-2", small_batch, "bn_small_batch", patient=True,
           fits=lambda config: config.model.norm == "bn"),
    config("config-batch-2-lr-x8", lambda _base, config: {"global_batch_size": 2, "optim": {"lr": 8 * config.optim.lr}},
           "lr_not_scaled", "lr_too_high", fits=lambda config: config.model.norm == "gn", why=NO_RULE),
    config("config-frozen-bn", {"model": {"norm": "frozen_bn"}}, "bn_frozen", fits=batch_normed, patient=True),
    config("config-adam-eps", {"optim": {"betas": (0.9, 0.0), "eps": 1e-12}}, "adaptive_state_lag", fits=with_adam,
           patient=True),
    config("config-jump-x20", jump(20.0), "lr_jump", fits=in_steps, from_start=False),
    config("config-jump-x100", jump(100.0), "lr_jump", fits=in_steps, from_start=False),
    config("config-no-div255", {"data": {"normalization": "no_div255"}}, "scale_255"),
    config("config-one-scale", {"data": {"normalization": "one_scale"}}, "wrong_mean_std"),
    config("config-bgr", {"data": {"normalization": "bgr"}}, "channel_swap"),
    model("model-gamma-x8", each_batch_norm(lambda layer: layer.weight.mul_(8.0)), "bn_gamma_init",
          "silent_corruption", why=LIVE),
    model("model-gamma-init-x8", each_batch_norm(lambda layer: layer.weight.mul_(8.0)), "bn_gamma_init",
          from_start=True),
    model("model-momentum-1", each_batch_norm(lambda layer: setattr(layer, "momentum", 1.0)), "bn_momentum"),
    model("model-eps-1e4", each_batch_norm(lambda layer: setattr(layer, "eps", 1e4)), "norm_eps"),
    optimizer("optimizer-moments-lost", scale_moments(0.0), "optimizer_state_lost", "silent_corruption", why=LIVE),
    optimizer("optimizer-moments-x1e3", scale_moments(1e3), "silent_corruption", "optimizer_state_lost", why=LIVE),
    optimizer("optimizer-steps-twice", step_twice, "double_step"),
    optimizer("optimizer-keeps-gradients", keep_gradients, "missing_zero_grad"),
    Variant("memory-flip-stem", "memory", ("silent_corruption",), edit=flip("conv1.weight", 30), layer="conv1.weight"),
    Variant("memory-flip-fc", "memory", ("silent_corruption",), edit=flip("fc.weight", 30), layer="fc.weight"),
)  # fmt: skip
