"""The order in which sets of references are tried: the smallest first, and nothing guessed where practice speaks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from trainables.baseline import Baseline
from trainables.detectors import Symptom
from trainables.diagnosis.diagnose import may_guess, trusted_samples
from trainables.diagnosis.references import Reference
from trainables.diagnosis.references.rates import RAISED, SOUND_RATIO, raised_rates
from trainables.ingredients import Swap
from trainables.recipe import Recipe
from trainables.state import Snapshot

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.diagnosis.conftest import MakeSmall

BASE: dict[str, Any] = {
    "global_batch_size": 32,
    "optim": {"lr": 0.02},
    "schedule": {"kind": "constant"},
    "diagnosis": {"replicates": 1},
}


def test_a_stalled_rate_is_raised_to_a_sound_update(recipe: Recipe) -> None:
    """By the first update's share of the weights; not where that was sound; by rungs where nobody measured it."""

    def factors(update_ratio: float) -> list[int]:
        return [round(1.0 / rate.divisor) for rate in raised_rates(recipe.ingredients, 0, update_ratio)]

    assert factors(SOUND_RATIO / 200.0) == [200, 2000]
    assert factors(SOUND_RATIO) == []
    assert factors(math.nan) == [*RAISED]


def test_values_that_are_no_practice_come_before_guesses() -> None:
    """At an older snapshot too; from the last one on, and where all is practice, rates are guessed.

    Never of an eval gap.
    """
    early, late = Snapshot(0, {}), Snapshot(80, {})
    odd = Reference("weight_decay", Swap("no weight decay"), "usual")
    drawn = Reference("samples", Swap("others"), "drawn")
    assert not may_guess("spike", [odd, drawn], late, [late, early])
    assert may_guess("spike", [odd, drawn], early, [late, early])
    assert may_guess("spike", [drawn], late, [late, early])
    assert not may_guess("eval_gap", [drawn], early, [late, early])


def test_a_run_that_never_trained_well_trusts_no_early_samples(recipe: Recipe) -> None:
    """Of a few that come again and again a network learns any label, which would clear the others for nothing."""
    baseline = Baseline(level=2.3, noise=0.1, chance=2.3)
    spike = Symptom("spike", 43, 40, 9.0, "", baseline)
    stall = Symptom("stall", 160, 40, 9.0, "", baseline)
    assert len(trusted_samples(recipe, recipe.ingredients, spike)) < len(recipe.index.train)
    assert len(trusted_samples(recipe, recipe.ingredients, stall)) == len(recipe.index.train)


def test_the_rate_alone_is_the_verdict(small: MakeSmall, tiny: Tiny) -> None:
    """A hot start: each rung is tried by itself, so that what else is drawn anew is no part of the cure."""
    found = small(tiny(**{**BASE, "max_steps": 60, "optim": {"lr": 20.0}})).run().diagnosis
    assert found is not None
    assert found.cause == "lr_too_high", found.summary
    (row,) = [row for row in found.table if row.is_cause]
    assert row.severity_alone == pytest.approx(found.controls.exact, abs=0.01)
    assert found.remedy is not None
    assert found.remedy.verified


def test_a_stall_takes_the_rate_of_the_first_update(small: MakeSmall, tiny: Tiny) -> None:
    """A rate that is far too small: the cure is a factor that no rung has, and it makes progress."""
    stalled = {**BASE, "max_steps": 260, "optim": {"lr": 2e-6}, "detector": {"stall_share": 0.3}}
    found = small(tiny(**stalled)).run().diagnosis
    assert found is not None
    assert (found.symptom.kind, found.cause) == ("stall", "lr_too_low"), found.summary
    assert found.remedy is not None
    assert found.remedy.verified
    assert found.replayed_steps <= 750
