"""A level that rises on a steep descent, where the scatter of the history is that of the descent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from trainables.config import DetectorConfig
from trainables.detectors import Detector, Symptom
from trainables.rng import generator
from trainables.step_signals import StepSignals

CHANCE = math.log(10)
CONFIG = DetectorConfig()
START = 70
"""Steps of the descent, from chance to 0.7."""


def descent(key: int, scatter: float = 0.3, count: int = START) -> NDArray[np.float64]:
    """A loss that falls in a line, with the noise of a small batch."""
    return np.linspace(CHANCE, 0.7, count) + generator("shifted", key).normal(0, scatter, count)


def after(key: int, level: float, scatter: float, count: int = 40) -> NDArray[np.float64]:
    """A stretch that stands at a level."""
    return level + generator("shifted after", key).normal(0, scatter, count)


def first_symptom(losses: NDArray[np.float64], classes: int | None = 10, error: float = 0.8) -> Symptom | None:
    """What is seen first; error: of each batch's mean, as hard samples make it, which hides the rise from a spike."""
    detector = Detector(CONFIG, classes)
    steps = (StepSignals(k, float(loss), loss_noise=error) for k, loss in enumerate(losses))
    return next((symptom for step in steps if (symptom := detector.update(step))), None)


@pytest.mark.parametrize("key", range(5))
@pytest.mark.parametrize("classes", [10, None])
def test_a_level_that_rises_is_a_divergence(key: int, classes: int | None) -> None:
    """Seen within the window that is judged, dated to where it began, measured against the steps just before."""
    losses = np.concatenate([descent(key), after(key, 3.2, 0.6)])
    symptom = first_symptom(losses, classes)
    assert symptom is not None
    assert symptom.kind == "divergence"
    assert symptom.step < START + CONFIG.min_history
    assert START - 1 <= symptom.onset <= START + 4
    assert 0.6 < symptom.baseline.level < 1.5


@pytest.mark.parametrize("key", range(5))
def test_a_fall_back_to_chance_is_a_collapse(key: int) -> None:
    """However little the run had learned: chance is 0.5 above it."""
    losses = np.concatenate([np.linspace(CHANCE, 1.8, START) + 0.1 * descent(key) - 0.15, after(key, CHANCE, 0.01)])
    symptom = first_symptom(losses, error=0.2)
    assert symptom is not None
    assert symptom.kind == "collapse"
    assert symptom.step < START + 2 * CONFIG.min_history


def test_a_collapse_within_the_first_steps_is_seen() -> None:
    """The run has learned for a few steps only, and most of its history is the way down."""
    losses = np.concatenate([np.linspace(2.6, 0.5, 24), after(0, CHANCE, 0.01)])
    symptom = first_symptom(losses, error=0.2)
    assert symptom is not None
    assert symptom.kind == "collapse"
    assert 24 <= symptom.onset <= symptom.step < 24 + CONFIG.min_history


@pytest.mark.parametrize("scatter", [0.05, 0.3, 0.6])
def test_a_noisy_descent_is_quiet(scatter: float) -> None:
    """No window of twenty healthy runs lies so far above the two before."""
    for key in range(20):
        assert first_symptom(descent(key, scatter, 400)) is None


def test_a_small_rise_is_quiet() -> None:
    """A tenth of chance is no shift, however calm the run."""
    losses = np.concatenate([descent(0, 0.01), after(0, 0.7 + 0.08 * CHANCE, 0.01)])
    assert first_symptom(losses, error=0.2) is None


YOUNG = [*[2.4] * 9, 1.9, 1.7, 1.5, 1.2, *[0.9] * 3, 0.7, 0.7, 0.5, 0.7, 0.5, 0.7]
"""A descent that is too short for a best stretch, and for windows before the one that is judged."""
FALLEN = {
    "all": [8.2, 6.9, 4.9, 4.0, 3.3, 3.4, 3.6, 2.6, 3.1, 2.9, 3.0, 2.8, 3.0, 2.9, 2.6, 2.7, 2.9, 2.7, 3.1],
    "a third": [2.5, 3.1, 2.2, 3.5, 1.8, 2.5, 2.1, 2.1, 2.1, 1.8, 2.3, 1.9, 2.1, 1.9, 1.3, 1.8, 1.8, 1.8, 1.9],
}
"""Losses of runs whose labels, or a third of them, went wrong then."""


@pytest.mark.parametrize("back", FALLEN.values(), ids=FALLEN)
def test_a_run_that_falls_back_in_its_descent_is_seen(back: list[float]) -> None:
    """The history is the descent, whose scatter is as large as the event; a few bad steps are none."""
    symptom = first_symptom(np.array([*YOUNG, *back]))
    assert symptom is not None
    assert (symptom.kind, symptom.onset) == ("divergence", len(YOUNG))
    assert symptom.step < len(YOUNG) + CONFIG.min_history
    assert symptom.baseline.loss_score(0.7) < 1.0
    assert symptom.baseline.loss_score(float(np.median(back))) >= CONFIG.spike_score
    assert first_symptom(np.array([*YOUNG, *back[:4], *YOUNG[-8:]])) is None


def test_half_of_the_way_back_to_guessing_is_no_fall() -> None:
    """Nor is a run that never had half of chance behind it."""
    assert first_symptom(np.array([*YOUNG, *[1.4] * 20])) is None
    assert first_symptom(np.array([*YOUNG[:12], *[2.2] * 20])) is None
