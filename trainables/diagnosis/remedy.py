"""The cure, tried in a replay before it is recommended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trainables.data.sampler import EpochSampler
from trainables.diagnosis.case import Case
from trainables.diagnosis.references import Ingredient, RateReference, merged_batch_size
from trainables.diagnosis.verdict import Remedy, SwapResult
from trainables.ingredients import Ingredients, Swap

LONGER = 2
"""A cure is replayed over this many times the horizon: a lower rate must not merely delay the event."""

OUTSIDE_THE_CONFIG = {
    "labels": "use the labels of the data index",
    "samples": "train on other samples of the epoch at these steps: shuffle them again or skip them",
}
"""Cures of faults that no config key has made."""


def try_remedy(case: Case, row: SwapResult, swap: Swap, rate: RateReference | None) -> Remedy:
    """The run with only the guilty ingredient put right, over a longer stretch; verified where that stays healthy.

    A run that was erratic from the start is replayed over the same stretch, which is the whole run.
    """
    cure = larger_batch(case) if row.ingredient == "normalization" else swap
    whole_run = case.symptom.kind == "instability"
    if not whole_run:
        longer = case.symptom.onset + LONGER * (case.stop - case.symptom.onset)
        case.stop = min(longer, max(case.stop, case.config.max_steps))
    severity = row.severity_without if whole_run and cure is swap else case.score("remedy", [cure], keep=True)
    change, text = describe(case, row.ingredient, rate)
    return Remedy(change, text, case.thresholds.is_absent(severity), round(severity, 2))


def larger_batch(case: Case) -> Swap:
    """The batch of `global_batch_size` raised to the reference statistics' size; the rate follows the config's rule."""
    config, num_samples = case.config, len(case.recipe.index.train)
    size = merged_batch_size(config.global_batch_size, num_samples)
    sampler = EpochSampler(num_samples, size, config.seed)
    scale = size / config.global_batch_size if config.optim.lr_batch_size is not None else 1.0

    def apply(ingredients: Ingredients) -> Ingredients:
        ids, epochs = sampler.sample_ids(ingredients.step), sampler.epochs(ingredients.step)
        return replace(ingredients.at_rate(ingredients.learning_rate * scale), sample_ids=ids, epochs=epochs)

    return Swap(f"batch of {size}", apply)


def describe(case: Case, ingredient: Ingredient, rate: RateReference | None) -> tuple[dict[str, Any], str]:
    """(changed config keys, one sentence) of the cure for `ingredient`."""
    config = case.config
    match ingredient:
        case "learning_rate":
            assert rate is not None
            return describe_rate(case, rate)
        case "normalization":
            size = merged_batch_size(config.global_batch_size, len(case.recipe.index.train))
            text = f"raise global_batch_size to {size}, so that statistics are over {size} samples"
            return {"global_batch_size": size}, text
        case "pixels":
            name = case.recipe.reference_normalization.name
            change = {"data.normalization": name} if config.data.normalization != name else {}
            return change, f"decode and normalise with {name} statistics from step {case.symptom.onset} on"
        case "labels" | "samples":
            return {}, OUTSIDE_THE_CONFIG[ingredient]
        case "number_format":
            return {"precision.amp": "fp32"}, "train in float32"


def describe_rate(case: Case, rate: RateReference) -> tuple[dict[str, Any], str]:
    """Hold the rate of before the jump, or go down the ladder."""
    schedule, optim = case.config.schedule, case.config.optim
    if rate.changed_at is None:
        change = {"optim.lr": optim.lr / rate.divisor}
        return change, f"lower optim.lr from {optim.lr:g} to {optim.lr / rate.divisor:g}"
    text = f"hold the learning rate at {rate.rate:.4g} after step {rate.changed_at}"
    if schedule.kind == "multi_step" and rate.changed_at in schedule.milestones:
        return {"schedule.milestones": [m for m in schedule.milestones if m < rate.changed_at]}, text
    return {}, text
