"""Rates are functions of the step that agree with torch's schedulers, and jumps in them are found."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from trainables.config import ScheduleConfig
from trainables.schedules import build_schedule, change_points, cosine, one_cycle

PEAK = 0.4


def torch_rates(make: Callable[[SGD], LRScheduler], steps: int) -> list[float]:
    """The rates that one of torch's schedulers gives to steps 0, 1, ..."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if len(rates) < steps:
            scheduler.step()
    return rates


def our_rates(steps: int, peak: float = PEAK, **schedule: Any) -> list[float]:
    """The rates of the schedule that a config names."""
    rate_at = build_schedule(ScheduleConfig.parse(schedule), peak, steps)
    return [rate_at(step) for step in range(steps)]


@pytest.mark.parametrize(("milestones", "gamma"), [((), 0.1), ((30, 60, 80), 0.1), ((1, 2), 0.5), ((50,), 20.0)])
def test_multi_step_agrees_with_multi_step_lr(milestones: tuple[int, ...], gamma: float) -> None:
    """Each milestone multiplies the rate of that step and of all later ones, to 1e-12 over the whole run."""
    expected = torch_rates(lambda o: MultiStepLR(o, list(milestones), gamma=gamma), 100)
    assert our_rates(100, kind="multi_step", milestones=milestones, gamma=gamma) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 7, 100, 1000])
def test_cosine_agrees_with_cosine_annealing_lr(steps: int) -> None:
    """Half a cosine over the run, to 1e-12 although torch computes it by recursion."""
    expected = torch_rates(lambda o: CosineAnnealingLR(o, T_max=steps), steps)
    assert our_rates(steps, kind="cosine") == pytest.approx(expected, abs=1e-12)


def test_cosine_past_its_end_climbs_again_as_torchs_does() -> None:
    """With T_max too small the rate comes back: a real cause of jumps that a replay must reproduce."""
    expected = torch_rates(lambda o: CosineAnnealingLR(o, T_max=40), 100)
    assert [cosine(step, PEAK, 40) for step in range(100)] == pytest.approx(expected, abs=1e-12)
    assert cosine(80, PEAK, 40) == pytest.approx(PEAK)


@pytest.mark.parametrize(("warmup_steps", "steps"), [(30, 100), (10, 100), (2, 20), (50, 51), (99, 100), (300, 1000)])
def test_one_cycle_agrees_with_torchs(warmup_steps: int, steps: int) -> None:
    """`warmup_steps` is torch's pct_start * total_steps; rise, peak and fall agree to 1e-12."""
    expected = torch_rates(
        lambda o: OneCycleLR(o, PEAK, total_steps=steps, pct_start=warmup_steps / steps, cycle_momentum=False), steps
    )
    assert our_rates(steps, kind="one_cycle", warmup_steps=warmup_steps) == pytest.approx(expected, abs=1e-12)


def test_one_cycle_without_a_rise_starts_at_the_peak() -> None:
    """Where torch divides by zero (a rise of one step), the run starts at the peak and falls."""
    rates = [one_cycle(step, PEAK, 1, 50) for step in range(50)]
    assert rates[0] == PEAK
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(PEAK / 25e4)
    assert our_rates(50, kind="one_cycle", warmup_steps=0) == rates


def test_cosine_warmup_ramps_linearly_and_then_is_a_cosine() -> None:
    """The first step has one share of the peak, the last of the ramp the peak; the rest is torch's cosine."""
    rates = our_rates(110, kind="cosine_warmup", warmup_steps=10)
    assert rates[:10] == pytest.approx([PEAK * share / 10 for share in range(1, 11)], rel=1e-12)
    assert rates[10:] == pytest.approx(torch_rates(lambda o: CosineAnnealingLR(o, T_max=100), 100), abs=1e-12)


def test_cosine_warmup_without_warmup_is_a_cosine() -> None:
    """No ramp, no division by zero."""
    assert our_rates(60, kind="cosine_warmup", warmup_steps=0) == our_rates(60, kind="cosine")


@pytest.mark.parametrize(("step_size", "gamma"), [(1, 0.9), (30, 0.1), (7, 0.5), (200, 0.1)])
def test_step_agrees_with_step_lr(step_size: int, gamma: float) -> None:
    """Each `step_size` steps the rate is multiplied, to 1e-12 over the whole run."""
    expected = torch_rates(lambda o: StepLR(o, step_size, gamma=gamma), 100)
    assert our_rates(100, kind="step", step_size=step_size, gamma=gamma) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("t_max", "min_factor"), [(100, 0.1), (40, 0.0), (40, 0.25), (None, 0.5)])
def test_cosine_has_its_own_end_and_floor(t_max: int | None, min_factor: float) -> None:
    """`t_max` and torch's eta_min, past the end too: the rate climbs again, which is a classic mistake."""
    expected = torch_rates(lambda o: CosineAnnealingLR(o, t_max or 100, eta_min=PEAK * min_factor), 100)
    actual = our_rates(100, kind="cosine", t_max=t_max, min_factor=min_factor)
    assert actual == pytest.approx(expected, abs=1e-12)


def test_cosine_warmup_reaches_its_floor_at_t_max() -> None:
    """`t_max` counts from step 0, the warm-up included; after it the rate climbs."""
    rates = our_rates(100, kind="cosine_warmup", warmup_steps=10, t_max=60, min_factor=0.1)
    assert min(range(10, 100), key=rates.__getitem__) == 60
    assert rates[60] == pytest.approx(PEAK / 10, rel=1e-12)
    assert rates[99] > rates[60]


@pytest.mark.parametrize(("period", "factor"), [(10, 1), (10, 2), (1, 2), (7, 3), (500, 1), (3, 1)])
@pytest.mark.parametrize("min_factor", [0.0, 0.05])
def test_warm_restarts_agree_with_torchs(period: int, factor: int, min_factor: float) -> None:
    """Cycles of equal or growing length start at the peak again, to 1e-12 over the whole run."""
    expected = torch_rates(
        lambda o: CosineAnnealingWarmRestarts(o, period, T_mult=factor, eta_min=PEAK * min_factor), 200
    )
    actual = our_rates(200, kind="warm_restarts", period=period, period_factor=factor, min_factor=min_factor)
    assert actual == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_polynomial_agrees_with_polynomial_lr(power: float) -> None:
    """From the peak to zero at the last step, to 1e-12 although torch computes it by recursion."""
    expected = torch_rates(lambda o: PolynomialLR(o, total_iters=100, power=power), 100)
    assert our_rates(100, kind="polynomial", warmup_steps=0, power=power) == pytest.approx(expected, abs=1e-12)


def test_polynomial_after_a_warmup_agrees_with_torchs_sequence() -> None:
    """The ramp ends at the peak; the decay is that of the steps that are left."""
    rates = our_rates(120, kind="polynomial", warmup_steps=20, power=2.0)
    decay = torch_rates(lambda o: PolynomialLR(o, total_iters=100, power=2.0), 100)
    assert rates == pytest.approx([PEAK * (step + 1) / 20 for step in range(20)] + decay, abs=1e-12)


def test_warmup_stable_decay_agrees_with_torchs_sequence() -> None:
    """Ramp, plateau, linear fall over the last steps: LinearLR, ConstantLR and LinearLR in a row."""
    expected = torch_rates(
        lambda o: SequentialLR(
            o,
            [
                LinearLR(o, start_factor=1 / 10, end_factor=1.0, total_iters=9),
                ConstantLR(o, factor=1.0),
                LinearLR(o, start_factor=1.0, end_factor=0.25, total_iters=30),
            ],
            milestones=[10, 70],
        ),
        100,
    )
    actual = our_rates(100, kind="warmup_stable_decay", warmup_steps=10, decay_steps=30, min_factor=0.25)
    assert actual == pytest.approx(expected, abs=1e-12)


def test_start_factor_lowers_the_first_rate_only_as_a_factor() -> None:
    """0.1 and gamma 10: a constant warm-up that ends in a jump to the peak."""
    rates = our_rates(20, kind="multi_step", milestones=[8], gamma=10.0, start_factor=0.1)
    assert rates == pytest.approx([PEAK / 10] * 8 + [PEAK] * 12, rel=1e-12)


KINDS: list[dict[str, Any]] = [
    {"kind": "constant"},
    {"kind": "multi_step", "milestones": [20, 50], "gamma": 0.1},
    {"kind": "cosine"},
    {"kind": "cosine_warmup", "warmup_steps": 10},
    {"kind": "one_cycle", "warmup_steps": 30},
    {"kind": "step", "step_size": 25},
    {"kind": "warm_restarts", "period": 20, "period_factor": 2},
    {"kind": "polynomial", "warmup_steps": 5},
    {"kind": "warmup_stable_decay", "warmup_steps": 5, "decay_steps": 30},
]


@pytest.mark.parametrize("schedule", KINDS, ids=lambda s: s["kind"])
def test_rates_are_random_access(schedule: dict[str, Any]) -> None:
    """A replay may ask for any step in any order: nothing is counted."""
    rate_at = build_schedule(ScheduleConfig.parse(schedule), PEAK, 100)
    steps = random.Random(0).sample(range(100), 100)  # noqa: S311 - no secret
    asked = {step: rate_at(step) for step in steps}
    assert [asked[step] for step in range(100)] == our_rates(100, **schedule)


@pytest.mark.parametrize("schedule", KINDS, ids=lambda s: s["kind"])
def test_rates_scale_with_the_peak_and_stay_within_it(schedule: dict[str, Any]) -> None:
    """The peak is the highest rate, and everything is proportional to it."""
    rates = our_rates(100, **schedule)
    assert max(rates) == pytest.approx(PEAK)
    assert min(rates) >= 0
    assert our_rates(100, peak=10 * PEAK, **schedule) == pytest.approx([10 * rate for rate in rates], rel=1e-12)


@pytest.mark.parametrize("milestones", [(50,), (30, 60, 80), (2, 97)])
@pytest.mark.parametrize("gamma", [0.1, 0.5, 20.0])
def test_milestones_are_change_points(milestones: tuple[int, ...], gamma: float) -> None:
    """Each milestone is found at its very step, up or down, next to the edges too."""
    assert change_points(our_rates(100, kind="multi_step", milestones=milestones, gamma=gamma)) == list(milestones)


@pytest.mark.parametrize("warmup_steps", [0, 1, 2, 3, 5, 10, 50, 150])
@pytest.mark.parametrize("kind", ["constant", "cosine", "cosine_warmup", "one_cycle"])
def test_smooth_schedules_have_no_change_points(kind: str, warmup_steps: int) -> None:
    """A linear ramp, a cosine and one cycle change like their neighbours, however steep: none is a jump."""
    rates = our_rates(200, kind=kind, warmup_steps=warmup_steps)
    assert [step for stop in range(200) for step in change_points(rates[:stop])] == []


def test_a_jump_inside_a_smooth_schedule_is_found() -> None:
    """A resume at the wrong step of a cosine, or a wrong factor from some step on, stands out of the curve."""
    rates = our_rates(200, kind="cosine_warmup", warmup_steps=10)
    resumed = rates[:120] + rates[20:100]
    assert change_points(resumed) == [120]
    assert change_points(rates[:60] + [10 * rate for rate in rates[60:]]) == [60]


def test_small_changes_are_no_jumps() -> None:
    """A change below 25 % is none, whatever its neighbours do; at 25 % it is one."""
    assert change_points([1.0] * 10 + [1.2] * 10) == []
    assert change_points([1.0] * 10 + [1.25] * 10) == [10]
    assert change_points([1.25] * 10 + [1.0] * 10) == [10]


def test_a_rate_switched_on_or_off_is_no_ratio() -> None:
    """From or to a rate of 0 there is no factor, and nothing is divided by it."""
    assert change_points([0.0] * 10 + [0.1] * 10) == []
    assert change_points([0.1] * 10 + [0.0] * 10) == []


@pytest.mark.parametrize("length", [0, 1, 2])
def test_too_few_rates_have_no_change_points(length: int) -> None:
    """A run that failed at once is no error."""
    assert change_points([0.1, 1.0, 1.0][:length]) == []


def test_first_and_last_entry_are_no_change_points() -> None:
    """A change with a neighbour on one side only can't be told from a steep curve."""
    assert change_points([1.0, 1.0, 1.0, 5.0]) == []
    assert change_points([5.0, 1.0, 1.0, 1.0]) == []
    assert change_points([1.0, 1.0, 1.0, 5.0, 5.0]) == [3]
