"""Faults of the way from stored pixels to the model's input, in training and in evaluation."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from trainables.data.normalize import Normalization, build_normalization
from trainables.data_config import NormalizationName
from trainables.errors import ConfigError, complaint
from trainables.faults.build import Fault
from trainables.ingredients import Change
from trainables.recipe import Recipe


def preprocessing(recipe: Recipe, *, normalization: NormalizationName) -> Change:
    """Training images go through another normalisation, as after a restart with other code."""
    normalize = _named(recipe, normalization)
    return lambda ingredients: replace(ingredients, normalize=normalize)


def evaluation_preprocessing(recipe: Recipe, *, normalization: NormalizationName) -> Fault:
    """Only evaluation uses another normalisation: training is fine and its scores are not."""
    normalize = _named(recipe, normalization)
    return Fault(evaluation=lambda ingredients: replace(ingredients, normalize=normalize))


def _named(recipe: Recipe, normalization: NormalizationName) -> Normalization:
    if normalization not in get_args(NormalizationName):
        allowed = ", ".join(get_args(NormalizationName))
        raise ConfigError(complaint("faults.params.normalization", normalization, allowed, "choose one of these"))
    return build_normalization(normalization, recipe.index.channel_mean, recipe.index.channel_std)
