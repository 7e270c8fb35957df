"""Faults of the samples, their labels and their pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trainables.ingredients import Change, Ingredients
from trainables.recipe import Recipe
from trainables.rng import generator


def shuffled_labels(recipe: Recipe) -> Change:
    """Each sample gets the label of another one, drawn once per sample."""
    truth = recipe.index.train.labels
    shuffled = truth[generator(recipe.config.seed, "shuffled_labels").permutation(len(truth))]
    return lambda ingredients: replace(ingredients, label=lambda ids, epochs: shuffled[ids])


def offset_labels(recipe: Recipe, *, offset: int = 1) -> Change:
    """Every label is shifted by `offset` classes, as by an index that counts from one."""
    shifted = (recipe.index.train.labels + offset) % len(recipe.index.classes)
    return lambda ingredients: replace(ingredients, label=lambda ids, epochs: shifted[ids])


def noisy_labels(recipe: Recipe, *, share: float) -> Change:
    """A share of the samples gets a label drawn at random, once per sample."""
    truth, rng = recipe.index.train.labels, generator(recipe.config.seed, "noisy_labels")
    drawn = rng.integers(0, len(recipe.index.classes), len(truth))
    noisy = np.where(rng.random(len(truth)) < share, drawn, truth)
    return lambda ingredients: replace(ingredients, label=lambda ids, epochs: noisy[ids])


def sorted_by_brightness(recipe: Recipe) -> Change:
    """Samples come brightest first, as from files in the order of a recording: a shift of the input between batches."""
    source = recipe.train
    ids = np.arange(len(recipe.index.train))
    brightness = np.concatenate(
        [
            source.fetch(part, None).float().mean(dim=(1, 2, 3)).numpy()
            for part in np.array_split(ids, 1 + len(ids) // 512)
        ]
    )
    order = np.argsort(-brightness, kind="stable")

    def sort(ingredients: Ingredients) -> Ingredients:
        start = ingredients.step * len(ingredients.sample_ids) % len(order)
        places = (start + np.arange(len(ingredients.sample_ids))) % max(len(ingredients.sample_ids), len(order) // 4)
        return replace(ingredients, sample_ids=order[places])

    return sort


def sorted_by_class(recipe: Recipe) -> Change:
    """Samples come class by class, as from unshuffled shards."""
    order = np.argsort(recipe.index.train.labels, kind="stable")

    def sort(ingredients: Ingredients) -> Ingredients:
        start = ingredients.step * len(ingredients.sample_ids)
        places = (start + np.arange(len(ingredients.sample_ids))) % len(order)
        return replace(ingredients, sample_ids=order[places])

    return sort


def black_images(recipe: Recipe, *, share: float = 0.5) -> Change:
    """A share of the images is black, as from a decoder that fails silently."""

    def change(ingredients: Ingredients) -> Ingredients:
        def decode(ids: np.ndarray, epochs: np.ndarray) -> Tensor:
            images = ingredients.decode(ids, epochs)
            hit = [generator(recipe.config.seed, "black_images", int(i)).random() < share for i in ids]
            images[torch.tensor(hit, dtype=torch.bool)] = 0
            return images

        return replace(ingredients, decode=decode)

    return change


def outlier_samples(_recipe: Recipe, *, share: float = 0.1, factor: float = 1e3) -> Change:
    """A share of the images is `factor` times as wide after normalisation, as from files in another unit.

    Which ones follows from the sum of their pixels, so that the same image is hit wherever it comes.
    """

    def change(ingredients: Ingredients) -> Ingredients:
        def normalize(images: Tensor) -> Tensor:
            hit = images.sum(dim=(1, 2, 3)) % 1000 < 1000 * share
            return ingredients.normalize(images) * torch.where(hit, factor, 1.0)[:, None, None, None]

        return replace(ingredients, normalize=normalize)

    return change


def poisoned_batch(recipe: Recipe, *, size: int = 4) -> Change:
    """Every batch is made of the same few samples, as from a shuffle buffer that is stuck."""
    few = generator(recipe.config.seed, "poisoned_batch").permutation(len(recipe.index.train))[:size]
    return lambda i: replace(i, sample_ids=np.resize(few, len(i.sample_ids)))


def non_finite_input(_recipe: Recipe) -> Change:
    """One pixel of each batch is NaN after normalisation."""

    def change(ingredients: Ingredients) -> Ingredients:
        def normalize(images: Tensor) -> Tensor:
            pixels = ingredients.normalize(images)
            pixels[0, 0, 0, 0] = torch.nan
            return pixels

        return replace(ingredients, normalize=normalize)

    return change
