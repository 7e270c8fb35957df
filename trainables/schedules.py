"""Learning rate as a pure function of the step.

Each schedule maps (step, peak, its own parameters) to the rate that step uses; nothing is stepped or stored, so a
replay or a resume asks for any step in any order. `change_points` finds the jumps in whatever rates a run really
used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from trainables.config import ScheduleConfig

RateAt = Callable[[int], float]


def step_decay(step: int, peak: float, milestones: Sequence[int], gamma: float, start_factor: float = 1.0) -> float:
    """`peak * start_factor`, times `gamma` at each milestone reached (torch's MultiStepLR)."""
    return peak * start_factor * gamma ** sum(step >= milestone for milestone in milestones)


def cosine(step: int, peak: float, t_max: int) -> float:
    """Half a cosine from `peak` at step 0 to 0 at `t_max`, past which it climbs (Loshchilov and Hutter 2017, eq. 5)."""
    return peak * 0.5 * (1.0 + math.cos(math.pi * step / t_max))


def cosine_warmup(step: int, peak: float, warmup_steps: int, t_max: int) -> float:
    """Linear ramp to `peak`, then half a cosine to 0 at `t_max` (Goyal et al. 2017, section 2.2)."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return cosine(step - warmup_steps, peak, t_max - warmup_steps)


def one_cycle(step: int, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Cosine up from peak/25, cosine down to peak/250,000 (torch's OneCycleLR with its defaults)."""
    initial, final = peak / 25.0, peak / 25.0e4
    top = warmup_steps - 1
    if step <= top:
        return _anneal(initial, peak, step / top if top > 0 else 1.0)
    return _anneal(peak, final, (step - top) / max(1, total_steps - 1 - top))


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * share))


def build_schedule(config: ScheduleConfig, peak: float, max_steps: int) -> RateAt:
    """The schedule that `config` names, as a function of the step alone."""
    match config.kind:
        case "constant":
            return lambda step: peak
        case "step":
            return lambda step: step_decay(step, peak, config.milestones, config.gamma, config.start_factor)
        case "cosine":
            return lambda step: cosine(step, peak, max_steps)
        case "cosine_warmup":
            return lambda step: cosine_warmup(step, peak, config.warmup_steps, max_steps)
        case "one_cycle":
            return lambda step: one_cycle(step, peak, max(1, config.warmup_steps), max_steps)


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
