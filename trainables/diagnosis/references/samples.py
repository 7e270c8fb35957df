"""Other samples: those that trained well, companions that share their statistics, and a fixed clean batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trainables.diagnosis.references.rates import LOOK_BACK
from trainables.ingredients import Ingredients, Stream, Swap
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.rng import generator

MERGED_BATCH = 16
"""Least number of samples that reference normalisation statistics are taken over, and at least twice the batch: below
16 the error of batch norm rises fast (Wu and He 2018, figure 1)."""
CLEAN_BATCH = 64
"""Samples of the fixed clean batch."""


def sample_pool(recipe: Recipe, stream: Stream, onset: int) -> np.ndarray:
    """Ids that the run trained well on before the onset; the whole training set where these are too few."""
    batch = recipe.config.global_batch_size
    steps = range(max(0, onset - LOOK_BACK), onset)
    seen = np.unique(np.concatenate([stream(step).sample_ids for step in steps])) if steps else np.empty(0, np.int64)
    return seen if len(seen) >= max(4 * batch, 2 * CLEAN_BATCH) else np.arange(len(recipe.index.train))


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
