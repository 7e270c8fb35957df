"""The built-in faults: each is a swap of an ingredient for a bad one.

A fault is a function of (recipe, **params) that returns `Ingredients -> Ingredients`, or a `Fault` where that doesn't
say it all; it gets the recipe, so that it can reach the data index and the seed. Anyone's module works the same way:

    faults:
      - {use: "my_package.my_faults:my_fault", start_step: 500, params: {strength: 3}}

    def my_fault(recipe, *, strength):
        return lambda ingredients: ingredients.at_rate(ingredients.learning_rate * strength)

Diagnosis never imports this room.
"""

from trainables.faults.build import Fault, build_faults, edit_state, load_fault
from trainables.faults.code import accumulation_unscaled, double_step, missing_zero_grad, rank_desync, wrong_metric
from trainables.faults.data import (
    black_images,
    noisy_labels,
    non_finite_input,
    offset_labels,
    outlier_samples,
    poisoned_batch,
    shuffled_labels,
    sorted_by_brightness,
    sorted_by_class,
)
from trainables.faults.normalization import (
    batch_norm_eps,
    batch_norm_momentum,
    corrupt_running_statistics,
    frozen_batch_norm,
    large_scale,
    low_precision_statistics,
)
from trainables.faults.numerics import bit_flip, half_precision, unstable_loss
from trainables.faults.optimization import (
    learning_rate_factor,
    learning_rate_of_another_step,
    moment_decay,
    no_warmup,
    optimizer_state_lost,
    weight_decay,
    wrong_t_max,
)
from trainables.faults.preprocessing import evaluation_preprocessing, preprocessing

BUILT_IN = (
    accumulation_unscaled,
    batch_norm_eps,
    batch_norm_momentum,
    bit_flip,
    black_images,
    corrupt_running_statistics,
    double_step,
    evaluation_preprocessing,
    frozen_batch_norm,
    half_precision,
    large_scale,
    learning_rate_factor,
    learning_rate_of_another_step,
    low_precision_statistics,
    missing_zero_grad,
    moment_decay,
    no_warmup,
    noisy_labels,
    non_finite_input,
    offset_labels,
    optimizer_state_lost,
    outlier_samples,
    poisoned_batch,
    preprocessing,
    rank_desync,
    shuffled_labels,
    sorted_by_brightness,
    sorted_by_class,
    unstable_loss,
    weight_decay,
    wrong_metric,
    wrong_t_max,
)

__all__ = [
    "BUILT_IN",
    "Fault",
    "accumulation_unscaled",
    "batch_norm_eps",
    "batch_norm_momentum",
    "bit_flip",
    "black_images",
    "build_faults",
    "corrupt_running_statistics",
    "double_step",
    "edit_state",
    "evaluation_preprocessing",
    "frozen_batch_norm",
    "half_precision",
    "large_scale",
    "learning_rate_factor",
    "learning_rate_of_another_step",
    "load_fault",
    "low_precision_statistics",
    "missing_zero_grad",
    "moment_decay",
    "no_warmup",
    "noisy_labels",
    "non_finite_input",
    "offset_labels",
    "optimizer_state_lost",
    "outlier_samples",
    "poisoned_batch",
    "preprocessing",
    "rank_desync",
    "shuffled_labels",
    "sorted_by_brightness",
    "sorted_by_class",
    "unstable_loss",
    "weight_decay",
    "wrong_metric",
    "wrong_t_max",
]
