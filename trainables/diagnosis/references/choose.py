"""Which references a diagnosis has to try: those that differ from the run, and another draw where a draw is all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from trainables.detectors import Symptom
from trainables.diagnosis.causes import Ingredient
from trainables.diagnosis.references.declared import declared_references
from trainables.diagnosis.references.rates import (
    LADDER,
    LOOK_BACK,
    RateReference,
    foremost_rate,
    raised_rates,
    rate_divided,
    warmed_up_rate,
)
from trainables.diagnosis.references.same import first_difference
from trainables.diagnosis.references.samples import merged_statistics, other_samples
from trainables.diagnosis.references.sound import counted_normalization, sound_optimizer
from trainables.diagnosis.references.usual import norm_references, odd_rank, state_references, usual_references
from trainables.ingredients import Stream, Swap
from trainables.norms import uses_batch_statistics
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.state import Snapshot, TrainState

STALL = "stall"
"""The symptom whose rates are tried upwards."""
Standing = Literal["declared", "usual", "drawn"]
"""Whether the reference is what the config or the index says and the run did not do; or practice, where the config says
otherwise; or just another draw, which differs in a sound run too."""


@dataclass(frozen=True)
class Reference:
    """A reference value that is not the run's own."""

    ingredient: Ingredient
    swap: Swap
    standing: Standing
    since: int | None = None
    """The first step known at which the run has another value; None: no such step."""


def foreign_since(recipe: Recipe, stream: Stream, onset: int, ranks: Ranks) -> dict[Ingredient, int]:
    """Ingredients that are not the recipe's up to the onset, and since when; the pixels, which cost most, left out."""
    steps = range(max(0, onset - LOOK_BACK), onset + 1)
    found = {
        ingredient: first_difference(ingredient, stream, swap, steps, ranks)
        for ingredient, swap in declared_references(recipe).items()
        if ingredient != "pixels"
    }
    return {ingredient: step for ingredient, step in found.items() if step is not None}


def choose_references(
    recipe: Recipe, state: TrainState, stream: Stream, snapshot: Snapshot, steps: range, pool: np.ndarray
) -> tuple[list[Reference], dict[Ingredient, Swap]]:
    """The references that differ from the run at `steps`, the rate's aside, and those that the run is equal to.

    Of each ingredient one: the declared value where the run has another, else practice's, else another draw.
    """
    usual = usual_references(recipe.config, stream(steps[0]).learning_rate)
    usual |= norm_references(state, recipe.config.model)
    optimizer = sound_optimizer(state, recipe.config.optim, stream, snapshot)
    usual |= {"step_code": optimizer} if optimizer is not None else {}
    counted = counted_normalization(recipe, pool)
    if counted is not None:
        usual["pixels"] = Swap("normalisation by moments counted anew", lambda i: replace(i, normalize=counted))
    usual |= state_references(state, snapshot, drifted=odd_rank(state.ranks, snapshot) is not None)
    references: list[Reference] = []
    equal: dict[Ingredient, Swap] = {}
    for ingredient, swap in declared_references(recipe).items():
        since = first_difference(ingredient, stream, swap, steps, state.ranks)
        if since is not None:
            references.append(Reference(ingredient, swap, "declared", since))
            usual.pop(ingredient, None)
        elif ingredient not in usual and ingredient != "samples":
            equal[ingredient] = swap
    references += [Reference(ingredient, swap, "usual") for ingredient, swap in usual.items()]
    if all(reference.ingredient != "samples" for reference in references):
        references.append(Reference("samples", other_samples(recipe, pool), "drawn"))
    if uses_batch_statistics(state.model):
        references.append(Reference("normalization", merged_statistics(recipe, pool, state.ranks), "drawn"))
    return references, equal


def rate_candidates(
    recipe: Recipe, stream: Stream, symptom: Symptom, update_ratio: float
) -> Iterator[RateReference | None]:
    """Rates to try in the all-reference control, the most telling first; None: the run's own.

    The run's own rate comes before any rate that nothing but a guess names: if all else at reference is healthy with
    it, the rate alone is no cause, and dividing it would only hide others. An input depends on no rate.
    """
    if symptom.kind == "input_shift":
        yield None
        return
    stalled = symptom.kind == STALL
    foremost = foremost_rate(
        recipe, stream, symptom.onset, lambda run, reference: run < reference if stalled else run > reference
    )
    yield foremost
    if stalled:
        yield from raised_rates(stream, symptom.onset, update_ratio)
        return
    warmed_up = warmed_up_rate(stream, symptom.onset)
    if warmed_up is not None:
        yield warmed_up
    yield from (rate_divided(stream, divisor, symptom.onset) for divisor in LADDER)
