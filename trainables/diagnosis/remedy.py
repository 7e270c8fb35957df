"""The cure, tried in a replay before it is recommended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables.config import ModelConfig, OptimConfig
from trainables.diagnosis.case import Case
from trainables.diagnosis.causes import Ingredient
from trainables.diagnosis.cures import cure_of
from trainables.diagnosis.references import RateReference, Reference, merged_batch_size
from trainables.diagnosis.references.rates import WARM_UP
from trainables.diagnosis.replay import FROM_THE_START
from trainables.diagnosis.swap_table import SwapResult
from trainables.diagnosis.verdict import Remedy
from trainables.interventions import build_swap
from trainables.schedules import RAMPED

LONGER = 2
"""A cure is replayed over this many times the horizon: a lower rate must not merely delay the event."""

OUTSIDE_THE_CONFIG: Mapping[Ingredient, str] = {
    "state": "find what changes the state between steps, and go on from a snapshot before it",
    "gradients": "find what changes the gradients after the backward pass",
    "step_code": "train with the reference step: clear, forward, backward, one optimizer step",
    "loss": "use the loss of the config, which takes the logarithm of the softmax in one",
    "labels": "use the labels of the data index",
    "samples": "train on other samples of the epoch at these steps: shuffle them again or skip them",
}
"""Cures of faults that no config key has made."""


def try_remedy(case: Case, row: SwapResult, reference: Reference, rate: RateReference | None) -> Remedy:
    """The run with only the guilty ingredient put right, over a longer stretch; verified where that stays healthy.

    A run that was erratic from the start is replayed over the same stretch, which is the whole run. Where the budget
    doesn't go any further, the replay of the screening has to do.
    """
    cure = cure_of(case, reference, rate)
    swap = reference.swap if cure is None else build_swap(cure, case.recipe)
    # Then the screening has replayed the very same steps.
    screened = cure is None or cure.kind not in ("larger_batch", "skip_samples", "config_order")
    change, text = describe(case, reference, rate)
    with case.until(last_step_of_cure(case, rate)):
        if (case.symptom.kind in FROM_THE_START and screened) or not case.affords(1):
            verified = screened and case.thresholds.is_absent(row.severity_without)
            return Remedy(change, text, verified, row.severity_without, cure)
        severity = case.score("remedy", [swap], keep=True)
    return Remedy(change, text, case.thresholds.is_absent(severity), round(severity, 2), cure)


def last_step_of_cure(case: Case, rate: RateReference | None) -> int:
    """LONGER horizons past the onset, and one past a ramp, as far as the run and the budget go."""
    if case.symptom.kind in FROM_THE_START:
        return case.stop
    longer = case.symptom.onset + LONGER * (case.stop - case.symptom.onset)
    if rate is not None and rate.ramp:
        longer = max(longer, rate.ramp + case.config.diagnosis.horizon)
    longer = min(longer, max(case.stop, case.config.max_steps))
    with case.until(longer):
        affordable = case.affords(1)
    return longer if affordable else case.stop


def describe(case: Case, reference: Reference, rate: RateReference | None) -> tuple[dict[str, Any], str]:
    """(changed config keys, one sentence) of the cure for an ingredient."""
    config = case.config
    match reference.ingredient:
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
    if reference.standing == "usual":
        return describe_usual(case, reference)
    return {}, OUTSIDE_THE_CONFIG.get(reference.ingredient, f"train with {reference.swap.name}")


def describe_usual(case: Case, reference: Reference) -> tuple[dict[str, Any], str]:
    """Practice's value in the place of the config's."""
    optim, model, precision = OptimConfig(), ModelConfig(), case.config.precision
    changes: dict[str, dict[str, Any]] = {
        "weight_decay": {"optim.weight_decay": 0.0},
        "moments": {"optim.betas": optim.betas, "optim.eps": optim.eps}
        if case.config.optim.kind in ("adamw", "lamb")
        else {"optim.momentum": optim.momentum},
        "norm_settings": {"model.bn_momentum": model.bn_momentum, "model.bn_eps": model.bn_eps},
        "number_format": {"precision.amp": "fp32"}
        | ({"precision.loss_scale": None} if precision.loss_scale is not None else {}),
    }
    if reference.ingredient == "number_format":
        return changes["number_format"], "train in float32"
    return changes.get(reference.ingredient, {}), f"train with {reference.swap.name}"


def describe_rate(case: Case, rate: RateReference) -> tuple[dict[str, Any], str]:
    """Hold the rate of before the jump, warm up, or go along the ladder."""
    schedule, optim = case.config.schedule, case.config.optim
    match rate.kind:
        case "declared":
            return {}, "train with the learning rate of the config"
        case "warm-up":
            change: dict[str, Any] = {"schedule.warmup_steps": WARM_UP} if schedule.kind in RAMPED else {}
            if schedule.kind == "cosine":
                change = {"schedule.kind": "cosine_warmup", "schedule.warmup_steps": WARM_UP}
            return change, f"warm up over {WARM_UP} steps"
        case "climb":
            change = {"schedule.t_max": None} if schedule.t_max is not None else {}
            return change, f"hold the learning rate at {rate.rate:.4g} from step {rate.changed_at} on"
        case "ladder" | "raised":
            word = "lower" if rate.divisor > 1 else "raise"
            change = {"optim.lr": optim.lr / rate.divisor}
            return change, f"{word} optim.lr from {optim.lr:g} to {optim.lr / rate.divisor:g}"
    text = f"hold the learning rate at {rate.rate:.4g} after step {rate.changed_at}"
    if schedule.kind == "multi_step" and rate.changed_at in schedule.milestones:
        return {"schedule.milestones": [m for m in schedule.milestones if m < rate.changed_at]}, text
    return {}, text
