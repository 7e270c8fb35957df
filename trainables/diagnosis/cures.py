"""The cure of a guilty ingredient as an intervention, so that what a replay has proved can be kept on in the run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trainables.config import ModelConfig, OptimConfig
from trainables.diagnosis.case import Case
from trainables.diagnosis.causes import Ingredient
from trainables.diagnosis.naming.samples import order_differs
from trainables.diagnosis.references import RateReference, Reference, merged_batch_size
from trainables.diagnosis.references.rates import WARM_UP
from trainables.interventions import Intervention

LEAD = 2
"""Steps before the onset whose samples are skipped too: a step's damage shows in the losses after it."""

MOST_SKIPPED = 0.5
"""Share of the training set that may be skipped."""

PLAIN: Mapping[Ingredient, str] = {
    "pixels": "reference_pixels",
    "labels": "index_labels",
    "number_format": "float32",
    "state": "no_edits",
    "gradients": "no_edits",
    "step_code": "reference_step",
    "loss": "reference_loss",
}
"""Ingredients whose cure has no parameter."""


def cure_of(case: Case, reference: Reference, rate: RateReference | None) -> Intervention | None:
    """What to change from the case's snapshot on, the guilty ingredient alone; None: no plain data can say it."""
    start = case.snapshot.step
    match reference.ingredient:
        case "learning_rate":
            assert rate is not None
            return cure_of_rate(rate, start)
        case "weight_decay" | "moments" | "norm_settings":
            return cure_of_settings(case, reference)
        case "normalization":
            size = merged_batch_size(case.config.global_batch_size, len(case.recipe.index.train))
            return Intervention("larger_batch", {"size": size}, start)
        case "samples":
            return cure_of_samples(case)
        case "step_code" if reference.standing == "usual":
            return None
        case _:
            kind = PLAIN.get(reference.ingredient)
            return Intervention(kind, start=start) if kind else None


def cure_of_rate(rate: RateReference, start: int) -> Intervention:
    """The config's rate, the one before the change as a ceiling (where it fell: held), a warm-up, a rung."""
    match rate.kind:
        case "declared":
            return Intervention("config_rate", start=start)
        case "jump" | "climb":
            assert rate.changed_at is not None
            kind = "cap_rate" if rate.divisor > 1.0 else "hold_rate"
            return Intervention(kind, {"rate": rate.rate}, rate.changed_at)
        case "warm-up":
            return Intervention("warm_up", {"steps": WARM_UP}, start)
        case "ladder" | "raised":
            return Intervention("scale_rate", {"factor": 1.0 / rate.divisor}, start)


def cure_of_settings(case: Case, reference: Reference) -> Intervention:
    """The config's own settings where the run had others, else practice's."""
    start, usual = case.snapshot.step, reference.standing == "usual"
    if reference.ingredient == "norm_settings":
        model = ModelConfig() if usual else case.config.model
        return Intervention("norm_settings", {"momentum": model.bn_momentum, "eps": model.bn_eps}, start)
    if reference.ingredient == "weight_decay":
        value = 0.0 if usual else case.config.optim.weight_decay
        return Intervention("optimizer_settings", {"weight_decay": value}, start)
    optim = OptimConfig() if usual else case.config.optim
    if case.config.optim.kind in ("adamw", "lamb"):
        return Intervention("optimizer_settings", {"betas": list(optim.betas), "eps": optim.eps}, start)
    return Intervention("optimizer_settings", {"momentum": optim.momentum}, start)


def cure_of_samples(case: Case) -> Intervention | None:
    """The sampler's own order where the run has another, else without the samples around the onset.

    None where these are most of the data set.
    """
    first = max(case.snapshot.step, case.symptom.onset - LEAD)
    steps = [case.stream(step) for step in range(first, case.symptom.step + 1)]
    if any(order_differs(case.recipe, step) for step in steps):
        return Intervention("config_order", start=case.snapshot.step)
    ids = np.unique(np.concatenate([step.sample_ids for step in steps]))
    if len(ids) > MOST_SKIPPED * len(case.recipe.index.train):
        return None
    return Intervention("skip_samples", {"ids": ids.tolist()}, case.snapshot.step)
