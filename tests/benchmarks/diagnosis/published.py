"""Five published rules against loss spikes, on the same losses, re-implemented from their descriptions.

Windows are as published: a rule that wants a hundred losses first says nothing of a run that is shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, pstdev

Losses = Sequence[float]
Rule = Callable[[Losses, int], bool]
"""(losses, place) -> whether it fires there."""
CONFIRM = 5


def llm_foundry(losses: Losses, place: int) -> bool:
    """KillLossSpike: at least twice the mean of the last 100 (or 5 % of the run), five times in a row."""
    window = max(100, len(losses) // 20)
    if place < window + CONFIRM:
        return False
    return all(losses[i] >= 2 * fmean(losses[i - window : i]) for i in range(place - CONFIRM + 1, place + 1))


def olmo_core(losses: Losses, place: int) -> bool:
    """Skip-step optimizer, by the loss: mean plus six standard deviations of the last 128."""
    before = losses[max(0, place - 128) : place]
    return len(before) == 128 and losses[place] > fmean(before) + 6 * pstdev(before)


def lightning(losses: Losses, place: int) -> bool:
    """SpikeDetection: at least three times the mean of the last ten."""
    return place >= 10 and losses[place] >= 3 * fmean(losses[place - 10 : place])


def megatron(losses: Losses, place: int) -> bool:
    """At least ten times the largest of the first hundred."""
    return place >= 100 and losses[place] >= 10 * max(losses[:100])


def llm_c(losses: Losses, place: int) -> bool:
    """A z-score above six of a window of 128 that holds the point."""
    window = losses[max(0, place - 127) : place + 1]
    return len(window) == 128 and pstdev(window) > 0 and (losses[place] - fmean(window)) / pstdev(window) > 6


RULES: dict[str, Rule] = {
    "llm-foundry KillLossSpike": llm_foundry,
    "OLMo-core skip-step, loss": olmo_core,
    "Lightning SpikeDetection": lightning,
    "Megatron-LM": megatron,
    "llm.c z-score": llm_c,
}


def first_alarm(rule: Rule, losses: Losses) -> int | None:
    """Step of its first alarm; None: it stays quiet."""
    return next((place for place in range(len(losses)) if rule(losses, place)), None)
