"""An eval gap that training made: what was trained on since the last good evaluation is swapped in replays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.trainables.diagnosis.evaluation_bases import BASE, START, Base, symptom_at
from trainables.diagnosis.evaluation_training import diagnose_gap
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.ingredients import with_evaluation_swaps, with_swaps
from trainables.loop import run_steps

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.diagnosis.conftest import MakeSmall
    from trainables.diagnosis.verdict import Diagnosis
    from trainables.ingredients import Swap

STEPS = 40
"""Trained with the fault; the evaluation half-way is the first bad one."""


@pytest.fixture(scope="module")
def digits(small: MakeSmall, tiny: Tiny) -> Base:
    """A healthy run on the digits."""
    return Base.trained(small(tiny(**BASE)).trial)


def diagnose(base: Base, swaps: Sequence[Swap]) -> Diagnosis:
    """Go on from `base` with `swaps`, and ask about the evaluation at the end."""
    recipe = replace(base.recipe, config=base.config.model_copy(update={"eval_every": STEPS // 2}))
    base.state.restore(base.start)
    ring = SnapshotRing(10, 4)
    ring.first, ring.recent = base.ring.first, base.ring.recent.copy()
    stream = with_swaps(recipe.ingredients, swaps)
    losses = {}
    for signals in run_steps(base.state, stream, START, START + STEPS, loader_threads=0):
        losses[signals.step] = signals.loss
    symptom = replace(symptom_at(START + STEPS), onset=START + STEPS // 2)
    evaluations = with_evaluation_swaps(recipe.evaluation, swaps)
    return diagnose_gap(recipe, base.state, evaluations, stream, symptom, ring, losses)


@pytest.mark.parametrize(
    ("fault", "params", "cause", "ingredient"),
    [
        ("sorted_by_class", {}, "batch_shift", "samples"),
        ("shuffled_labels", {}, "label_shuffle", "labels"),
        ("learning_rate_factor", {"factor": 300.0}, "lr_jump", "learning_rate"),
    ],
)
def test_the_cause_lies_in_training(
    digits: Base, fault: str, params: dict[str, Any], cause: str, ingredient: str
) -> None:
    """Evaluation is as training has it, and val/ is bad: the one guilty ingredient of the steps is named."""
    found = diagnose(digits, digits.faults(fault, **params))
    assert found.cause == cause, found.summary
    assert [row.ingredient for row in found.table if row.is_cause] == [ingredient]
    assert found.symptom.kind == "eval_gap"
    assert found.controls.exact_bits_equal
    assert found.controls.snapshot_step <= START
    assert digits.state.step == START + STEPS


def test_a_gap_of_the_evaluation_is_not_replayed(digits: Base) -> None:
    """The metric is at fault, which no training step has."""
    found = diagnose(digits, digits.faults("wrong_metric"))
    assert found.cause == "metric_bug"
    assert found.replayed_steps == 0


def test_a_run_without_a_rise_is_unexplained(digits: Base) -> None:
    """Nothing was wrong: what the evaluation says stands."""
    found = diagnose(digits, ())
    assert found.cause == "unexplained"
    assert "about as good as with every ingredient at its reference value" in found.summary
