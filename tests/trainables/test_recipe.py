"""The recipe is a function of (config, data index): what a step is made of, and what it should have been."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from trainables.baseline import DECLARED_SHIFT, moment_distance
from trainables.data.decode import read_rgb
from trainables.data.index import ImageIndex
from trainables.errors import DataError
from trainables.recipe import Recipe
from trainables.step_signals import StepSignals

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
    assert (ingredients.optim.momentum, ingredients.clip_grad_norm, ingredients.amp) == (0.5, 2.0, "bf16")
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


@pytest.mark.parametrize(
    "data", [{"rand_augment_ops": 2}, {"color_jitter": 0.4}, {"hue_jitter": 0.1}, {"trivial_augment": True}]
)
def test_changed_colours_have_no_declared_moments(tiny: Tiny, digits_index: ImageIndex, data: dict[str, float]) -> None:
    """What they do to brightness and contrast is no discrepancy, so nothing is declared that it could break."""
    recipe = Recipe.build(tiny(data=data), digits_index)
    assert recipe.expected_input_moments() == ((), ())


def test_evaluation_is_not_augmented(tiny: Tiny, digits_index: ImageIndex) -> None:
    """Augmentation belongs to training alone: val images are the same in every epoch."""
    recipe = Recipe.build(tiny(data={"augment": "crop_flip"}), digits_index)
    ids = np.arange(4)
    assert torch.equal(recipe.val.fetch(ids, 0), recipe.val.fetch(ids, 1))
    assert not torch.equal(recipe.train.fetch(ids, 0), recipe.train.fetch(ids, 1))


def test_evaluation_has_its_own_size_and_middle(tiny: Tiny, digits_index: ImageIndex) -> None:
    """Validation images are of eval_size, cut at eval_crop_ratio; training images stay as they are."""
    data = {"image_size": 16, "eval_size": 28, "eval_crop_ratio": 0.875, "augment": "crop"}
    recipe = Recipe.build(tiny(data=data), digits_index)
    ids = np.arange(5)
    transform = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(28)])
    expected = [transform(read_rgb(digits_index.val.store, place)).permute(1, 2, 0) for place in range(5)]
    assert torch.equal(recipe.val.fetch(ids, None), torch.stack(expected))
    assert recipe.train.fetch(ids, 0).shape == (5, 16, 16, 3)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({}, {"crop_min_area": 0.08}),
        ({}, {"color_jitter": 0.4}),
        ({}, {"trivial_augment": True}),
        ({}, {"rand_augment_ops": 1}),
        ({"rand_augment_ops": 2}, {"rand_augment_ops": 2, "rand_augment_magnitude": 20}),
    ],
)
def test_augmentation_reaches_the_step(
    tiny: Tiny, digits_index: ImageIndex, less: dict[str, float], more: dict[str, float]
) -> None:
    """Each option of the config changes the pixels of training and none of the evaluation."""
    ids, epochs = np.arange(16), np.zeros(16, dtype=np.int64)
    base, other = (Recipe.build(tiny(data={"augment": "crop", **options}), digits_index) for options in (less, more))
    assert not torch.equal(base.ingredients(0).decode(ids, epochs), other.ingredients(0).decode(ids, epochs))
    assert torch.equal(base.val.fetch(ids, None), other.val.fetch(ids, None))


def test_the_side_is_fixed_by_default(recipe: Recipe) -> None:
    """Without start_size every step has image_size."""
    assert {recipe.side(step) for step in range(40)} == {16}
    assert recipe.source(7).image_size == 16


def test_the_side_grows_as_in_ffcv(tiny: Tiny, digits_index: ImageIndex) -> None:
    """160 to 192 in multiples of 32 over steps 35 to 76, as FFCV's own rule gives for these epochs."""
    data = {"start_size": 160, "image_size": 192, "grow_steps": (35, 76), "size_multiple": 32}
    recipe = Recipe.build(tiny(max_steps=90, data=data), digits_index)
    expected = [
        160 if e <= 35 else 192 if e >= 76 else int(np.round(np.interp([e], [35, 76], [160, 192])[0] / 32)) * 32
        for e in range(90)
    ]
    assert [recipe.side(step) for step in range(90)] == expected
    assert set(expected) == {160, 192}


@pytest.mark.parametrize(
    ("start", "stop", "multiple", "expected"),
    [
        (8, 16, 4, [8, 8, 8, 8, 8, 12, 12, 12, 16, 16, 16, 16]),
        (8, 15, 1, [8, 8, 8, 9, 10, 11, 12, 12, 13, 14, 15, 15]),
        (10, 20, 8, [8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 20, 20]),
        (8, 20, 32, [20] * 12),
    ],
)
def test_the_side_stays_in_its_bounds(
    tiny: Tiny, digits_index: ImageIndex, start: int, stop: int, multiple: int, expected: list[int]
) -> None:
    """Linear over steps 2 to 10: never below the first multiple nor above image_size, which is exact at the end."""
    data = {"start_size": start, "image_size": stop, "grow_steps": (2, 10), "size_multiple": multiple}
    recipe = Recipe.build(tiny(data=data), digits_index)
    assert [recipe.side(step) for step in range(12)] == expected


def test_a_growing_step_decodes_at_its_side(tiny: Tiny, digits_index: ImageIndex) -> None:
    """From several threads at once too; the pixels are those of a fixed run at that side, from the same crops."""
    data = {"start_size": 8, "image_size": 16, "grow_steps": (2, 10), "size_multiple": 4, "augment": "crop_flip"}
    recipe = Recipe.build(tiny(data=data), digits_index)

    def decode(step: int) -> torch.Tensor:
        ingredients = recipe.ingredients(step)
        return ingredients.decode(ingredients.sample_ids, ingredients.epochs)

    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(decode, range(12)))
    assert [batch.shape[1] for batch in batches] == [recipe.side(step) for step in range(12)]
    assert len({batch.shape[1] for batch in batches}) == 3
    for step, batch in enumerate(batches):
        one_side = {"start_size": None, "grow_steps": (0, 0), "image_size": batch.shape[1]}
        fixed = Recipe.build(tiny(data={**data, **one_side}), digits_index)
        ingredients = fixed.ingredients(step)
        assert torch.equal(batch, ingredients.decode(ingredients.sample_ids, ingredients.epochs))
    assert recipe.train.image_size == 16


def test_train_samples_are_checked(tiny: Tiny, digits_index: ImageIndex) -> None:
    """Lengths in epochs rest on this number, so a wrong one is an error of one line; the right one passes."""
    assert Recipe.build(tiny(data={"train_samples": 1500}), digits_index).index is digits_index
    with pytest.raises(
        DataError, match=r"^data.train_samples: 1499 is not allowed; allowed: 1500, .*train/; remedy: correct it$"
    ):
        Recipe.build(tiny(data={"train_samples": 1499}), digits_index)


def test_the_best_constant_guess_is_the_largest_class(recipe: Recipe) -> None:
    """Its share of the training set."""
    labels = recipe.index.train.labels
    assert recipe.guess_top1() == max(np.mean(labels == label) for label in range(10))


def test_true_labels_are_those_of_the_index(recipe: Recipe) -> None:
    """The reference of every label fault."""
    ids = np.array([0, 700, 1499])
    assert recipe.true_labels(ids, np.zeros(3)).tolist() == recipe.index.train.labels[ids].tolist()


def test_a_batch_larger_than_the_data_set_is_an_error(tiny: Tiny, digits_index: ImageIndex) -> None:
    """One line that names the batch and the number of samples, before any work."""
    with pytest.raises(DataError, match=r"^global_batch_size: 1501 is not allowed; allowed: .*1500.*; remedy: lower"):
        Recipe.build(tiny(global_batch_size=1501), digits_index)
