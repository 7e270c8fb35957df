"""Two ingredients that make the event only together: the one that shows a fault of its own is the cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from trainables.diagnosis.case import Case
from trainables.diagnosis.controls import Play
from trainables.diagnosis.naming import name_cause
from trainables.diagnosis.screen import everything_but
from trainables.diagnosis.swap_table import SwapResult

NO_FAULT_OF_ITS_OWN = ("poisoned_batch",)
"""What samples are called that nothing can be seen on."""


def joint_cause(case: Case, play: Play, table: Sequence[SwapResult]) -> SwapResult | None:
    """The row of an ingredient that is necessary, and sufficient beside one other; None: there is no such pair.

    Neither is to blame by the table alone: a lower rate hides most faults, and so may larger batches. One of the two
    has to be foreign to the run's declaration, or to show on its own files what is wrong with them, and the other not.
    The row is added to the case's table.
    """
    half = [row for row in table if row.necessary == "yes" and row.sufficient != "yes"]
    needed = [row for row in half if row.ingredient in play.swaps]
    found: list[tuple[SwapResult, SwapResult, float]] = []
    for one, other in combinations(needed, 2):
        if not case.affords(3):
            break
        swaps = everything_but((one.ingredient, other.ingredient), play)
        alone = case.score(f"{one.ingredient} and {other.ingredient} alone", swaps, keep=True)
        if case.thresholds.is_present(alone):
            found.append((one, other, alone))
    if len(found) != 1:
        return None
    one, other, alone = found[0]
    pairs = ((one, other), (other, one))
    telling = [joint(row, partner, alone) for row, partner in pairs if is_telling(case, play, row)]
    if len(telling) != 1:
        return None
    case.table.extend(telling)
    return telling[0]


def joint(row: SwapResult, partner: SwapResult, alone: float) -> SwapResult:
    """The row of an ingredient beside its partner."""
    swap = f"{row.swap}; sufficient beside the run's own {partner.ingredient.replace('_', ' ')}"
    return replace(row, swap=swap, severity_alone=round(alone, 2), sufficient="yes", beside=partner.ingredient)


def is_telling(case: Case, play: Play, row: SwapResult) -> bool:
    """Whether the ingredient is foreign, or has a fault that can be seen on it."""
    if row.standing == "declared":
        return True
    reference = next(r for r in play.references if r.ingredient == row.ingredient)
    return row.ingredient == "samples" and name_cause(case, reference, play.rate).name not in NO_FAULT_OF_ITS_OWN
