"""Both tests of each ingredient, and their replicates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trainables.diagnosis.case import Case
from trainables.diagnosis.causes import Ingredient
from trainables.diagnosis.confidence import confidence_of, margin_of
from trainables.diagnosis.controls import Play
from trainables.diagnosis.references import Reference
from trainables.diagnosis.swap_table import SwapResult
from trainables.ingredients import Swap

EQUAL = "equal to the reference at every replayed step"


def screen(case: Case, play: Play, references: Iterable[Reference]) -> list[SwapResult]:
    """One row for each reference in play; those that are not are tried too while the budget is ample."""
    rows = [screen_one(case, reference, play) for reference in play.references]
    case.table.extend(rows)
    for reference in references:
        if reference not in play.references and case.affords(2 + 2 * case.config.diagnosis.replicates):
            case.table.append(screen_one(case, reference, play))
    return case.table


def screen_one(case: Case, reference: Reference, play: Play) -> SwapResult:
    """Necessary, and where it may be, sufficient."""
    ingredient, swap = reference.ingredient, reference.swap
    without = case.score(f"{ingredient} swapped", [swap], keep=True)
    necessary = case.thresholds.necessary(without)
    if necessary == "no":
        return SwapResult(ingredient, swap.name, round(without, 2), necessary, standing=reference.standing)
    alone = case.score(f"{ingredient} alone", everything_but((ingredient,), play), keep=True)
    return SwapResult(
        *(ingredient, swap.name, round(without, 2), necessary, round(alone, 2), case.thresholds.sufficient(alone)),
        standing=reference.standing,
    )


def equal_rows(equal: dict[Ingredient, Swap], exact: float) -> list[SwapResult]:
    """Rows of ingredients that a replay need not swap: it would be the exact one."""
    return [SwapResult(name, swap.name, round(exact, 2), "no", evidence=EQUAL) for name, swap in equal.items()]


def confirm(case: Case, leader: SwapResult, play: Play) -> tuple[int, int, float]:
    """Further replays of both tests, each under its own placebo, as far as the budget goes.

    Returns how many agree, of how many, the two of the screening included, and the confidence that follows.
    """
    assert leader.severity_alone is not None
    without, alone = [leader.severity_without], [leader.severity_alone]
    ingredient, thresholds = leader.ingredient, case.thresholds
    swap = next(reference.swap for reference in play.references if reference.ingredient == ingredient)
    others = everything_but((ingredient, leader.beside), play)
    for i in range(case.config.diagnosis.replicates):
        if not case.affords(3):
            break
        key = 1000 + i
        without.append(case.score(f"{ingredient} swapped, replicate {i}", [swap], placebo=key))
        alone.append(case.score(f"{ingredient} alone, replicate {i}", others, placebo=key))
    agreed = sum(map(thresholds.is_absent, without)) + sum(map(thresholds.is_present, alone))
    margin = margin_of(thresholds, [leader.severity_without], [leader.severity_alone])
    return agreed, 2 * len(without), confidence_of(agreed, 2 * len(without), leader.standing, margin)


def everything_but(ingredients: Sequence[Ingredient | None], play: Play) -> list[Swap]:
    """All references in play, those of the suspects excepted."""
    return [swap for other, swap in play.swaps.items() if other not in ingredients]
