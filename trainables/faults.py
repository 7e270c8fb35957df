"""The built-in faults: each is a swap of one ingredient for a bad one.

A fault is a function of its parameters that returns `Ingredients -> Ingredients`; anyone's module works the same way:

    faults:
      - {use: "my_package.my_faults:my_fault", start_step: 500, params: {strength: 3}}

`my_fault(recipe, **params)` gets the recipe, so that it can reach the data index and the seed. Diagnosis never
imports this file.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast, get_args

import numpy as np
import torch
from torch import Tensor

from trainables.config import FaultConfig
from trainables.data.normalize import build_normalization
from trainables.data_config import NormalizationName
from trainables.errors import ConfigError, complaint
from trainables.ingredients import Ingredients, Swap, load_batch
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.rng import generator

Change = Callable[[Ingredients], Ingredients]


def preprocessing(recipe: Recipe, *, normalization: NormalizationName) -> Change:
    """Pixels go through another normalisation, as after a restart with other code."""
    if normalization not in get_args(NormalizationName):
        allowed = ", ".join(get_args(NormalizationName))
        raise ConfigError(complaint("faults.params.normalization", normalization, allowed, "choose one of these"))
    normalize = build_normalization(normalization, recipe.index.channel_mean, recipe.index.channel_std)
    return lambda ingredients: replace(ingredients, normalize=normalize)


def learning_rate_factor(_recipe: Recipe, *, factor: float) -> Change:
    """The rate is multiplied by `factor`, as by a wrong milestone or a resume at the wrong step."""
    return lambda ingredients: replace(ingredients, learning_rate=ingredients.learning_rate * factor)


def shuffled_labels(recipe: Recipe) -> Change:
    """Each sample gets the label of another one, drawn once per sample."""
    truth = recipe.index.train.labels
    shuffled = truth[generator(recipe.config.seed, "shuffled_labels").permutation(len(truth))]
    return lambda ingredients: replace(ingredients, label=lambda ids, epochs: shuffled[ids])


def offset_labels(recipe: Recipe, *, offset: int = 1) -> Change:
    """Every label is shifted by `offset` classes, as by an index that counts from one."""
    shifted = (recipe.index.train.labels + offset) % len(recipe.index.classes)
    return lambda ingredients: replace(ingredients, label=lambda ids, epochs: shifted[ids])


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


def non_finite_input(_recipe: Recipe) -> Change:
    """One pixel of each batch is NaN after normalisation."""

    def change(ingredients: Ingredients) -> Ingredients:
        def normalize(images: Tensor) -> Tensor:
            pixels = ingredients.normalize(images)
            pixels[0, 0, 0, 0] = torch.nan
            return pixels

        return replace(ingredients, normalize=normalize)

    return change


BUILT_IN = (
    black_images,
    learning_rate_factor,
    non_finite_input,
    offset_labels,
    preprocessing,
    shuffled_labels,
    sorted_by_brightness,
    sorted_by_class,
)


def build_faults(configs: Sequence[FaultConfig], recipe: Recipe) -> tuple[Swap, ...]:
    """The swaps that `configs` ask for. Raises ConfigError where an import path or a parameter is wrong."""
    swaps = []
    for i, config in enumerate(configs):
        fault = load_fault(config.use, key=f"faults.{i}.use")
        try:
            change = fault(recipe, **config.params)
            try_change(change, recipe, config.start_step)
        except TypeError as error:
            remedy = f"correct faults.{i}.params"
            raise ConfigError(
                complaint(f"faults.{i}.params", config.params, f"the parameters of {config.use} ({error})", remedy)
            ) from None
        swaps.append(Swap(config.use, change, config.start_step, config.stop_step))
    return tuple(swaps)


def try_change(change: Change, recipe: Recipe, step: int) -> None:
    """Apply `change` to one sample of `step`: what it can't be applied to raises TypeError here, not in a step."""
    ingredients = recipe.ingredients(step)
    one = change(replace(ingredients, sample_ids=ingredients.sample_ids[:1], epochs=ingredients.epochs[:1]))
    one.normalize(load_batch(one, Ranks()).images) * one.learning_rate


def load_fault(use: str, *, key: str = "faults.use") -> Callable[..., Change]:
    """Import `module:name`. Raises ConfigError where there is none."""
    module_name, _, name = use.partition(":")
    try:
        fault = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError):
        built_in = ", ".join(f"trainables.faults:{f.__name__}" for f in BUILT_IN)
        raise ConfigError(
            complaint(key, use, f"an importable module:name, for example {built_in}", f"correct {key}")
        ) from None
    if not callable(fault):
        raise ConfigError(complaint(key, use, "a function of (recipe, **params)", f"correct {key}"))
    return cast("Callable[..., Change]", fault)
