"""Learning rate as a pure function of the step.

Each schedule maps (step, peak, its own parameters) to the rate that step uses; nothing is stepped or stored, so a
replay or a resume asks for any step in any order. `change_points` finds the jumps in whatever rates a run really
used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from trainables.config import ScheduleConfig, ScheduleKind

RateAt = Callable[[int], float]

RAMPED: tuple[ScheduleKind, ...] = ("cosine_warmup", "polynomial", "warmup_stable_decay")
"""Kinds that begin with a linear ramp of `warmup_steps`."""


def step_decay(step: int, peak: float, step_size: int, gamma: float) -> float:
    """`peak` times `gamma` each `step_size` steps (torch's StepLR)."""
    return float(peak * gamma ** (step // step_size))


def multi_step(step: int, peak: float, milestones: Sequence[int], gamma: float) -> float:
    """`peak` times `gamma` at each milestone reached (torch's MultiStepLR)."""
    return float(peak * gamma ** sum(step >= milestone for milestone in milestones))


def cosine(step: int, peak: float, t_max: int, lowest: float = 0.0) -> float:
    """Half a cosine from `peak` at step 0 to `lowest` at `t_max`, past which it climbs.

    Source: Loshchilov and Hutter 2017, equation 5; torch's CosineAnnealingLR.

    """
    return _anneal(peak, lowest, step / t_max)


def warm_restarts(step: int, peak: float, period: int, period_factor: int, lowest: float = 0.0) -> float:
    """Cosines from `peak` to `lowest`, the first one `period` steps long, each next one `period_factor` times that.

    Source: Loshchilov and Hutter 2017; torch's CosineAnnealingWarmRestarts.

    """
    if period_factor == 1:
        return cosine(step % period, peak, period, lowest)
    while step >= period:
        step, period = step - period, period * period_factor
    return cosine(step, peak, period, lowest)


def polynomial(step: int, peak: float, total_steps: int, power: float, lowest: float = 0.0) -> float:
    """From `peak` at step 0 to `lowest` at `total_steps` along (1 - share)^power (torch's PolynomialLR)."""
    return float(lowest + (peak - lowest) * (1.0 - min(1.0, step / total_steps)) ** power)


def stable_decay(step: int, peak: float, total_steps: int, decay_steps: int, lowest: float = 0.0) -> float:
    """`peak`, over the last `decay_steps` linearly down to `lowest` at `total_steps` (Hu et al. 2024, section 4)."""
    return polynomial(max(0, step - (total_steps - decay_steps)), peak, decay_steps, 1.0, lowest)


def one_cycle(step: int, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Cosine up from peak/25, cosine down to peak/250,000 (torch's OneCycleLR with its defaults)."""
    initial, final = peak / 25.0, peak / 25.0e4
    top = warmup_steps - 1
    if step <= top:
        return _anneal(initial, peak, step / top if top > 0 else 1.0)
    return _anneal(peak, final, (step - top) / max(1, total_steps - 1 - top))


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * share))


def warmed_up(rate_at: RateAt, peak: float, warmup_steps: int) -> RateAt:
    """A linear ramp to `peak`, then `rate_at` from its step 0 on (Goyal et al. 2017, section 2.2)."""
    return lambda step: peak * (step + 1) / warmup_steps if step < warmup_steps else rate_at(step - warmup_steps)


def build_schedule(config: ScheduleConfig, peak: float, max_steps: int) -> RateAt:
    """The schedule that `config` names, as a function of the step alone."""
    first, lowest = peak * config.start_factor, peak * config.min_factor
    warmup = config.warmup_steps if config.kind in RAMPED else 0
    # Of what follows the ramp, in steps after it.
    total, t_max = max_steps - warmup, (config.t_max or max_steps) - warmup
    kinds: dict[ScheduleKind, RateAt] = {
        "constant": lambda step: peak,
        "step": lambda step: step_decay(step, first, _given(config.step_size), config.gamma),
        "multi_step": lambda step: multi_step(step, first, config.milestones, config.gamma),
        "cosine": lambda step: cosine(step, peak, t_max, lowest),
        "cosine_warmup": lambda step: cosine(step, peak, t_max, lowest),
        "warm_restarts": lambda step: warm_restarts(step, peak, _given(config.period), config.period_factor, lowest),
        "one_cycle": lambda step: one_cycle(step, peak, max(1, config.warmup_steps), max_steps),
        "polynomial": lambda step: polynomial(step, peak, total, config.power, lowest),
        "warmup_stable_decay": lambda step: stable_decay(step, peak, total, _given(config.decay_steps), lowest),
    }
    return warmed_up(kinds[config.kind], peak, warmup)


def _given(steps: int | None) -> int:
    """A length that the config's own check asks for."""
    assert steps is not None
    return steps


def change_points(rates: Sequence[float], *, min_ratio: float = 1.25, sharpness: float = 4.0) -> list[int]:
    """Steps at which the rate jumps: its change is `sharpness` times its neighbours' and at least `min_ratio`.

    A linear ramp or a cosine has none, since its changes are like their neighbours. `rates` is the rate of each step
    from step 0 on; the first and the last entry are never change points.
    """
    changes = [abs(after - before) for before, after in pairwise(rates)]
    found = []
    for i in range(1, len(changes) - 1):
        before, after = rates[i], rates[i + 1]
        neighbours = max(changes[i - 1], changes[i + 1])
        if min(before, after) <= 0 or max(before, after) / min(before, after) < min_ratio:
            continue
        if changes[i] > sharpness * neighbours:
            found.append(i + 1)
    return found
