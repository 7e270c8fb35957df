"""The negative controls of the catalogue, as losses and learning rates: nothing alarms, and the real thing beside each
does.
"""

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
Floats = NDArray[np.float64]
K = np.arange(600)


def noise(scale: float = 0.05, key: int = 0) -> Floats:
    """Normal noise, one value a step."""
    return np.asarray(generator("controls", key).normal(0, scale, size=len(K)))


def first(losses: Floats, rates: Floats | float = math.nan, changes: tuple[int, ...] = ()) -> Symptom | None:
    """What the detector sees first."""
    detector = Detector(CONFIG, 10, max_steps=len(K), scheduled_changes=changes)
    rates = np.broadcast_to(rates, losses.shape)
    rows = (StepSignals(int(k), float(losses[k]), learning_rate=float(rates[k])) for k in range(len(losses)))
    return next((symptom for row in rows if (symptom := detector.update(row))), None)


LEARNING = 0.5 + (CHANCE - 0.5) * np.exp(-K / 40)
RESTARTED = 0.5 * (1 + np.cos(np.pi * (K % 150) / 150))
CYCLES = 0.2 + 0.6 * RESTARTED
QUIET: dict[str, tuple[Floats, Floats | float]] = {
    "scheduled drop of the rate": (np.where(K < 300, LEARNING, 0.2), np.where(K < 300, 0.1, 0.01)),
    "warm-up": (np.where(K < 250, CHANCE, 0.5 + (CHANCE - 0.5) * np.exp(-(K - 250) / 40)), np.minimum(1, K / 250)),
    "warm restarts": (CYCLES + (CHANCE - 0.8) * np.exp(-K / 15), 0.1 * RESTARTED),
    "benign batch that heals": (np.where(K == 300, 9.0, LEARNING), 0.1),
    "label smoothing": (np.maximum(LEARNING, 1.0), 0.1),
}


@pytest.mark.parametrize("name", QUIET)
def test_a_negative_control_is_quiet(name: str) -> None:
    """On ten seeds of noise."""
    losses, rates = QUIET[name]
    assert [first(losses + noise(key=key), rates) for key in range(10)] == [None] * 10


@pytest.mark.parametrize("rise", [0.6, 1.2])
def test_a_scheduled_change_of_the_loss_is_quiet(rise: float) -> None:
    """Mixup switched on or another image size lifts the loss for good: no symptom where the config says so, one where
    nothing does; what comes after is seen against the new level.
    """
    lifted = np.where(K < 300, LEARNING, LEARNING + rise) + noise()
    assert first(lifted, 0.1, changes=(300,)) is None
    unexpected = first(lifted, 0.1)
    assert unexpected is not None
    assert unexpected.onset == 300
    later = first(lifted + np.where(K >= 400, 1.0, 0.0), 0.1, changes=(300,))
    assert later is not None
    assert later.onset == 400


def test_a_restart_that_diverges_is_no_warm_restart() -> None:
    """The rate comes back to one that the run has had, and the loss rises far past what it was then."""
    losses, rates = QUIET["warm restarts"]
    ill = np.where(K >= 300, losses + 0.02 * (K - 300), losses)
    symptom = first(ill + noise(), rates)
    assert symptom is not None
    assert 300 <= symptom.onset < 400


def test_a_rate_that_the_run_never_had_forgives_nothing() -> None:
    """A jump to four times the peak, and the loss with it, is an event."""
    jumped = np.where(K < 300, LEARNING, LEARNING + 0.8) + noise()
    symptom = first(jumped, np.where(K < 300, 0.1, 0.4))
    assert symptom is not None
    assert symptom.onset == 300


def test_rows_a_hundred_steps_apart_are_judged_like_steps() -> None:
    """The same losses under other step numbers: the same observation is the onset."""
    losses = np.where(K < 300, LEARNING, LEARNING + 2.0) + noise()
    detector = Detector(CONFIG, 10)
    rows = (StepSignals(100 * int(k), float(loss)) for k, loss in enumerate(losses))
    symptom = next(symptom for row in rows if (symptom := detector.update(row)))
    plain = first(losses)
    assert plain is not None
    assert (symptom.kind, symptom.onset, symptom.step) == (plain.kind, 100 * plain.onset, 100 * plain.step)
