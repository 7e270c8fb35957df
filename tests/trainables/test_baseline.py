"""Scores are in units of a run's own noise."""

from __future__ import annotations

import math
from statistics import fmean

import pytest

from trainables.baseline import (
    DECLARED_SHIFT,
    ERRATIC_LEVEL,
    FLOOR_LEVEL,
    INPUT_FLOOR,
    NOISE_FLOOR,
    NON_FINITE_SCORE,
    Baseline,
    build_baseline,
    channel_noise,
    declared_baseline,
    erratic_score,
    median_moments,
    moment_distance,
    pooled_moments,
    step_scatter,
)
from trainables.rng import generator
from trainables.step_signals import StepSignals

CHANCE = math.log(10)


def step(
    loss: float = 1.0,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    loss_noise: float = math.nan,
    number: int = 0,
) -> StepSignals:
    """Signals of one step."""
    return StepSignals(number, loss, loss_noise=loss_noise, input_mean=mean, input_std=std)


def noisy(level: float, scale: float, count: int = 400, key: int = 0) -> list[StepSignals]:
    """Losses with normal noise."""
    draws = generator("baseline", key).normal(level, scale, size=count)
    return [step(float(loss)) for loss in draws]


def test_level_and_noise_of_a_stretch() -> None:
    """For normal noise the level is its mean and the noise its standard deviation."""
    baseline = build_baseline(noisy(2.0, 0.3), CHANCE, window=8)
    assert baseline.level == pytest.approx(2.0, abs=0.05)
    assert baseline.noise == pytest.approx(0.3, rel=0.1)
    assert baseline.loss_score(2.0 + 6 * 0.3) == pytest.approx(6.0, rel=0.2)


def test_an_outlier_moves_neither_level_nor_noise() -> None:
    """A tenth of absurd losses changes the scale by little: a mean and a standard deviation would not survive it."""
    clean = noisy(2.0, 0.3, count=90)
    dirty = build_baseline([*clean, *[step(1e6)] * 9], CHANCE, window=8)
    reference = build_baseline(clean, CHANCE, window=8)
    assert dirty.level == pytest.approx(reference.level, abs=0.1)
    assert dirty.noise < 2 * reference.noise


def test_noise_has_a_floor() -> None:
    """A loss that stands still does not make every rounding error a spike."""
    assert build_baseline([step(2.0)] * 20, CHANCE, window=8).noise == pytest.approx(NOISE_FLOOR * 2.0)
    calm = build_baseline([step(0.01)] * 20, CHANCE, window=8).noise
    assert calm == pytest.approx(NOISE_FLOOR * FLOOR_LEVEL * CHANCE)
    assert build_baseline([step(50.0)] * 20, 0.0, window=8).noise == pytest.approx(NOISE_FLOOR * 50.0)
    assert build_baseline([step(0.0)] * 20, 0.0, window=8).loss_score(1.0) == NON_FINITE_SCORE


def test_standard_error_of_the_batch_mean_counts_as_noise() -> None:
    """Where the losses of a batch differ widely, a quiet stretch of means was luck."""
    assert build_baseline([step(2.0, loss_noise=0.7)] * 20, CHANCE, window=8).noise == pytest.approx(0.7)


def test_score_of_what_is_not_finite_is_the_largest() -> None:
    """Nan and inf are as bad as it gets, and the scale has an end."""
    baseline = build_baseline(noisy(2.0, 0.3), CHANCE, window=8)
    assert {baseline.loss_score(bad) for bad in (math.nan, math.inf, -math.inf, 1e300)} == {NON_FINITE_SCORE}


def test_moment_distance_is_in_units_of_the_channel() -> None:
    """A shift by half a standard deviation is 0.5; a std twice or half as wide is ln 2; the worst channel counts."""
    mean, std = (0.0, 1.0), (1.0, 2.0)
    assert moment_distance(step(mean=(0.0, 1.0), std=(1.0, 2.0)), mean, std) == 0.0
    assert moment_distance(step(mean=(0.0, 2.0), std=(1.0, 2.0)), mean, std) == pytest.approx(0.5)
    assert moment_distance(step(mean=(0.0, 1.0), std=(2.0, 2.0)), mean, std) == pytest.approx(math.log(2))
    assert moment_distance(step(mean=(0.0, 1.0), std=(1.0, 1.0)), mean, std) == pytest.approx(math.log(2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_moments_that_are_not_finite_are_far_away(bad: float) -> None:
    """Nan never compares as near."""
    baseline = Baseline(1.0, 0.1, CHANCE, (0.0,), (1.0,))
    assert baseline.input_score(step(mean=(bad,), std=(1.0,))) == NON_FINITE_SCORE
    assert baseline.input_score(step(mean=(0.0,), std=(bad,))) == NON_FINITE_SCORE


def test_constant_input_has_a_finite_distance() -> None:
    """A black batch (std 0) is far away, not a division by zero; black after black is no distance."""
    distance = moment_distance(step(mean=(0.0,), std=(0.0,)), (0.0,), (1.0,))
    assert 10 < distance < math.inf
    assert moment_distance(step(mean=(0.0,), std=(0.0,)), (0.0,), (0.0,)) == 0.0


def test_without_moments_there_is_no_input_score() -> None:
    """A source that measures no input is never shifted."""
    measured, unmeasured = step(mean=(9.0,), std=(1.0,)), step()
    assert Baseline(1.0, 0.1, CHANCE).input_score(measured) == 0.0
    assert Baseline(1.0, 0.1, CHANCE, (0.0,), (1.0,)).input_score(unmeasured) == 0.0


def test_pooled_moments_are_those_of_all_pixels() -> None:
    """Batches that differ in level have small stds each; together they have the std of everything."""
    draws = generator("pooled").normal(0, 1, size=(20, 64)) + generator("levels").normal(0, 3, size=(20, 1))
    steps = [step(mean=(float(row.mean()),), std=(float(row.std()),)) for row in draws]
    pooled = pooled_moments(steps)
    assert pooled.input_mean[0] == pytest.approx(float(draws.mean()), rel=1e-9)
    assert pooled.input_std[0] == pytest.approx(float(draws.std()), rel=1e-9)
    assert fmean(s.input_std[0] for s in steps) < 0.5 * pooled.input_std[0]


def test_median_moments_ignore_one_odd_batch() -> None:
    """Channel by channel, the median of the stretch."""
    steps = [step(mean=(0.1, 0.2), std=(1.0, 2.0))] * 4 + [step(mean=(99.0, -99.0), std=(50.0, 0.0))]
    middle = median_moments(steps)
    assert (middle.input_mean, middle.input_std) == ((0.1, 0.2), (1.0, 2.0))


def test_channel_noise_is_the_noisiest_channels() -> None:
    """The scatter of one step's moments in units of the channel's std."""
    draws = generator("channel_noise").normal(0, 1, size=(500, 2))
    steps = [step(mean=(0.01 * float(a), 0.5 * float(b)), std=(1.0, 2.0)) for a, b in draws]
    assert channel_noise(steps, median_moments(steps)) == pytest.approx(0.25, rel=0.15)


def test_input_noise_falls_with_the_window_down_to_a_floor() -> None:
    """A median over n steps scatters by sqrt(pi / 2n) of one step's noise; the floor holds for large batches."""
    draws = generator("window").normal(0, 1, size=400)
    steps = [step(mean=(0.5 * float(draw),), std=(1.0,)) for draw in draws]
    single = channel_noise(steps, median_moments(steps))
    for window in (4, 8, 16):
        expected = single * math.sqrt(math.pi / 2 / window)
        assert build_baseline(steps, CHANCE, window=window).input_noise == pytest.approx(expected, rel=1e-3)
    assert build_baseline([step(mean=(0.0,), std=(1.0,))] * 9, CHANCE, window=8).input_noise == INPUT_FLOOR


def test_declared_baseline_scores_six_at_twice_chance() -> None:
    """A run without history is measured against guessing, and against the moments that the index promises."""
    first = [step(2.4, mean=(0.0,), std=(1.0,))] * 5
    baseline = declared_baseline(CHANCE, (0.0,), (1.0,), first)
    assert baseline.loss_score(2 * CHANCE) == pytest.approx(6.0)
    assert baseline.loss_score(CHANCE) == 0.0
    assert baseline.stretch_score([step(mean=(DECLARED_SHIFT,), std=(1.0,))]) == pytest.approx(6.0)
    assert baseline.declared


def test_erratic_score_needs_a_high_and_a_noisy_loss() -> None:
    """Worse than guessing and noisy scores 6 at the bound; high and calm (a stall), or low and noisy, is none."""
    draws = generator("erratic").normal(0, 1, size=200)
    draws = (draws - draws.mean()) / draws.std()

    def losses(level: float, spread: float) -> list[float]:
        return [float(CHANCE * (level + spread * draw)) for draw in draws]

    assert erratic_score(losses(ERRATIC_LEVEL, 0.3), CHANCE) == pytest.approx(6.0)
    assert erratic_score(losses(ERRATIC_LEVEL + 0.1, 0.3), CHANCE) == pytest.approx(11.0)
    assert erratic_score(losses(1.5, 0.05), CHANCE) == 0.0
    assert erratic_score(losses(0.5, 0.4), CHANCE) == 0.0
    assert erratic_score([*losses(0.5, 0.4), math.nan], CHANCE) == NON_FINITE_SCORE


def test_erratic_score_of_a_smooth_fall_is_none() -> None:
    """A loss that falls steadily from a huge start spreads widely over the window, and is not erratic."""
    assert erratic_score([CHANCE * (1.1 + 1.5 * math.exp(-k / 20)) for k in range(60)], CHANCE) < 6.0


def test_step_scatter_leaves_out_the_trend() -> None:
    """A loss that falls by its noise each step scatters by its noise."""
    draws = generator("scatter").normal(0, 0.1, size=2000)
    falling = [float(10 - 0.02 * k + draw) for k, draw in enumerate(draws)]
    assert step_scatter(falling) == pytest.approx(0.1, rel=0.1)
    assert step_scatter([1.0] * 9) == 0.0
    assert step_scatter([1.0]) == 0.0
