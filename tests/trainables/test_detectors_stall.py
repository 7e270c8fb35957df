"""A run that never left chance has stalled, once its warm-up is long over."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import numpy as np
import pytest

from trainables.config import DetectorConfig
from trainables.detectors import Detector, Symptom
from trainables.rng import generator
from trainables.step_signals import StepSignals

CHANCE = math.log(10)
CONFIG = DetectorConfig(stall_steps=200)


def at_chance(count: int, scale: float = 0.05, level: float = CHANCE, key: int = 0) -> list[float]:
    """Losses around a level."""
    return [float(x) for x in level + generator("stall", key).normal(0, scale, size=count)]


def steps(losses: Iterable[float], rates: Iterable[float] | None = None) -> list[StepSignals]:
    """One step a loss."""
    losses = list(losses)
    chosen = list(rates) if rates is not None else [math.nan] * len(losses)
    return [StepSignals(k, loss, learning_rate=rate) for k, (loss, rate) in enumerate(zip(losses, chosen, strict=True))]


def first(rows: Iterable[StepSignals], detector: Detector) -> Symptom | None:
    """What the detector sees first."""
    return next((symptom for row in rows if (symptom := detector.update(row))), None)


@pytest.mark.parametrize("scale", [0.0, 0.02, 0.1, 0.2])
def test_a_run_that_stays_at_chance_has_stalled(scale: float) -> None:
    """Calm, constant or noisy: seen `stall_steps` after the first step, and present by its own baseline."""
    for key in range(5):
        symptom = first(steps(at_chance(300, scale, key=key)), Detector(CONFIG, 10))
        assert symptom is not None
        assert (symptom.kind, symptom.onset) == ("stall", 0)
        assert 200 <= symptom.step < 210
        assert symptom.severity >= CONFIG.spike_score
        assert symptom.baseline.loss_score(CHANCE) >= CONFIG.spike_score
        assert symptom.baseline.loss_score(0.2 * CHANCE) < 3.0


def test_a_short_run_has_stalled_after_half_of_its_steps() -> None:
    """`max_steps` shortens the wait, never lengthens it."""
    short = first(steps(at_chance(300)), Detector(CONFIG, 10, max_steps=300))
    assert short is not None
    assert (short.kind, short.step) == ("stall", 150)
    least = first(steps(at_chance(150)), Detector(CONFIG, 10, max_steps=80))
    assert least is not None
    assert least.step == 2 * CONFIG.erratic_window
    long = first(steps(at_chance(300)), Detector(CONFIG, 10, max_steps=100_000))
    assert long is not None
    assert long.step == 200


def test_a_warmup_is_no_stall() -> None:
    """While the rate rises nothing is counted; after it the wait begins."""
    rates = [min(1.0, (k + 1) / 400) for k in range(700)]
    symptom = first(steps(at_chance(700), rates), Detector(CONFIG, 10))
    assert symptom is not None
    assert (symptom.kind, symptom.onset) == ("stall", 399)
    assert symptom.step >= 599


def test_a_run_that_leaves_chance_late_is_quiet() -> None:
    """One that falls just before the wait is over, also from far above chance."""
    k = np.arange(400)
    late = CHANCE - 1.5 * (1 - np.exp(-np.maximum(0, k - 190) / 60)) + at_chance(400, 0.02, 0.0)
    huge = np.where(k < 195, 1.6 * CHANCE, 0.4 * CHANCE + 1.2 * CHANCE * np.exp(-np.maximum(0, k - 195) / 30))
    assert first(steps(late.tolist()), Detector(CONFIG, 10)) is None
    assert first(steps((huge + at_chance(400, 0.02, 0.0)).tolist()), Detector(CONFIG, 10)) is None


def tiny_batches(right: float, level: float) -> list[StepSignals]:
    """Batches of four, whose loss scatters by 1 nat and of which a share is classified right."""
    rng = generator("tiny batches")
    losses = level + rng.normal(0, 1.0, size=400)
    return [StepSignals(k, float(loss), top1=rng.binomial(4, right) / 4) for k, loss in enumerate(losses)]


def test_a_run_that_classifies_has_left_chance() -> None:
    """A tiny batch's loss is too noisy to tell it; the top-1 is not, where that of guessing is known."""
    rows = tiny_batches(0.45, 0.7 * CHANCE)
    assert first(rows, Detector(CONFIG, 10, guess_top1=0.1)) is None
    unknown, one_large_class = first(rows, Detector(CONFIG, 10)), first(rows, Detector(CONFIG, 10, guess_top1=0.4))
    assert unknown is not None
    assert one_large_class is not None
    assert unknown.kind == one_large_class.kind == "stall"


@pytest.mark.parametrize("right", [0.1, 0.2])
def test_a_run_that_hardly_classifies_has_not(right: float) -> None:
    """A few labels that were learned by heart are no progress."""
    symptom = first(tiny_batches(right, CHANCE), Detector(CONFIG, 10, guess_top1=0.1))
    assert symptom is not None
    assert symptom.kind in ("stall", "instability")


def test_unknown_classes_know_no_stall() -> None:
    """Without chance level nothing says where a run that learns would be."""
    assert first(steps(at_chance(3000)), Detector(CONFIG)) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_neither_hides_nor_hastens_a_stall(bad: float) -> None:
    """The stall comes when it would have come."""
    rows = steps(at_chance(300))
    rows[50] = StepSignals(50, bad)
    detector = Detector(CONFIG, 10)
    kinds = [(s.kind, s.step) for row in rows if (s := detector.update(row))]
    assert kinds[0] == ("non_finite", 50)
    assert kinds[1][0] == "stall"
    assert 200 <= kinds[1][1] < 210


@pytest.mark.parametrize("at", [10, 120, 199])
def test_save_and_restore_through_json_change_no_decision(at: int) -> None:
    """Warm-up, best stretches and windows come back."""
    rates = [min(1.0, (k + 1) / 20) for k in range(260)]
    rows = steps(at_chance(260), rates)
    whole, before, after = Detector(CONFIG, 10), Detector(CONFIG, 10), Detector(CONFIG, 10)
    expected = [whole.update(row) for row in rows]
    seen = [before.update(row) for row in rows[:at]]
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert seen + [after.update(row) for row in rows[at:]] == expected
    assert any(expected)
