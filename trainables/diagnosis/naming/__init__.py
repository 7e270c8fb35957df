"""From the guilty ingredient to the name of the cause, by looking at the ingredient itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import dropwhile

import numpy as np

from trainables.diagnosis.case import Case
from trainables.diagnosis.causes import Ingredient
from trainables.diagnosis.culprits import Culprits, guilty_samples
from trainables.diagnosis.naming.code import name_code
from trainables.diagnosis.naming.edits import name_edit
from trainables.diagnosis.naming.named import NamedCause
from trainables.diagnosis.naming.pixels import best_channel_order, name_pixels, pixels_of
from trainables.diagnosis.naming.samples import foreign_labels, labels_differ, name_labels, name_samples, order_differs
from trainables.diagnosis.naming.suspects import name_split, name_suspects
from trainables.diagnosis.naming.values import (
    name_moments,
    name_norm_settings,
    name_number_format,
    name_rate,
    name_statistics,
    name_weight_decay,
)
from trainables.diagnosis.references import RateReference, Reference
from trainables.diagnosis.references.usual import odd_rank
from trainables.ingredients import Ingredients, Stream
from trainables.recipe import Recipe

__all__ = ["NamedCause", "best_channel_order", "name_cause", "name_data", "name_labels", "name_pixels"]

LOOK_BACK = 16
"""Steps before the confirmation in which the guilty ingredient's first foreign value is looked for."""


def name_cause(case: Case, reference: Reference, rate: RateReference | None) -> NamedCause:
    """The cause behind the ingredient of `reference`, with the first foreign step among the culprits."""
    named = name_ingredient(case, reference, rate)
    if named.culprits.step is not None:
        return named
    return replace(named, culprits=replace(named.culprits, step=reference.since))


def name_ingredient(case: Case, reference: Reference, rate: RateReference | None) -> NamedCause:
    """The cause, by what kind of ingredient it is."""
    ingredient = reference.ingredient
    if ingredient == "learning_rate":
        assert rate is not None
        return name_rate(rate, case.stream, case.symptom.step)
    if ingredient == "samples" and reference.standing == "drawn":
        return name_suspects(case)
    if reference.standing == "usual" and ingredient in ("samples", "pixels"):
        return name_split(case) if ingredient == "samples" else name_counted(case.recipe, reference)
    if ingredient in BY_LOOKING:
        return BY_LOOKING[ingredient](case, reference)
    return name_data(ingredient, case.recipe, case.stream, case.symptom.step)


def name_loss(_case: Case, reference: Reference) -> NamedCause:
    """No loss but the config's."""
    text = "the loss is not the config's, which is sound on the same logits"
    return NamedCause("loss_numerics", text, Culprits(step=reference.since))


def name_counted(recipe: Recipe, reference: Reference) -> NamedCause:
    """Moments of the index that are not those of its images."""
    index = recipe.index
    mean, std = (", ".join(f"{v:.3g}" for v in values) for values in (index.channel_mean, index.channel_std))
    name = "scale_255" if max(index.channel_std) > 1.0 else "wrong_mean_std"
    return NamedCause(name, f"the index has means {mean} and stds {std}; {reference.swap.name} puts them right")


def name_scales(case: Case, reference: Reference) -> NamedCause:
    """Gammas that are too large in the snapshot already."""
    text = f"the gammas are too large at step {case.snapshot.step}; {reference.swap.name} heal it"
    return NamedCause("bn_gamma_init", text)


def name_ranks(case: Case, _reference: Reference) -> NamedCause:
    """Weights that differ between ranks in the snapshot already."""
    text = f"the ranks hold different weights at step {case.snapshot.step}"
    return NamedCause("rank_desync", text, Culprits(rank=odd_rank(case.state.ranks, case.snapshot)))


BY_LOOKING: Mapping[Ingredient, Callable[[Case, Reference], NamedCause]] = {
    "normalization": lambda case, _reference: name_statistics(case.recipe),
    "step_code": name_code,
    "gradients": name_code,
    "state": name_edit,
    "norm_settings": name_norm_settings,
    "number_format": name_number_format,
    "moments": name_moments,
    "weight_decay": name_weight_decay,
    "loss": name_loss,
    "scales": name_scales,
    "rank_state": name_ranks,
}


def name_data(ingredient: Ingredient, recipe: Recipe, stream: Stream, step: int) -> NamedCause:
    """The cause behind labels, samples or pixels, from what the steps up to the confirmation were made of."""
    before = [stream(k) for k in range(max(0, step - LOOK_BACK), step + 1)]
    match ingredient:
        case "labels":
            after = [stream(k) for k in range(step + 1, step + 8)]
            steps = from_first([*before, *after], lambda i: labels_differ(recipe, i))
            culprits = foreign_labels(recipe, [i for i in steps if i.step <= step])
            return replace(name_labels(recipe, steps[:8]), culprits=culprits)
        case "samples":
            return name_samples(recipe, from_first(before, lambda i: order_differs(recipe, i))[:4])
    return name_foreign_pixels(recipe, before)


def name_foreign_pixels(recipe: Recipe, steps: Sequence[Ingredients]) -> NamedCause:
    """The relation of the latest foreign input, and the samples of all of them where single ones are."""
    found = [pixels for pixels in (pixels_of(recipe, i) for i in reversed(steps)) if pixels.differ]
    named = name_pixels(found[0] if found else pixels_of(recipe, steps[-1]))
    if not found or named.name not in ("corrupt_images", "outlier_samples", "non_finite_input"):
        return named
    ids = np.concatenate([pixels.sample_ids[pixels.foreign] for pixels in found])
    return replace(named, culprits=guilty_samples(recipe, ids))


def from_first(steps: list[Ingredients], differs: Callable[[Ingredients], bool]) -> list[Ingredients]:
    """`steps` from the first that is not as the recipe has it: those before the event are no evidence."""
    return list(dropwhile(lambda i: not differs(i), steps)) or steps[-4:]
