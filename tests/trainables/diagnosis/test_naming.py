"""The name of a cause is read off the guilty ingredient itself, and its evidence names the samples."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from trainables.config import FaultConfig
from trainables.data.index import ImageIndex, Split, open_index
from trainables.data.store import FileStore
from trainables.diagnosis.causes import Ingredient
from trainables.diagnosis.culprits import Culprits
from trainables.diagnosis.naming import NamedCause, best_channel_order, name_data, name_labels
from trainables.diagnosis.naming.values import name_rate, name_statistics
from trainables.diagnosis.references import rate_before, rate_divided
from trainables.faults import build_faults
from trainables.ingredients import Ingredients, Stream, with_swaps
from trainables.recipe import Recipe
from trainables.rng import generator

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny

ONSET = 30


def faulty(recipe: Recipe, name: str, **params: Any) -> Stream:
    """The run with one built-in fault from ONSET on."""
    config = FaultConfig(use=f"trainables.faults:{name}", start_step=ONSET, params=params)
    return with_swaps(recipe.ingredients, build_faults([config], recipe))


def name(recipe: Recipe, ingredient: Ingredient, stream: Stream, step: int = ONSET + 3) -> NamedCause:
    """The cause, of a symptom that was confirmed at `step`."""
    return name_data(ingredient, recipe, stream, step)


PIXELS = [
    ("preprocessing", {"normalization": "bgr"}, "channel_swap"),
    ("preprocessing", {"normalization": "no_div255"}, "scale_255"),
    ("preprocessing", {"normalization": "one_scale"}, "wrong_mean_std"),
    ("preprocessing", {"normalization": "imagenet"}, "wrong_mean_std"),
    ("black_images", {"share": 0.5}, "corrupt_images"),
    ("non_finite_input", {}, "non_finite_input"),
]


@pytest.mark.parametrize(("fault", "params", "expected"), PIXELS, ids=[f"{p[0]}-{p[1]}" for p in PIXELS])
@pytest.mark.parametrize("batch", [8, 32])
def test_pixel_faults_have_their_names(
    tiny: Tiny, digits_index: ImageIndex, batch: int, fault: str, params: dict[str, Any], expected: str
) -> None:
    """Whatever the step and the size of the batch."""
    recipe = Recipe.build(tiny(global_batch_size=batch), digits_index)
    stream = faulty(recipe, fault, **params)
    assert {name(recipe, "pixels", stream, ONSET + k).name for k in range(3, 13)} == {expected}


def test_a_symptom_may_be_confirmed_at_an_innocent_batch(recipe: Recipe) -> None:
    """One image in ten is black, so that many a batch of eight has none: the cause is still not the statistics."""
    stream = faulty(recipe, "black_images", share=0.1)
    found = {name(recipe, "pixels", stream, ONSET + k).name for k in range(8, 40)}
    assert found == {"corrupt_images"}


def test_channel_swap_says_which_order(recipe: Recipe) -> None:
    """BGR, read off the pixels alone."""
    found = name(recipe, "pixels", faulty(recipe, "preprocessing", normalization="bgr"))
    assert found.evidence == "the channels come in the order BGR"


def test_any_channel_order_is_read_off_photos(tiny: Tiny, clothing: Path, tmp_path: Path) -> None:
    """On real photos of 32 px, after any affine normalisation, in each of ten batches."""
    index = open_index(str(clothing), cache_dir=tmp_path)
    recipe = Recipe.build(tiny(global_batch_size=8, data={"path": str(clothing), "image_size": 32}), index)
    for step in range(10):
        raw = recipe.train.fetch(recipe.ingredients(step).sample_ids, 0)
        given = recipe.reference_normalization(raw).double() * 1.3 - 0.2
        for order in permutations(range(3)):
            assert best_channel_order(given[:, list(order)], raw) == order


def test_scale_says_how_much(recipe: Recipe) -> None:
    """Some hundred times as wide: a division was forgotten."""
    found = name(recipe, "pixels", faulty(recipe, "preprocessing", normalization="no_div255"))
    assert found.name == "scale_255"
    assert 100 < float(found.evidence.split(" times")[0].split()[-1]) < 1000


def test_a_double_division_is_scale_255_too(recipe: Recipe) -> None:
    """CAUSES.md: missing or double /255. The input is then nearly constant."""
    normalization = replace(recipe.reference_normalization, scale=1 / 255**2)
    stream: Stream = lambda step: replace(recipe.ingredients(step), normalize=normalization)  # noqa: E731 - one line
    assert name(recipe, "pixels", stream).name == "scale_255"


def test_wrong_statistics_show_their_means(recipe: Recipe) -> None:
    """Each channel's mean beside what it should be."""
    found = name(recipe, "pixels", faulty(recipe, "preprocessing", normalization="one_scale"))
    assert found.evidence.startswith("channel means ")
    assert found.evidence.count(" instead of ") == 3


def test_corrupt_images_are_listed(recipe: Recipe) -> None:
    """Exactly the black ones."""
    stream = faulty(recipe, "black_images", share=0.5)
    ingredients = stream(ONSET + 3)
    images = ingredients.decode(ingredients.sample_ids, ingredients.epochs)
    black = ingredients.sample_ids[(images == 0).flatten(1).all(dim=1).numpy()]
    assert 0 < len(black) < 8
    assert name(recipe, "pixels", stream).evidence == "samples " + ", ".join(str(i) for i in black)


def test_the_sample_with_nan_is_named(recipe: Recipe) -> None:
    """One sample of the batch, by its id."""
    stream = faulty(recipe, "non_finite_input")
    assert name(recipe, "pixels", stream).evidence == f"samples {stream(ONSET + 3).sample_ids[0]}"


def test_long_lists_are_cut(tiny: Tiny, digits_index: ImageIndex) -> None:
    """Eight ids, and how many more."""
    recipe = Recipe.build(tiny(global_batch_size=32), digits_index)
    evidence = name(recipe, "pixels", faulty(recipe, "black_images", share=1.0)).evidence
    assert evidence.endswith(" and 24 more")
    assert evidence.count(",") == 7


def noisy_labels(recipe: Recipe, share: float) -> Stream:
    """A share of the samples has a random label."""
    size = len(recipe.index.train)
    wrong = generator("noisy", "who").random(size) < share
    labels = np.where(wrong, generator("noisy", "what").integers(0, 10, size), recipe.index.train.labels)

    def stream(step: int) -> Ingredients:
        return replace(recipe.ingredients(step), label=lambda ids, epochs: labels[ids])

    return stream


@pytest.mark.parametrize("batch", [4, 8, 32])
def test_label_faults_have_their_names(tiny: Tiny, digits_index: ImageIndex, batch: int) -> None:
    """A fixed mapping of classes is an offset, labels unrelated to the truth a shuffle, some wrong ones noise."""
    recipe = Recipe.build(tiny(global_batch_size=batch), digits_index)
    offset, shuffle = faulty(recipe, "offset_labels", offset=3), faulty(recipe, "shuffled_labels")
    for step in range(ONSET + 3, ONSET + 9):
        assert name(recipe, "labels", offset, step).name == "label_offset"
        assert name(recipe, "labels", shuffle, step).name == "label_shuffle"
        assert name(recipe, "labels", noisy_labels(recipe, 0.3), step).name == "label_noise"


@pytest.mark.parametrize("after", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("fault", "expected"), [("offset_labels", "label_offset"), ("shuffled_labels", "label_shuffle")]
)
def test_labels_of_before_the_event_are_no_evidence(recipe: Recipe, after: int, fault: str, expected: str) -> None:
    """A symptom confirmed at its onset, or soon after (`detector.confirm` below 4), has the same name."""
    assert name(recipe, "labels", faulty(recipe, fault), ONSET + after).name == expected


def many_classes(recipe: Recipe, count: int) -> Recipe:
    """The recipe over a data set of `count` classes with as many samples each; it has no pixels."""
    labels = generator("many_classes").permutation(np.repeat(np.arange(count), 3)).astype(np.int64)
    split = Split(FileStore("nowhere", tuple(f"{i}.jpg" for i in range(len(labels)))), labels)
    classes = tuple(f"{i:04d}" for i in range(count))
    index = ImageIndex("nowhere", classes, split, split, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    return Recipe.build(recipe.config, index)


def test_a_shuffle_of_many_classes_is_no_offset(recipe: Recipe) -> None:
    """With a thousand classes and small batches few classes come twice, so that each seems to become one other."""
    wide = many_classes(recipe, 1000)
    shuffled = generator("shuffled").permutation(wide.index.train.labels)
    steps = [replace(wide.ingredients(k), label=lambda ids, epochs: shuffled[ids]) for k in range(80)]
    names = {name_labels(wide, steps[start : start + 8]).name for start in range(0, 80, 8)}
    assert names == {"label_shuffle"}


def test_an_offset_of_many_classes_is_an_offset(recipe: Recipe) -> None:
    """The same relation holds for every label seen."""
    wide = many_classes(recipe, 1000)
    offset = (wide.index.train.labels + 1) % 1000
    steps = [replace(wide.ingredients(k), label=lambda ids, epochs: offset[ids]) for k in range(8)]
    assert name_labels(wide, steps).name == "label_offset"


@pytest.mark.parametrize("fault", ["sorted_by_class", "sorted_by_brightness"])
def test_an_order_that_the_sampler_did_not_draw_is_a_batch_shift(recipe: Recipe, fault: str) -> None:
    """Whatever it is sorted by."""
    assert name(recipe, "samples", faulty(recipe, fault)).name == "batch_shift"


def test_batch_shift_names_no_sample_of_before_the_event(recipe: Recipe) -> None:
    """The first sample and the first step named are of the foreign order."""
    stream = faulty(recipe, "sorted_by_class")
    evidence = name(recipe, "samples", stream, ONSET + 1).evidence
    assert f"from step {ONSET} on" in evidence
    assert f"samples {stream(ONSET).sample_ids[0]}, " in evidence


def test_the_samplers_own_batch_is_poisoned(recipe: Recipe) -> None:
    """The order is right, so it is the samples themselves; they are named."""
    found = name(recipe, "samples", recipe.ingredients)
    assert found.name == "poisoned_batch"
    assert str(recipe.ingredients(ONSET).sample_ids[0]) in found.evidence


@pytest.mark.parametrize(
    ("model", "samples"), [({}, 8), ({"norm": "ghost_bn", "ghost_batch_size": 4}, 4), ({"norm": "ghost_bn"}, 8)]
)
def test_small_batch_statistics_say_over_how_many(
    tiny: Tiny, digits_index: ImageIndex, model: dict[str, Any], samples: int
) -> None:
    """The batch, or the ghost batch where that is smaller."""
    recipe = Recipe.build(tiny(model=model), digits_index)
    found = name_statistics(recipe)
    assert found == NamedCause("bn_small_batch", f"statistics over {samples} samples a step")


def test_a_rate_that_jumped_and_one_that_is_too_high(recipe: Recipe) -> None:
    """With a change point the jump is named with its step and both rates, else the rate that is healthy."""
    stream = faulty(recipe, "learning_rate_factor", factor=50.0)
    jump = name_rate(rate_before(stream, ONSET), stream, ONSET + 3)
    assert jump == NamedCause("lr_jump", f"the rate goes from 0.02 to 1 at step {ONSET}", Culprits(step=ONSET))
    high = name_rate(rate_divided(stream, 4.0, ONSET + 3), stream, ONSET + 3)
    assert high == NamedCause("lr_too_high", "rate 1; 0.25 stays healthy")


def test_a_grey_batch_has_the_plain_order() -> None:
    """Where the channels are alike, nothing tells their order: no accusation."""
    grey = torch.randint(0, 256, (4, 8, 8, 1), generator=torch.Generator().manual_seed(0)).expand(4, 8, 8, 3)
    raw = grey.to(torch.uint8)
    assert best_channel_order(raw.permute(0, 3, 1, 2).double() / 255, raw) == (0, 1, 2)
