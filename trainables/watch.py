"""The detector of a run, with all that its recipe can tell it beforehand."""

from __future__ import annotations

from trainables.detectors import Detector
from trainables.recipe import Recipe


def build_detector(recipe: Recipe) -> Detector:
    """A detector that has seen nothing yet; chance is ln(classes) under cross-entropy alone."""
    return Detector(
        recipe.config.detector,
        len(recipe.index.classes) if recipe.config.optim.loss == "ce" else None,
        *recipe.expected_input_moments(),
        max_steps=recipe.config.max_steps,
        scheduled_changes=recipe.size_changes(),
        guess_top1=recipe.guess_top1(),
    )
