"""A warm-up that heals is doubted: it may only put off what too high a rate does at its peak."""

from __future__ import annotations

from dataclasses import replace

from trainables.diagnosis.case import Case
from trainables.diagnosis.controls import as_reference
from trainables.diagnosis.naming import NamedCause
from trainables.diagnosis.references import Reference, rate_divided
from trainables.diagnosis.references.rates import LADDER, WARM_UP, RateReference
from trainables.diagnosis.remedy import try_remedy
from trainables.diagnosis.swap_table import SwapResult
from trainables.diagnosis.verdict import Remedy

LOW = LADDER[1:]
"""Divisors of the rate that a warm-up is compared with, and that are tried in its place."""
LEARNS = 0.2
"""Loss, as a share of guessing's, that a low rate must be ahead by: then the warm-up's run stands still."""


def doubted(
    case: Case, leader: SwapResult, reference: Reference, named: NamedCause, remedy: Remedy
) -> tuple[NamedCause, Remedy]:
    """The cause and the cure, once more: the rate is too high where it falls ill after the warm-up, or doesn't learn.

    Then low rates without any warm-up are tried as the cure. remedy: what the warm-up came to.
    """
    rates = [rate_divided(case.stream, divisor, case.symptom.onset) for divisor in LOW]
    but = "falls ill at its peak"
    if remedy.verified:
        better = next((low for low in rates if learns_better(case, low, reference)), None)
        if better is None:
            return named, remedy
        rates = rates[rates.index(better) :]
        but = f"but stands still, where rate {better.rate:.4g} learns without one"
    named = replace(named, name="lr_too_high", evidence=f"{named.evidence}; {but}")
    for low in rates:
        lower = try_low(case, leader, low)
        if lower is not None and lower.verified:
            return named, lower
    return named, replace(remedy, verified=False)


def try_low(case: Case, leader: SwapResult, low: RateReference) -> Remedy | None:
    """A low rate as the remedy; None where the budget does not go so far."""
    if not case.affords(1):
        return None
    screened = replace(leader, severity_without=case.score("low rate, no warm-up", [low.swap]))
    return try_remedy(case, screened, as_reference(low), low)


def learns_better(case: Case, low: RateReference, warm_up: Reference) -> bool:
    """Whether the low rate ends with a loss of the clean batch that is lower than the warm-up's by LEARNS.

    Over the ramp and a horizon at its peak: a run that stands at guessing is no worse than guessing, and not well.
    """
    with case.until(max(case.stop, WARM_UP + case.config.diagnosis.horizon)):
        if not case.affords(2):
            return False
        ramped, cold = (case.replay(swap.name, [swap]).clean_after for swap in (warm_up.swap, low.swap))
    return ramped - cold > LEARNS * case.symptom.baseline.chance
