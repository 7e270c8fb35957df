"""The catalogue: the ingredients that a replay can swap, and the causes that stand behind them, by group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Ingredient = Literal[
    "learning_rate",
    "weight_decay",
    "moments",
    "state",
    "gradients",
    "step_code",
    "loss",
    "norm_settings",
    "number_format",
    "scales",
    "rank_state",
    "labels",
    "pixels",
    "samples",
    "normalization",
    "running_statistics",
    "evaluation_norm",
    "evaluation_pixels",
    "metric",
]
"""What a step is made of, as far as a replay swaps it. moments: momentum, betas and eps of the optimizer; state: edits
of the state that a step starts from; scales: batch norm's gammas; rank_state: weights that differ between ranks;
normalization: over which samples statistics are taken. The last four are of an evaluation."""

UNEXPLAINED = "unexplained"
"""The verdict where nothing separates the suspects."""
GROUPS: Mapping[str, tuple[str, ...]] = {
    "learning_rate": (
        *("lr_too_high", "warmup_missing", "lr_jump", "lr_not_scaled", "lr_too_low", "adaptive_state_lag"),
        *("weight_decay", "edge_of_stability", "optimizer_state_lost"),
    ),
    "normalization": (
        *("bn_small_batch", "bn_momentum", "bn_stats_corrupt", "bn_frozen", "bn_gamma_init", "norm_eps"),
        "bn_low_precision",
    ),
    "data": ("batch_shift", "poisoned_batch", "label_shuffle", "label_offset", "label_noise"),
    "preprocessing": (
        *("wrong_mean_std", "channel_swap", "scale_255", "train_eval_mismatch", "corrupt_images", "outlier_samples"),
        "non_finite_input",
    ),
    "numerics": ("fp16_overflow", "fp16_underflow", "silent_corruption", "loss_numerics"),
    "code": ("missing_zero_grad", "double_step", "accumulation_unscaled", "rank_desync", "metric_bug"),
}
"""Group -> its causes. `lr_too_high` stands for `edge_of_stability` and `lr_not_scaled` too: no probe parts them. A
rate that is 30 times too high heals with 16 times the batch, just as one that was not scaled with it."""

GROUP_OF: Mapping[str, str] = {cause: group for group, causes in GROUPS.items() for cause in causes}
"""Cause -> its group."""
GROUP_OF_INGREDIENT: Mapping[Ingredient, str] = {
    "learning_rate": "learning_rate",
    "weight_decay": "learning_rate",
    "moments": "learning_rate",
    "state": "numerics",
    "gradients": "code",
    "step_code": "code",
    "loss": "numerics",
    "norm_settings": "normalization",
    "number_format": "numerics",
    "scales": "normalization",
    "rank_state": "code",
    "labels": "data",
    "pixels": "preprocessing",
    "samples": "data",
    "normalization": "normalization",
    "running_statistics": "normalization",
    "evaluation_norm": "normalization",
    "evaluation_pixels": "preprocessing",
    "metric": "code",
}


def group_of(cause: str, ingredient: Ingredient) -> str:
    """The group of a cause; that of the guilty ingredient where the catalogue doesn't have the cause."""
    return GROUP_OF.get(cause, GROUP_OF_INGREDIENT[ingredient])
