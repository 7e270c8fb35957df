"""A warm-up is the cure only where the run then learns at its peak; else the rate is too high."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.trainables.diagnosis.test_remedy import case_of
from trainables.diagnosis.causes import Ingredient
from trainables.diagnosis.controls import as_reference
from trainables.diagnosis.naming import NamedCause
from trainables.diagnosis.references.rates import warmed_up_rate
from trainables.diagnosis.remedy import try_remedy
from trainables.diagnosis.swap_table import SwapResult
from trainables.diagnosis.verdict import Remedy
from trainables.diagnosis.warm_up import doubted

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.diagnosis.conftest import MakeSmall

RATE: Ingredient = "learning_rate"


def told(small: MakeSmall, tiny: Tiny, optim: dict[str, Any]) -> tuple[NamedCause, Remedy]:
    """What becomes of a warm-up that made the event vanish."""
    config = tiny(max_steps=200, optim=optim, schedule={"kind": "constant"})
    case = case_of(small, config, "divergence", 0).case
    rate = warmed_up_rate(case.stream, 0)
    assert rate is not None
    stop, leader = case.stop, SwapResult(RATE, rate.swap.name, 0.0, "yes", 9.0, "yes")
    remedy = try_remedy(case, leader, as_reference(rate), rate)
    found = doubted(case, leader, as_reference(rate), NamedCause("warmup_missing", "it heals"), remedy)
    assert case.stop == stop
    return found


def test_a_sound_rate_lacked_its_warm_up(small: MakeSmall, tiny: Tiny) -> None:
    """It learns at its peak."""
    named, remedy = told(small, tiny, {"lr": 0.05})
    assert named == NamedCause("warmup_missing", "it heals")
    assert remedy.verified
    assert remedy.cure is not None
    assert remedy.cure.kind == "warm_up"


@pytest.mark.parametrize(
    ("optim", "divisor", "but"),
    [({"lr": 5.0}, 64, "falls ill at its peak"), ({"kind": "adamw", "lr": 0.3}, 16, "but stands still")],
)
def test_a_rate_that_no_warm_up_saves_is_too_high(
    small: MakeSmall, tiny: Tiny, optim: dict[str, Any], divisor: int, but: str
) -> None:
    """And a low one is the cure, whether the high one falls ill after the warm-up or just stands at guessing."""
    named, remedy = told(small, tiny, optim)
    assert named.name == "lr_too_high"
    assert but in named.evidence
    assert remedy.verified
    assert remedy.change == {"optim.lr": optim["lr"] / divisor}


def test_where_no_low_rate_heals_either_nothing_is_promised(small: MakeSmall, tiny: Tiny) -> None:
    """The cause is known, and no cure."""
    named, remedy = told(small, tiny, {"lr": 50.0})
    assert named.name == "lr_too_high"
    assert not remedy.verified
