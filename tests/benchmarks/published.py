"""Published rules against loss spikes, re-implemented from their descriptions.

Windows are as published: a rule that wants a hundred losses first says nothing of a run that is shorter.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean, pstdev

Losses = Sequence[float]
Rule = Callable[[Losses], Iterator[int]]
"""Losses of a run -> places of its alarms, in their order."""


def _std(window: Losses) -> float:
    """Standard deviation; nan where a loss is not finite, as in torch: one poisons the window."""
    return pstdev(window) if all(map(math.isfinite, window)) else math.nan


def llm_foundry(losses: Losses) -> Iterator[int]:
    """KillLossSpike: at least twice the rolling mean, 5 times in a row; window: 100 or a twentieth of the run."""
    size = max(100, len(losses) // 20)
    window: deque[float] = deque(maxlen=size)
    high = 0
    for i, loss in enumerate(losses):
        full = len(window) == size
        high = high + 1 if full and loss >= 2 * fmean(window) else 0
        window.append(loss)
        if high >= 5:
            yield i


def olmo_core(losses: Losses) -> Iterator[int]:
    """Skip-step optimizer, loss only: above mean + 6 standard deviations of the last 128."""
    return (i for i in range(128, len(losses)) if _stands_out(losses, i))


def olmo_core_with_norms(losses: Losses, norms: Losses) -> Iterator[int]:
    """The same optimizer as it is by default: the gradient's norm is held to the rule too."""
    return (i for i in range(128, len(losses)) if _stands_out(losses, i) or _stands_out(norms, i))


def _stands_out(values: Losses, place: int) -> bool:
    """Above mean + 6 standard deviations of the 128 before."""
    window = values[place - 128 : place]
    return values[place] > fmean(window) + 6 * _std(window)


def lightning(losses: Losses) -> Iterator[int]:
    """SpikeDetection: at least 3 times the mean of the last 10."""
    return (i for i in range(10, len(losses)) if losses[i] >= 3 * fmean(losses[i - 10 : i]))


def megatron(losses: Losses) -> Iterator[int]:
    """Spiky loss: at least 10 times the largest of the first 100."""
    return (i for i in range(100, len(losses)) if losses[i] >= 10 * max(losses[:100]))


def llm_c(losses: Losses) -> Iterator[int]:
    """Outlier detector: z-score above 6 of a window of 128 that holds the point itself."""
    for i in range(128, len(losses)):
        window = losses[i - 127 : i + 1]
        spread = _std(window)
        if spread > 0 and (losses[i] - fmean(window)) / spread > 6:
            yield i


RULES: dict[str, Rule] = {
    "llm-foundry KillLossSpike": llm_foundry,
    "OLMo-core skip-step, loss": olmo_core,
    "Lightning SpikeDetection": lightning,
    "Megatron-LM": megatron,
    "llm.c z-score": llm_c,
}


def first_alarm(rule: Rule, losses: Losses) -> int | None:
    """Place of a rule's first alarm; None: it stays quiet."""
    return next(rule(losses), None)
