"""Of two ingredients that suffice together, the one that is foreign or shows its fault is the cause, or neither."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from trainables.diagnosis.controls import Play
from trainables.diagnosis.interaction import joint_cause
from trainables.diagnosis.references import Reference
from trainables.diagnosis.swap_table import SwapResult, Thresholds, leading_cause
from trainables.ingredients import Swap

NORM = SwapResult("normalization", "statistics over 96 samples", 0.5, "yes", 2.0, "no", standing="drawn")
RATE = SwapResult("learning_rate", "rate / 4", 0.2, "yes", 4.0, "inconclusive", standing="usual")
LABELS = SwapResult("labels", "labels of the index", 0.1, "yes", 2.5, "no", standing="declared")
PIXELS = SwapResult("pixels", "reference pixels", 8.0, "no", standing="declared")


def tried(
    *table: SwapResult, together: float = 9.0, affords: bool = True
) -> tuple[SwapResult | None, list[SwapResult]]:
    """What comes of a table where any two suspects alone have severity `together`, and the case's table then."""
    references = tuple(Reference(row.ingredient, Swap(row.swap), cast("Any", row.standing)) for row in table)
    kept = list(table)
    case = SimpleNamespace(
        thresholds=Thresholds(6.0, 3.0),
        table=kept,
        affords=lambda _replays: affords,
        score=lambda _label, _swaps, *, keep: together,
    )
    return joint_cause(cast("Any", case), Play(references, None), table), kept


def test_the_foreign_one_of_two_is_the_cause() -> None:
    """Beside its partner it is sufficient, and the table's leader from then on."""
    found, table = tried(LABELS, NORM, PIXELS)
    assert found is not None
    assert (found.ingredient, found.beside, found.severity_alone) == ("labels", "normalization", 9.0)
    assert "beside the run's own normalization" in found.swap
    assert leading_cause(table) is found


@pytest.mark.parametrize("together", [5.0, 1.0])
def test_two_that_do_not_suffice_together_are_none(together: float) -> None:
    """Something else has a part in it."""
    assert tried(LABELS, NORM, together=together)[0] is None


def test_two_that_nothing_can_be_seen_on_are_none() -> None:
    """A lower rate and larger batches hide most faults."""
    assert tried(RATE, NORM)[0] is None


def test_two_foreign_ones_are_none() -> None:
    """Which of them is to blame is not known."""
    assert tried(LABELS, replace(NORM, standing="declared"))[0] is None


def test_more_than_one_pair_is_none() -> None:
    """As where a rate hides what either of two others does."""
    assert tried(LABELS, NORM, RATE)[0] is None


def test_a_spent_budget_tries_nothing() -> None:
    """Three replays are kept for what follows."""
    assert tried(LABELS, NORM, affords=False)[0] is None
