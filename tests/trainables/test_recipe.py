"""The recipe is a function of (config, data index): what a step is made of, and what it should have been."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from trainables.baseline import DECLARED_SHIFT, moment_distance
from trainables.data.index import ImageIndex
from trainables.errors import DataError
from trainables.recipe import Recipe
from trainables.signals import StepSignals

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny


def test_ingredients_are_a_function_of_the_step(recipe: Recipe, tiny: Tiny, digits_index: ImageIndex) -> None:
    """Asked in any order, by any recipe of the same config, a step is made of the same values."""
    other = Recipe.build(tiny(), digits_index)
    for step in (500, 3, 0, 187, 3):
        one, two = recipe.ingredients(step), other.ingredients(step)
        assert one.learning_rate == two.learning_rate
        np.testing.assert_array_equal(one.sample_ids, two.sample_ids)
        np.testing.assert_array_equal(one.epochs, two.epochs)


def test_config_reaches_the_step(tiny: Tiny, digits_index: ImageIndex) -> None:
    """Rate after the scaling rule, momentum, clipping, number format and batch come from the config."""
    config = tiny(
        global_batch_size=32,
        optim={"lr": 0.1, "lr_batch_size": 8, "momentum": 0.5, "clip_grad_norm": 2.0},
        precision={"amp": "bf16"},
    )
    ingredients = Recipe.build(config, digits_index).ingredients(7)
    assert ingredients.learning_rate == pytest.approx(0.4)
    assert (ingredients.momentum, ingredients.clip_grad_norm, ingredients.amp) == (0.5, 2.0, "bf16")
    assert len(ingredients.sample_ids) == 32
    assert ingredients.companions is None


def test_order_depends_on_the_seed_and_not_on_the_batch(tiny: Tiny, digits_index: ImageIndex) -> None:
    """Trials of other batch sizes see the same samples at the same place of the stream, those of other seeds don't."""
    small, large, other = (
        Recipe.build(tiny(global_batch_size=batch, seed=seed), digits_index)
        for batch, seed in ((8, 1), (16, 1), (8, 2))
    )
    together = np.concatenate([small.ingredients(step).sample_ids for step in (4, 5)])
    np.testing.assert_array_equal(together, large.ingredients(2).sample_ids)
    assert not np.array_equal(small.ingredients(0).sample_ids, other.ingredients(0).sample_ids)


@pytest.mark.parametrize(
    ("declared", "reference"),
    [
        ("per_channel", "per_channel"),
        ("imagenet", "imagenet"),
        ("one_scale", "per_channel"),
        ("no_div255", "per_channel"),
        ("bgr", "per_channel"),
    ],
)
def test_reference_normalization_is_practice(
    tiny: Tiny, digits_index: ImageIndex, declared: str, reference: str
) -> None:
    """What is a discrepancy is compared with per-channel statistics; the step still uses what the config says."""
    recipe = Recipe.build(tiny(data={"normalization": declared}), digits_index)
    assert recipe.reference_normalization.name == reference
    assert recipe.declared_normalization.name == declared
    assert recipe.ingredients(0).normalize is recipe.declared_normalization


@pytest.mark.parametrize("normalization", ["per_channel", "imagenet", "bgr"])
def test_expected_moments_are_those_of_the_stored_pixels(
    tiny: Tiny, digits_index: ImageIndex, normalization: str
) -> None:
    """At the stored size the reference normalisation gives the moments that the recipe promises, to 1 %."""
    recipe = Recipe.build(tiny(data={"normalization": normalization, "image_size": 32}), digits_index)
    pixels = recipe.reference_normalization(recipe.train.fetch(np.arange(len(digits_index.train)), None)).double()
    mean, std = recipe.expected_input_moments()
    assert pixels.mean(dim=(0, 2, 3)).tolist() == pytest.approx(mean, abs=0.01)
    assert pixels.std(dim=(0, 2, 3)).tolist() == pytest.approx(std, rel=0.01)


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
@pytest.mark.parametrize("image_size", [8, 16, 32])
def test_small_and_augmented_inputs_stay_near_the_expected_moments(
    tiny: Tiny, digits_index: ImageIndex, image_size: int, augment: str
) -> None:
    """Resizing narrows the input and cropping shifts it by less than two thirds of what counts as another input."""
    recipe = Recipe.build(tiny(data={"image_size": image_size, "augment": augment}), digits_index)
    pixels = recipe.reference_normalization(recipe.train.fetch(np.arange(0, 1500, 3), 0)).double()
    mean, std = pixels.mean(dim=(0, 2, 3)).tolist(), pixels.std(dim=(0, 2, 3)).tolist()
    signals = StepSignals(0, 0.0, input_mean=tuple(mean), input_std=tuple(std))
    assert moment_distance(signals, *recipe.expected_input_moments()) < DECLARED_SHIFT / 1.5


def test_evaluation_is_not_augmented(tiny: Tiny, digits_index: ImageIndex) -> None:
    """Augmentation belongs to training alone: val images are the same in every epoch."""
    recipe = Recipe.build(tiny(data={"augment": "crop_flip"}), digits_index)
    ids = np.arange(4)
    assert torch.equal(recipe.val.fetch(ids, 0), recipe.val.fetch(ids, 1))
    assert not torch.equal(recipe.train.fetch(ids, 0), recipe.train.fetch(ids, 1))


def test_true_labels_are_those_of_the_index(recipe: Recipe) -> None:
    """The reference of every label fault."""
    ids = np.array([0, 700, 1499])
    assert recipe.true_labels(ids, np.zeros(3)).tolist() == recipe.index.train.labels[ids].tolist()


def test_a_batch_larger_than_the_data_set_is_an_error(tiny: Tiny, digits_index: ImageIndex) -> None:
    """One line that names the batch and the number of samples, before any work."""
    with pytest.raises(DataError, match=r"^global_batch_size: 1501 is not allowed; allowed: .*1500.*; remedy: lower"):
        Recipe.build(tiny(global_batch_size=1501), digits_index)
