"""Faults through the seam: the built-in ones, in several strengths."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.diagnosis.variant import Fits, Variant, anywhere, batch_normed, with_adam, with_sgd
from trainables.config import TrialConfig


def seam(name: str, fault: str, *causes: str, fits: Fits = anywhere, why: str = "", **params: Any) -> Variant:
    """A built-in fault from the onset on."""
    return Variant(name, "seam", causes, why, fits=fits, faults=((fault, params),))


def unseen(name: str, fault: str, *causes: str, fits: Fits = anywhere, why: str = "", **params: Any) -> Variant:
    """A built-in fault that only evaluations can show."""
    return Variant(name, "seam", causes, why, fits=fits, in_evaluation=True, faults=((fault, params),))


def flipped(name: str, parameter: str) -> Variant:
    """A bit of one parameter, on rank 0."""
    faults = (("bit_flip", {"parameter": parameter}),)
    return Variant(name, "seam", ("silent_corruption",), layer=parameter, rank=0, faults=faults)


def sgd_batch_normed(config: TrialConfig) -> bool:
    """Batch norm under an optimizer that follows the gradient's size."""
    return batch_normed(config) and with_sgd(config)


STUCK = "a buffer that is stuck gives batches that the sampler did not draw, all of the same few samples"
TOO_LATE = "at the onset the peak rate is a jump from the rate before"

SEAM = (
    seam("lr-x10", "learning_rate_factor", "lr_jump", factor=10.0),
    seam("lr-x30", "learning_rate_factor", "lr_jump", factor=30.0),
    seam("lr-x100", "learning_rate_factor", "lr_jump", factor=100.0),
    seam("moments-lost", "optimizer_state_lost", "optimizer_state_lost"),
    seam("decay-1", "weight_decay", "weight_decay", value=1.0),
    seam("decay-10", "weight_decay", "weight_decay", value=10.0),
    seam("beta2-0", "moment_decay", "adaptive_state_lag", fits=with_adam, beta2=0.0, eps=1e-12),
    seam("frozen-bn", "frozen_batch_norm", "bn_frozen", fits=batch_normed),
    seam("gamma-x4", "large_scale", "bn_gamma_init", fits=batch_normed, factor=4.0),
    seam("gamma-x16", "large_scale", "bn_gamma_init", fits=batch_normed, factor=16.0),
    seam("eps-100", "batch_norm_eps", "norm_eps", fits=batch_normed, eps=100.0),
    seam("eps-1e4", "batch_norm_eps", "norm_eps", fits=batch_normed, eps=1e4),
    seam("labels-shuffled", "shuffled_labels", "label_shuffle"),
    seam("labels-offset", "offset_labels", "label_offset"),
    seam("labels-noisy-30", "noisy_labels", "label_noise", share=0.3),
    seam("labels-noisy-60", "noisy_labels", "label_noise", "label_shuffle", share=0.6,
         why="a label drawn at random for most samples is both"),
    seam("sorted-class", "sorted_by_class", "batch_shift"),
    seam("sorted-bright", "sorted_by_brightness", "batch_shift"),
    seam("stuck-4", "poisoned_batch", "poisoned_batch", "batch_shift", why=STUCK),
    seam("black-30", "black_images", "corrupt_images", share=0.3),
    seam("black-80", "black_images", "corrupt_images", share=0.8),
    seam("outliers-1e3", "outlier_samples", "outlier_samples", share=0.1, factor=1e3),
    seam("outliers-30", "outlier_samples", "outlier_samples", share=0.1, factor=30.0),
    seam("nan-pixel", "non_finite_input", "non_finite_input"),
    seam("one-scale", "preprocessing", "wrong_mean_std", normalization="one_scale"),
    seam("no-div255", "preprocessing", "scale_255", normalization="no_div255"),
    seam("bgr", "preprocessing", "channel_swap", normalization="bgr"),
    Variant("fp16-overflow", "seam", ("fp16_overflow",), slow=True,
            faults=(("half_precision", {"loss_scale": 1e9}),)),
    Variant("fp16-underflow", "seam", ("fp16_underflow",), slow=True,
            faults=(("half_precision", {"loss_scale": 1e-7}),)),
    seam("unstable-loss", "unstable_loss", "loss_numerics"),
    flipped("bit-flip-stem", "conv1.weight"),
    flipped("bit-flip-fc", "fc.weight"),
    seam("no-zero-grad", "missing_zero_grad", "missing_zero_grad"),
    seam("double-step", "double_step", "double_step"),
    seam("unscaled-8", "accumulation_unscaled", "accumulation_unscaled", fits=with_sgd, parts=8),
    seam("unscaled-32", "accumulation_unscaled", "accumulation_unscaled", fits=with_sgd, parts=32),
    unseen("bn-momentum-1", "batch_norm_momentum", "bn_momentum", fits=batch_normed, momentum=1.0),
    unseen("bn-momentum-1e-4", "batch_norm_momentum", "bn_momentum", fits=batch_normed, momentum=1e-4),
    unseen("bn-stats-x1e4", "corrupt_running_statistics", "bn_stats_corrupt", fits=batch_normed, factor=1e4),
    unseen("bn-stats-bf16", "low_precision_statistics", "bn_low_precision", fits=batch_normed),
    unseen("eval-no-div255", "evaluation_preprocessing", "train_eval_mismatch", "scale_255",
           normalization="no_div255", why="the mismatch is a missing division by 255"),
    unseen("eval-bgr", "evaluation_preprocessing", "train_eval_mismatch", "channel_swap", normalization="bgr",
           why="the mismatch is a swap of channels"),
    unseen("wrong-metric", "wrong_metric", "metric_bug"),
    Variant("no-warmup-lr-x10", "seam", ("warmup_missing", "lr_too_high"), from_start=True,
            fits=lambda config: config.schedule.kind == "cosine_warmup",
            why="with the rate ten times as high both the missing warm-up and the rate are at fault",
            changes=lambda base, config: {"optim": {"lr": 10 * config.optim.lr}}, faults=(("no_warmup", {}),)),
)  # fmt: skip
