"""The detector sees every symptom, from its first step on, nothing in a healthy run. Its input rule:
test_detectors_input.py; real curves: test_curves.py.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from trainables.baseline import NON_FINITE_SCORE
from trainables.config import DetectorConfig
from trainables.detectors import Detector, Symptom
from trainables.rng import generator
from trainables.step_signals import StepSignals

CHANCE = math.log(10)
CONFIG = DetectorConfig()
Floats = NDArray[np.float64]


def noise(count: int, scale: float = 0.05, key: int = 0) -> Floats:
    """Normal noise."""
    return np.asarray(generator("detectors", key).normal(0, scale, size=count))


def healthy(count: int = 120, key: int = 0) -> Floats:
    """A run that learns: from chance down to 0.5."""
    return 0.5 + (CHANCE - 0.5) * np.exp(-np.arange(count) / 15) + noise(count, key=key)


def signals(losses: Iterable[float], start: int = 0) -> list[StepSignals]:
    """One step a loss."""
    return [StepSignals(step, float(loss)) for step, loss in enumerate(losses, start)]


def first_symptom(steps: Sequence[StepSignals], detector: Detector | None = None) -> Symptom | None:
    """What the detector sees first; of ten classes with the default config unless given."""
    detector = detector or Detector(CONFIG, num_classes=10)
    return next((symptom for step in steps if (symptom := detector.update(step))), None)


def test_a_healthy_run_is_quiet() -> None:
    """A loss that falls with noise never alarms, with classes known or not."""
    for key in range(20):
        steps = signals(healthy(400, key))
        assert first_symptom(steps) is None
        assert first_symptom(steps, Detector(CONFIG)) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 50])
def test_a_loss_that_is_not_finite_is_seen_at_once(bad: float, at: int) -> None:
    """At the very first step too, where no baseline exists yet."""
    losses = healthy()
    losses[at] = bad
    symptom = first_symptom(signals(losses))
    assert symptom is not None
    assert (symptom.kind, symptom.step, symptom.onset, symptom.severity) == ("non_finite", at, at, NON_FINITE_SCORE)


def test_a_gradient_that_is_not_finite_is_seen_at_once() -> None:
    """A finite loss with an infinite gradient, or a step that was not applied, is not finite either."""
    for bad in (StepSignals(0, 1.0, grad_norm=math.inf), StepSignals(0, 1.0, grad_norm=math.nan, applied=False)):
        symptom = first_symptom([bad])
        assert symptom is not None
        assert symptom.kind == "non_finite"


def test_a_step_that_is_not_finite_enters_nothing() -> None:
    """One nan poisons no window: the decisions after it are those of a run without it."""
    losses = healthy(60)
    clean, dirty = Detector(CONFIG, num_classes=10), Detector(CONFIG, num_classes=10)
    for step in signals(losses):
        assert clean.update(step) is None
        assert dirty.update(step) is None
        if step.step in (3, 30, 50):
            assert dirty.update(replace(step, loss=math.nan)) is not None
    assert clean == dirty


@pytest.mark.parametrize("level", [0.0, 1e-9, 0.5, CHANCE])
def test_a_constant_loss_is_quiet(level: float) -> None:
    """No scatter, no division by it."""
    assert first_symptom(signals([level] * 200)) is None
    assert first_symptom(signals([level] * 200), Detector(CONFIG)) is None


def test_a_constant_input_is_quiet_and_a_change_of_it_is_not() -> None:
    """Black images all along have moments that never move; the first image that differs is a shift."""
    black = [replace(step, input_mean=(0.0,), input_std=(0.0,)) for step in signals(healthy(60))]
    assert first_symptom(black) is None
    grey = [replace(step, input_mean=(0.5,), input_std=(0.1,)) for step in signals(healthy(60), start=60)]
    symptom = first_symptom([*black, *grey])
    assert symptom is not None
    assert (symptom.kind, symptom.onset) == ("input_shift", 60)


def test_no_loss_rule_fires_before_min_history() -> None:
    """The warm-up's edge: whatever the loss does in the first 15 steps, unless it is not finite."""
    wild = np.where(np.arange(CONFIG.min_history - 1) % 2, 0.1, 50.0)
    assert first_symptom(signals(wild)) is None


def test_a_spike_right_after_min_history_is_seen() -> None:
    """At the edge itself the rules are on: 16 accepted steps are enough."""
    losses = [*healthy(CONFIG.min_history), *[20.0] * CONFIG.confirm]
    symptom = first_symptom(signals(losses))
    assert symptom is not None
    assert (symptom.kind, symptom.onset) == ("spike", CONFIG.min_history)
    assert symptom.step == CONFIG.min_history + CONFIG.confirm - 1


def test_a_rise_within_warmup_is_quiet() -> None:
    """A loss that first rises above chance and then falls, as under a linear warm-up, is healthy."""
    k = np.arange(200)
    losses = CHANCE + 0.8 * np.exp(-(((k - 8) / 6) ** 2)) - 1.9 * (1 - np.exp(-np.maximum(0, k - 12) / 40))
    assert first_symptom(signals(losses + noise(200))) is None


@pytest.mark.parametrize("height", [2.0, 10.0, 1e6])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_benign_batch_that_heals_is_quiet(height: float, width: int) -> None:
    """Fewer bad steps than `confirm`, however bad, are noise: the run heals by itself."""
    losses = healthy(200)
    losses[80 : 80 + width] = height
    assert first_symptom(signals(losses)) is None


def test_bad_batches_far_apart_are_quiet() -> None:
    """One bad batch in twenty never adds up."""
    losses = healthy(400)
    losses[40::20] = 8.0
    assert first_symptom(signals(losses)) is None


def test_a_few_hard_samples_in_a_calm_phase_are_quiet() -> None:
    """One of 16 samples at 4 nats where the others have 0.02 lifts the mean by many times the run's noise."""
    calm = 0.02 + 0.002 * np.abs(noise(100, scale=1.0))
    steps = [replace(s, loss_noise=0.01) for s in signals(calm)]
    hard = [replace(s, loss=0.27, loss_noise=0.25) if s.step in (60, 62, 63, 65, 66) else s for s in steps]
    assert first_symptom(hard) is None


def test_a_jump_whose_samples_scatter_is_a_spike() -> None:
    """A real one, of ResNet-50 with batch norm at 16 and 50 times the rate: some samples at 200 nats, some at 2."""
    before = [replace(s, loss_noise=0.44) for s in signals(2.1 + noise(33, scale=0.3))]
    jump = [(37.24, 6.18), (81.94, 16.63), (56.32, 11.68), (35.12, 21.88), (16.88, 9.99), (6.55, 2.91), (8.26, 5.53)]
    after = [StepSignals(33 + i, loss, loss_noise=error) for i, (loss, error) in enumerate(jump)]
    symptom = first_symptom(before + after)
    assert symptom is not None
    assert (symptom.kind, symptom.onset, symptom.step) == ("spike", 33, 36)


@pytest.mark.parametrize("confirm", [1, 2, 4, 7])
def test_a_spike_is_confirmed_after_confirm_steps(confirm: int) -> None:
    """The alarm comes with the `confirm`th bad step, and its onset is the first."""
    losses = np.r_[healthy(80), np.full(20, 3.0)]
    detector = Detector(DetectorConfig(confirm=confirm), num_classes=10)
    symptom = first_symptom(signals(losses), detector)
    assert symptom is not None
    assert (symptom.kind, symptom.onset, symptom.step) == ("spike", 80, 80 + confirm - 1)


def test_a_spike_with_good_batches_in_between_is_confirmed() -> None:
    """Every second step is bad: four bad ones of the last eight are enough."""
    losses = np.r_[healthy(80), np.tile([3.0, 0.5], 20)]
    symptom = first_symptom(signals(losses))
    assert symptom is not None
    assert (symptom.kind, symptom.onset, symptom.step) == ("spike", 80, 86)


@pytest.mark.parametrize(
    "pattern", [(1, 1, 1, 1), (1, 0, 1, 0, 1, 0, 1), (1, 1, 1, 0, 0, 0, 0, 1), (1, 0, 0, 1, 0, 0, 1, 1)]
)
def test_severity_is_that_of_the_bad_steps(pattern: tuple[int, ...]) -> None:
    """However good batches lie between the bad ones, a confirmed spike is at least as severe as the threshold."""
    losses = [*(0.5 + noise(80)), *(3.0 if bad else 0.5 for bad in pattern)]
    symptom = first_symptom(signals(losses))
    assert symptom is not None
    assert (symptom.kind, symptom.onset, symptom.step) == ("spike", 80, 80 + len(pattern) - 1)
    assert symptom.severity >= CONFIG.spike_score


def test_outliers_stay_out_of_the_baseline() -> None:
    """The baseline after some bad batches is the one that it would be without them, so the next can't hide."""
    losses = healthy(120)
    losses[[60, 80, 100]] = 9.0
    detector = Detector(CONFIG, num_classes=10)
    assert first_symptom(signals(losses), detector) is None
    assert max(step.loss for step in detector.accepted) < 1.0
    assert {60, 80, 100}.isdisjoint(step.step for step in detector.accepted)
    symptom = first_symptom(signals([9.0] * 4, start=120), detector)
    assert symptom is not None
    assert symptom.baseline.level == pytest.approx(0.5, abs=0.05)


def test_a_scheduled_drop_of_the_rate_is_quiet() -> None:
    """The loss falls to a new level at once, as at a milestone, and back to the noise around it."""
    for low in (0.0, 0.1, 0.3):
        losses = np.r_[0.8 + noise(100), low + noise(100, 0.02, key=1)]
        assert first_symptom(signals(losses)) is None


def test_collapse_to_chance_is_seen_where_a_ratio_rule_is_blind() -> None:
    """From 1.8 to ln 10 is less than twice the mean, yet it is all the way to guessing."""
    losses = np.r_[1.8 + noise(100), CHANCE + noise(40, 0.01, key=1)]
    assert CHANCE < 2 * 1.8
    symptom = first_symptom(signals(losses))
    assert symptom is not None
    assert (symptom.kind, symptom.onset) == ("collapse", 100)


def test_collapse_is_seen_while_the_noise_is_that_of_a_steep_fall() -> None:
    """The history still holds the descent, in whose scatter half of chance is little; the frozen baseline says 6."""
    fall = np.r_[np.linspace(CHANCE, 0.4, 40), np.full(10, 0.4)] + noise(50, 0.3)
    steps = signals(np.r_[fall, CHANCE + noise(30, 0.01, key=1)])
    symptom = first_symptom(steps)
    assert symptom is not None
    assert (symptom.kind, symptom.onset, symptom.step) == ("collapse", 50, 57)
    assert symptom.baseline.loss_score(CHANCE) >= CONFIG.spike_score
    assert first_symptom(signals(fall)) is None


def test_a_loss_that_stops_moving_at_chance_is_seen_after_a_lively_one() -> None:
    """Smoothed labels and mixing keep a sound loss above half of chance, with a scatter in which chance is little."""
    lively = 0.7 * CHANCE + noise(100, 0.35)
    symptom = first_symptom(signals(np.r_[lively, CHANCE + noise(30, 0.01, key=1)]))
    assert symptom is not None
    assert (symptom.kind, symptom.onset, symptom.step) == ("collapse", 100, 107)
    assert symptom.baseline.loss_score(CHANCE) == pytest.approx(CONFIG.spike_score / 0.75)
    assert first_symptom(signals(np.r_[lively, CHANCE + noise(7, 0.01, key=1), lively])) is None


def test_a_spike_to_above_chance_is_no_collapse() -> None:
    """Collapse is a loss that settles at chance, not one that passes it; unknown classes know no collapse."""
    passing = np.r_[0.5 + noise(100), np.linspace(1.0, 6.0, 20)]
    settled = np.r_[0.5 + noise(100), CHANCE + noise(40, 0.01, key=1)]
    assert getattr(first_symptom(signals(passing)), "kind", None) == "spike"
    assert getattr(first_symptom(signals(settled), Detector(CONFIG)), "kind", None) == "spike"


def test_slow_divergence_is_seen() -> None:
    """A drift too slow for any step to stand out of the steps before it is measured against the best stretch."""
    losses = np.r_[0.5 + noise(80), 0.5 + 0.01 * np.arange(150) + noise(150, key=1)]
    for classes in (10, None):
        symptom = first_symptom(signals(losses), Detector(CONFIG, classes))
        assert symptom is not None
        assert symptom.kind == "divergence"
        assert 80 < symptom.step < 160


def test_a_run_far_above_chance_diverges_whatever_came_before() -> None:
    """A loss at three times chance from the start has no healthy stretch to leave."""
    symptom = first_symptom(signals(3 * CHANCE + noise(60, 0.5)))
    assert symptom is not None
    assert (symptom.kind, symptom.onset) == ("divergence", 0)


SICK = {
    "spike": np.r_[healthy(80), np.full(30, 3.0)],
    "collapse": np.r_[1.5 + noise(80), CHANCE + noise(30, 0.01, key=1)],
    "slow divergence": np.r_[0.5 + noise(80), 0.5 + 0.005 * np.arange(300) + noise(300, key=1)],
    "slow collapse": np.r_[0.5 + noise(80), np.linspace(0.5, CHANCE, 200), np.full(20, CHANCE)],
    "blown up": 3 * CHANCE + noise(60, 0.5),
    "blown up later": np.r_[CHANCE + noise(30, 0.3), CHANCE + 0.1 * np.arange(100) + noise(100, key=1)],
    "blown up after noise": np.r_[CHANCE + noise(30, 0.8), 5.0 + noise(60, 1.0, key=1)],
}


@pytest.mark.parametrize("name", SICK)
def test_the_frozen_baseline_makes_the_event_present(name: str) -> None:
    """A replay is scored against the symptom's baseline: the very losses that raised the alarm must count as ill by
    it, or an exact replay seems not to bring the event back.
    """
    losses = SICK[name]
    symptom = first_symptom(signals(losses))
    assert symptom is not None
    assert symptom.kind in ("spike", "collapse", "divergence")
    event = losses[symptom.onset : symptom.step + 1]
    assert symptom.baseline.loss_score(float(np.median(event))) >= CONFIG.spike_score


def erratic(count: int, level: float = 1.3, spread: float = 0.3, key: int = 5) -> Floats:
    """Losses around a multiple of chance."""
    return CHANCE * (level + noise(count, spread, key))


def test_instability_is_seen_after_two_windows() -> None:
    """Worse than guessing and noisy throughout, without an event: seen at the end of the second window."""
    symptom = first_symptom(signals(erratic(300)))
    assert symptom is not None
    assert (symptom.kind, symptom.onset, symptom.step) == ("instability", 0, 2 * CONFIG.erratic_window - 1)


def test_a_stall_at_chance_is_not_erratic() -> None:
    """A run that never learns but is calm, and a noisy one that learns, are no instability."""
    assert first_symptom(signals(erratic(300, level=1.0, spread=0.02))) is None
    learning = CHANCE * np.linspace(1.2, 0.4, 300) + noise(300, 0.5)
    assert first_symptom(signals(learning)) is None


def test_a_smooth_fall_from_a_huge_start_is_not_erratic() -> None:
    """Large initial logits make a loss of several times chance that falls steadily: seen in 10 of 10 real runs of
    AlgoPerf's `large_bn_init` under Prodigy, where a spread over the window counted the trend as noise.
    """
    k = np.arange(400)
    losses = CHANCE * (0.3 + 1.5 * np.exp(-k / 60)) + noise(400)
    detector = Detector(CONFIG, num_classes=10)
    assert first_symptom(signals(losses), detector) is None


def test_disabled_sees_nothing() -> None:
    """`enabled: false` trains on whatever happens."""
    detector = Detector(DetectorConfig(enabled=False), num_classes=10)
    assert first_symptom(signals([*healthy(50), math.nan, *[1e9] * 50]), detector) is None


@pytest.mark.parametrize("factor", [1e-3, 1e3, 1024.0])
@pytest.mark.parametrize("name", ["healthy", *SICK])
def test_without_classes_the_scale_of_the_loss_plays_no_part(name: str, factor: float) -> None:
    """A loss in other units decides alike: kind, step, onset and severity."""
    losses = healthy(200) if name == "healthy" else SICK[name]
    plain = first_symptom(signals(losses), Detector(CONFIG))
    scaled = first_symptom(signals(factor * losses), Detector(CONFIG))
    if plain is None:
        assert scaled is None
        return
    assert scaled is not None
    assert (scaled.kind, scaled.step, scaled.onset) == (plain.kind, plain.step, plain.onset)
    assert scaled.severity == pytest.approx(plain.severity, rel=1e-6)


@pytest.mark.parametrize("name", [*SICK, "erratic", "input"])
@pytest.mark.parametrize("at", [5, 17, 82, 84])
def test_save_and_restore_change_no_decision(name: str, at: int) -> None:
    """A detector that was pickled in mid-run, in the middle of an event too, goes on as if nothing had happened."""
    losses = erratic(200) if name == "erratic" else healthy(200) if name == "input" else SICK[name]
    steps = [replace(s, input_mean=(0.0 if s.step < 83 else 0.5,), input_std=(1.0,)) for s in signals(losses)]
    if name != "input":
        steps = signals(losses)
    whole, first = Detector(CONFIG, num_classes=10), Detector(CONFIG, num_classes=10)
    expected = [whole.update(step) for step in steps]
    before = [first.update(step) for step in steps[:at]]
    second: Detector = pickle.loads(pickle.dumps(first))  # noqa: S301 - our own bytes
    assert before + [second.update(step) for step in steps[at:]] == expected
    assert any(expected)
