"""What a run's detector is told beforehand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from trainables.watch import build_detector

if TYPE_CHECKING:
    from tests.trainables.conftest import Build, Tiny


@pytest.mark.parametrize(("loss", "chance"), [("ce", math.log(10)), ("bce", 0.0)])
def test_chance_is_known_under_cross_entropy_alone(build: Build, tiny: Tiny, loss: str, chance: float) -> None:
    """Binary cross-entropy of each class has another level of guessing."""
    assert build_detector(build(tiny(optim={"loss": loss})).recipe).chance == chance


def test_growing_images_and_the_length_of_the_run_are_known(build: Build, tiny: Tiny) -> None:
    """As the recipe has them."""
    data = {"image_size": 16, "start_size": 8, "grow_steps": [2, 8], "size_multiple": 8, "augment": "none"}
    recipe = build(tiny(data=data)).recipe
    detector = build_detector(recipe)
    assert detector.scheduled_changes == recipe.size_changes() != ()
    assert (detector.max_steps, detector.guess_top1) == (12, recipe.guess_top1())
