"""The detector sees a shift of the input that batch norm hides from the loss; an odd or a small batch is none."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from trainables.config import DetectorConfig
from trainables.detectors import Detector, Symptom
from trainables.rng import generator
from trainables.step_signals import StepSignals

CONFIG = DetectorConfig()


def loss_at(step: int, key: int = 0) -> float:
    """A run that learns."""
    return float(0.5 + 1.8 * np.exp(-step / 15) + generator("input rule", key, step).normal(0, 0.05))


def first_symptom(steps: Iterable[StepSignals], detector: Detector) -> Symptom | None:
    """What the detector sees first."""
    return next((symptom for step in steps if (symptom := detector.update(step))), None)


def shifted(step: int, mean: float) -> StepSignals:
    """A healthy loss with an input mean that scatters by 0.05."""
    wobble = float(generator("wobble", step).normal(0, 0.05))
    return StepSignals(step, loss_at(step), input_mean=(mean + wobble, 0.0), input_std=(1.0, 1.0))


def test_an_input_shift_in_mid_run_is_seen_from_the_moments_alone() -> None:
    """The loss is healthy, as behind batch norm; the mean moves by half a standard deviation at step 60."""
    steps = [shifted(step, 0.0 if step < 60 else 0.5) for step in range(100)]
    symptom = first_symptom(steps, Detector(CONFIG, 10, (0.0, 0.0), (1.0, 1.0)))
    assert symptom is not None
    assert (symptom.kind, symptom.onset) == ("input_shift", 60)
    assert symptom.step < 60 + 2 * CONFIG.confirm
    assert symptom.baseline.stretch_score(steps[60:70]) >= CONFIG.spike_score
    assert symptom.baseline.stretch_score(steps[40:60]) < 3.0


@pytest.mark.parametrize("history", [16, 17, 40])
def test_a_shift_from_step_0_is_seen_against_the_declared_moments(history: int) -> None:
    """No healthy stretch before it: what the data index promises is the measure, for the replays as well."""
    steps = [shifted(step, 0.5) for step in range(60)]
    symptom = first_symptom(steps, Detector(DetectorConfig(history=history), 10, (0.0, 0.0), (1.0, 1.0)))
    assert symptom is not None
    assert (symptom.kind, symptom.onset, symptom.step) == ("input_shift", 0, CONFIG.min_history)
    assert symptom.baseline.stretch_score(steps[:17]) >= CONFIG.spike_score
    assert symptom.baseline.stretch_score([shifted(step, 0.0) for step in range(17)]) < 3.0
    assert first_symptom(steps, Detector(CONFIG, 10)) is None


def test_one_odd_batch_shifts_no_input() -> None:
    """A black batch, or three, in a healthy run."""
    for odd in ({50}, {50, 52, 54}):
        steps = [shifted(step, -3.0 if step in odd else 0.0) for step in range(120)]
        assert first_symptom(steps, Detector(CONFIG, 10, (0.0, 0.0), (1.0, 1.0))) is None


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_moments_of_tiny_batches_are_quiet(batch: int) -> None:
    """A sample's brightness scatters widely, and so do the moments of one or two of them: that is their noise."""
    for key in range(10):
        light = generator("tiny batches", key).normal(0, 0.8, size=(300, batch))
        steps = [
            StepSignals(
                k, loss_at(k, key), input_mean=(float(row.mean()),), input_std=(float(np.sqrt(0.36 + row.var())),)
            )
            for k, row in enumerate(light)
        ]
        assert first_symptom(steps, Detector(CONFIG, 10, (0.0,), (1.0,))) is None
