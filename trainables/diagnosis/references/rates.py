"""Other learning rates to replay with: the declared one, the one before a rise, a warm-up, a ladder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from trainables.ingredients import Ingredients, Stream, Swap
from trainables.recipe import Recipe
from trainables.schedules import change_points

LADDER = (4.0, 16.0, 64.0)
"""Divisors of the learning rate that are tried where the schedule has no change point to go back behind."""
RAISED = (10.0, 100.0, 1000.0)
"""Factors that a stalled run's rate is tried with, where no update was measured."""
SOUND_RATIO = 3e-3
"""Norm of a step's update over that of the weights that makes progress."""
LOOK_BACK = 512
"""Steps before the onset in which a change point of the rate, and other samples, are looked for."""
RISE = 1.25
"""Ratio of two rates from which one is higher, as `change_points` has it."""
WARM_UP = 40
"""Steps of the warm-up that is tried where a run fell ill early without one."""

Kind = Literal["declared", "jump", "climb", "warm-up", "ladder", "raised"]


@dataclass(frozen=True)
class RateReference:
    """A rate to hold instead of the run's own."""

    swap: Swap
    changed_at: int | None
    """The step from which on it undoes a change; None: it changes every step."""
    divisor: float
    """The run's rate at the onset or change point over this one."""
    rate: float
    kind: Kind = "ladder"
    ramp: int = 0
    """The step at which this rate has risen to its peak; 0: it doesn't rise from step 0 on."""


def last_change_point(stream: Stream, onset: int) -> int | None:
    """The last step up to the onset at which the run's rate jumped, from the rates that it really used."""
    start = max(0, onset - LOOK_BACK)
    rates = [stream(step).learning_rate for step in range(start, onset + 3)]
    jumps = [start + step for step in change_points(rates) if start + step <= onset]
    return jumps[-1] if jumps else None


def rate_before(stream: Stream, change_point: int, kind: Kind = "jump") -> RateReference:
    """The rate of the step before the change point, held from there on."""
    rate = stream(change_point - 1).learning_rate
    now = stream(change_point).learning_rate
    swap = Swap(
        f"{rate:.4g} held from step {change_point} on",
        lambda ingredients: ingredients.at_rate(rate),
        start=change_point,
    )
    return RateReference(swap, change_point, now / rate, rate, kind)


def rate_divided(stream: Stream, divisor: float, onset: int) -> RateReference:
    """The run's own rate divided by `divisor`: a rung of the ladder, which goes up where the divisor is below 1."""

    def apply(ingredients: Ingredients) -> Ingredients:
        return ingredients.at_rate(ingredients.learning_rate / divisor)

    name = f"rate / {divisor:g}" if divisor >= 1 else f"rate x {1 / divisor:g}"
    rate = stream(onset).learning_rate / divisor
    return RateReference(Swap(name, apply), None, divisor, rate, "ladder" if divisor >= 1 else "raised")


def raised_rates(stream: Stream, onset: int, update_ratio: float) -> list[RateReference]:
    """Higher rates for a run that stands still: the one whose first update would be a sound one, where it was measured.

    None where that update was large enough already.
    """
    first, now = stream(0).learning_rate, stream(onset).learning_rate
    factors: Sequence[float] = RAISED
    if update_ratio > 0.0 and first > 0.0:
        factor = SOUND_RATIO / update_ratio / max(1.0, now / first)
        factors = [float(f"{factor:.1g}"), float(f"{10.0 * factor:.1g}")] if factor > RISE else []
    return [rate_divided(stream, 1.0 / factor, onset) for factor in factors]


def declared_rate(recipe: Recipe, stream: Stream, onset: int) -> RateReference | None:
    """The config's rate, where the run's own is another one at the onset or before it; None: they are the same."""
    steps = range(max(0, onset - LOOK_BACK), onset + 1)
    changed_at = next((k for k in steps if stream(k).learning_rate != recipe.rate_at(k)), None)
    if changed_at is None:
        return None
    swap = Swap("rate of the config", lambda i: i.at_rate(recipe.rate_at(i.step)))
    rate = recipe.rate_at(changed_at)
    divisor = stream(changed_at).learning_rate / max(rate, 1e-30)
    rising = range(recipe.config.schedule.warmup_steps + 1) if changed_at == 0 else range(1)
    return RateReference(swap, changed_at, divisor, rate, "declared", max(rising, key=recipe.rate_at))


def rate_before_climb(stream: Stream, onset: int) -> RateReference | None:
    """The lowest rate since the peak, held, where the rate climbs again after it has fallen."""
    rates = [stream(step).learning_rate for step in range(onset + 1)]
    peak = rates.index(max(rates[: max(1, onset // 2)]))
    lowest = min(range(peak, onset + 1), key=rates.__getitem__)
    if rates[peak] < RISE * rates[lowest] or rates[onset] < RISE * max(rates[lowest], 1e-30):
        return None
    return rate_before(stream, lowest + 1, "climb")


def warmed_up_rate(stream: Stream, onset: int) -> RateReference | None:
    """A linear ramp up to the run's own rate; None where the run has one, or fell ill long after its start."""
    rates = [stream(step).learning_rate for step in range(WARM_UP + 1)]
    if onset > WARM_UP or rates[0] < 0.5 * max(rates):
        return None

    def apply(ingredients: Ingredients) -> Ingredients:
        return ingredients.at_rate(ingredients.learning_rate * min(1.0, (ingredients.step + 1) / WARM_UP))

    swap = Swap(f"{WARM_UP} steps of warm-up to the same rate", apply)
    return RateReference(swap, None, 1.0, rates[-1], "warm-up", WARM_UP)


def foremost_rate(
    recipe: Recipe, stream: Stream, onset: int, is_suspect: Callable[[float, float], bool]
) -> RateReference | None:
    """The one reference that the run's own rates name: before its last jump, the config's, or before it climbed again.

    `is_suspect`: (rate of the run, rate of the reference) -> whether that difference could make such a symptom.
    """
    changed_at = last_change_point(stream, onset)
    if changed_at is not None and is_suspect(stream(changed_at).learning_rate, stream(changed_at - 1).learning_rate):
        return rate_before(stream, changed_at)
    declared = declared_rate(recipe, stream, onset)
    return declared if declared is not None else rate_before_climb(stream, onset)
