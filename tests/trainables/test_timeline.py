"""Every event of a finished log, with its beginning and its end."""

from __future__ import annotations

import math

from trainables.config import DetectorConfig
from trainables.rng import generator
from trainables.signals import StepSignals
from trainables.timeline import find_symptoms


def rows(losses: list[float]) -> list[StepSignals]:
    """Signals of consecutive steps."""
    return [StepSignals(step, loss) for step, loss in enumerate(losses)]


def noisy(n: int) -> list[float]:
    """A calm loss near 1."""
    return [1.0 + 0.01 * float(noise) for noise in generator("timeline").standard_normal(n)]


def test_events_after_the_first_are_found_too() -> None:
    """Two spikes that heal and a nan that stays: three events, each from its first to its last step."""
    losses = noisy(300)
    losses[50:60] = [5.0] * 10
    losses[150:170] = [6.0] * 20
    losses[280:] = [math.nan] * 20
    found = [(event.kind, event.step, event.end_step) for event in find_symptoms(rows(losses))]
    assert found == [("spike", 50, 59), ("spike", 150, 169), ("non_finite", 280, 299)]


def test_a_spike_that_never_heals_lasts_to_the_end() -> None:
    """Its end is the log's."""
    losses = noisy(100)
    losses[60:] = [5.0] * 40
    [event] = find_symptoms(rows(losses), DetectorConfig(), 1000)
    assert (event.step, event.end_step) == (60, 99)
    assert event.severity > 6


def test_quiet_empty_and_constant_logs_have_no_event() -> None:
    """Nothing happens in them."""
    assert find_symptoms(rows(noisy(500))) == []
    assert find_symptoms(rows([1.0] * 100)) == []
    assert find_symptoms([]) == []
