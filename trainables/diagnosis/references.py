"""The reference value of every ingredient, as a swap.

References come from the config, the data index and what the run recorded, never from an injector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from trainables.ingredients import Ingredients, Stream, Swap, load_batch
from trainables.norms import uses_batch_statistics
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.rng import generator
from trainables.schedules import change_points
from trainables.state import TrainState

Ingredient = Literal["learning_rate", "normalization", "samples", "pixels", "labels", "number_format"]

GROUP_OF: Mapping[Ingredient, str] = {
    "learning_rate": "learning_rate",
    "normalization": "normalization",
    "samples": "data",
    "pixels": "preprocessing",
    "labels": "data",
    "number_format": "numerics",
}
LADDER = (4.0, 16.0)
"""Divisors of the learning rate that are tried where the schedule has no change point to go back behind."""
MERGED_BATCH = 16
"""Least number of samples that reference normalisation statistics are taken over, and at least twice the batch: below
16 the error of batch norm rises fast (Wu and He 2018, figure 1)."""
LOOK_BACK = 512
"""Steps before the onset in which a change point of the rate, and other samples, are looked for."""
CLEAN_BATCH = 64
"""Samples of the fixed clean batch."""


@dataclass(frozen=True)
class RateReference:
    """A rate to hold instead of the run's own."""

    swap: Swap
    changed_at: int | None
    """The change point that it undoes; None: a rung of the ladder."""
    divisor: float
    rate: float


def last_change_point(stream: Stream, onset: int) -> int | None:
    """The last step up to the onset at which the run's rate jumped, from the rates that it really used."""
    start = max(0, onset - LOOK_BACK)
    rates = [stream(step).learning_rate for step in range(start, onset + 3)]
    jumps = [start + step for step in change_points(rates) if start + step <= onset]
    return jumps[-1] if jumps else None


def rate_before(stream: Stream, change_point: int) -> RateReference:
    """The rate of the step before the change point, held from there on."""
    rate = stream(change_point - 1).learning_rate
    now = stream(change_point).learning_rate
    swap = Swap(
        f"{rate:.4g} held from step {change_point} on",
        lambda ingredients: ingredients.at_rate(rate),
        start=change_point,
    )
    return RateReference(swap, change_point, now / rate, rate)


def rate_divided(stream: Stream, divisor: float, onset: int) -> RateReference:
    """The run's own rate divided by `divisor`: a rung of the ladder."""

    def apply(ingredients: Ingredients) -> Ingredients:
        return ingredients.at_rate(ingredients.learning_rate / divisor)

    return RateReference(Swap(f"rate / {divisor:g}", apply), None, divisor, stream(onset).learning_rate / divisor)


def sample_pool(recipe: Recipe, stream: Stream, onset: int) -> np.ndarray:
    """Ids that the run trained well on before the onset; the whole training set where these are too few."""
    batch = recipe.config.global_batch_size
    steps = range(max(0, onset - LOOK_BACK), onset)
    seen = np.unique(np.concatenate([stream(step).sample_ids for step in steps])) if steps else np.empty(0, np.int64)
    return seen if len(seen) >= max(4 * batch, 2 * CLEAN_BATCH) else np.arange(len(recipe.index.train))


def build_references(recipe: Recipe, state: TrainState, pool: np.ndarray) -> dict[Ingredient, Swap]:
    """Reference swaps of every ingredient that this run can have wrong, the learning rate aside, cheapest first."""
    references: dict[Ingredient, Swap] = {
        "labels": Swap("labels of the index", lambda i: replace(i, label=recipe.true_labels)),
        "pixels": Swap(
            f"reference decode and {recipe.reference_normalization.name} normalisation",
            lambda i: replace(i, decode=recipe.source(i.step).fetch, normalize=recipe.reference_normalization),
        ),
        "samples": other_samples(recipe, pool),
    }
    if recipe.config.precision.amp != "fp32":
        references["number_format"] = Swap("float32 throughout", lambda i: replace(i, amp="fp32"))
    if uses_batch_statistics(state.model):
        references["normalization"] = merged_statistics(recipe, pool, state.ranks)
    return references


def equals_reference(ingredient: Ingredient, stream: Stream, swap: Swap, steps: range, ranks: Ranks) -> bool:
    """Whether labels or pixels are the reference's own at every one of `steps`, on every rank."""
    if ingredient not in ("labels", "pixels"):
        return False
    same = same_labels if ingredient == "labels" else same_input
    differs = any(not same(stream(step), swap(stream(step)), ranks) for step in steps)
    return ranks.total(differs) == 0


def same_labels(one: Ingredients, other: Ingredients, _ranks: Ranks) -> bool:
    """Whether both give their samples the same labels."""
    return np.array_equal(one.label(one.sample_ids, one.epochs), other.label(other.sample_ids, other.epochs))


def same_input(one: Ingredients, other: Ingredients, ranks: Ranks) -> bool:
    """Whether the model would see the same bits, in this rank's share."""
    return torch.equal(one.normalize(load_batch(one, ranks).images), other.normalize(load_batch(other, ranks).images))


def other_samples(recipe: Recipe, pool: np.ndarray) -> Swap:
    """Samples drawn from the pool, another draw at each step."""

    def apply(ingredients: Ingredients) -> Ingredients:
        rng = generator(recipe.config.seed, "other_samples", ingredients.step)
        size = len(ingredients.sample_ids)
        return replace(ingredients, sample_ids=rng.choice(pool, size=size, replace=size > len(pool)))

    return Swap("samples that trained well before", apply)


def merged_batch_size(batch: int, num_samples: int) -> int:
    """Samples that reference statistics are taken over: a multiple of the batch, so that ranks share it alike."""
    times = max(2, -(-MERGED_BATCH // batch))
    return batch * max(1, min(times, num_samples // batch))


def merged_statistics(recipe: Recipe, pool: np.ndarray, ranks: Ranks) -> Swap:
    """Normalisation statistics over the batch and further samples, which add nothing to the loss."""
    batch = recipe.config.global_batch_size
    extra = (merged_batch_size(batch, len(recipe.index.train)) - batch) // ranks.world_size * ranks.world_size

    def apply(ingredients: Ingredients) -> Ingredients:
        rng = generator(recipe.config.seed, "companions", ingredients.step)
        return replace(ingredients, companions=rng.choice(pool, size=extra, replace=extra > len(pool)))

    return Swap(f"statistics over {batch + extra} samples", apply)


def clean_ingredients(recipe: Recipe, pool: np.ndarray, ranks: Ranks) -> Ingredients:
    """A fixed batch on the reference path, as the measure of damage to the weights."""
    size = min(CLEAN_BATCH, len(pool)) // ranks.world_size * ranks.world_size
    ids = generator(recipe.config.seed, "clean_batch").choice(pool, size=size, replace=False)
    return replace(
        recipe.ingredients(0), sample_ids=ids, epochs=np.zeros_like(ids), normalize=recipe.reference_normalization
    )
