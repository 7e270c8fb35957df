"""What is wrong below the seam is told from what is sound there, and what is sound is not accused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.diagnosis.naming.suspects import common_offset, moved_channels, odd_images
from trainables.diagnosis.references.sound import counted_normalization, sound_optimizer
from trainables.loop import train_step
from trainables.recipe import Recipe

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.diagnosis.conftest import MakeSmall


@pytest.fixture(scope="module")
def images(recipe: Recipe) -> Tensor:
    """Four hundred digits: the first hundred are suspects, the others are trusted."""
    return recipe.train.fetch(np.random.default_rng(0).permutation(len(recipe.index.train))[:400], None)


def halved(images: Tensor) -> Tensor:
    """The lower half is grey."""
    cut = images.clone()
    cut[:, images.shape[1] // 2 :] = 128
    return cut


DAMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "black": torch.zeros_like,
    "grey": lambda images: torch.full_like(images, 128),
    "halved": halved,
    "noise": lambda images: torch.randint_like(images, 0, 256),
    "faint noise": lambda images: torch.randint_like(images, 100, 160),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_images_are_odd_and_no_others(images: Tensor, damage: str) -> None:
    """Every tenth image, by its place, with at most a few sound ones among them."""
    torch.manual_seed(0)
    suspects = images[:100].clone()
    suspects[::10] = DAMAGES[damage](suspects[::10])
    found = odd_images(suspects, images[100:])
    assert found[::10].all()
    assert found.sum() <= 12


def test_sound_images_are_not_odd(images: Tensor) -> None:
    """A few in a hundred lie at the edge."""
    assert odd_images(images[:100], images[100:]).mean() <= 0.02


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_channels_that_moved_are_put_back(images: Tensor, order: tuple[int, int, int]) -> None:
    """The order that gives the trusted files' moments, in darker images too; None for files that are as they were."""
    for suspects in (images[:100], images[:100] // 2):
        found = moved_channels(suspects[..., list(order)], images[100:])
        assert found is not None
        assert [order[c] for c in found] == [0, 1, 2]
        assert moved_channels(suspects, images[100:]) is None


def offsets(classes: int, *, skill: float, wrong: float, shift: int | None) -> np.ndarray:
    """Labels minus predictions of 400 samples: a model that is right so often, a share of labels moved or drawn."""
    rng = np.random.default_rng(0)
    truth = rng.integers(classes, size=400)
    predicted = np.where(rng.random(400) < skill, truth, rng.integers(classes, size=400))
    moved = truth + shift if shift is not None else rng.integers(classes, size=400)
    return np.asarray((np.where(rng.random(400) < wrong, moved, truth) - predicted) % classes)


@pytest.mark.parametrize("wrong", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("skill", [0.4, 0.7, 0.95])
def test_labels_that_all_moved_alike_are_told_from_drawn_ones(skill: float, wrong: float) -> None:
    """However little the model has learned, and with sound samples among them."""
    usual = skill + (1.0 - skill) / 10
    assert common_offset(offsets(10, skill=skill, wrong=wrong, shift=3), usual, 10) == 3
    assert common_offset(offsets(10, skill=skill, wrong=wrong, shift=None), usual, 10) == 0


def test_of_two_classes_only_labels_that_are_all_wrong_have_moved() -> None:
    """Half of them drawn anew are the other class too."""
    assert common_offset(offsets(2, skill=0.9, wrong=1.0, shift=1), 0.95, 2) == 1
    assert common_offset(offsets(2, skill=0.9, wrong=0.5, shift=1), 0.95, 2) == 0


def test_moments_of_an_index_are_counted_anew(recipe: Recipe) -> None:
    """Nothing to put right where they are those of the images; else the counted ones."""
    pool = np.arange(len(recipe.index.train))
    assert counted_normalization(recipe, pool) is None
    wrong = replace(recipe, index=replace(recipe.index, channel_mean=(0.1, 0.5, 0.9)))
    found = counted_normalization(wrong, pool)
    assert found is not None
    assert found.mean == pytest.approx(recipe.index.channel_mean, abs=0.03)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_an_optimizer_that_was_tampered_with_is_found(small: MakeSmall, tiny: Tiny, kind: str) -> None:
    """A sound one has no reference; one that steps twice, or clears no gradient, has one that undoes it."""
    trial = small(tiny(optim={"kind": kind, "lr": 0.001})).trial
    state, config = trial.state, trial.config.optim
    snapshot = state.snapshot()
    assert sound_optimizer(state, config, trial.stream, snapshot) is None
    once = state.optimizer.step

    def twice() -> None:
        once()
        once()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state.optimizer, "step", twice)
        swap = sound_optimizer(state, config, trial.stream, snapshot)
    assert swap is not None
    assert swap(trial.stream(0)).code is not train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state.optimizer, "zero_grad", lambda set_to_none: None)
        assert sound_optimizer(state, config, trial.stream, snapshot) is not None
