"""Replays of a loop, their scores, and the references that they are given."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from trainables.baseline import NON_FINITE_SCORE, Baseline
from trainables.config import DetectorConfig
from trainables.detectors import Symptom, SymptomKind
from trainables.guard.history import REMEMBERED, History
from trainables.guard.references import build_references, last_jump, rate_before, rate_divided, skipped
from trainables.guard.replay import LoopReplayer, LoopSeverity
from trainables.guard.stepper import StepPlan
from trainables.step_signals import StepSignals

if TYPE_CHECKING:
    from tests.trainables.guard.conftest import Loop, MakeLoop
    from trainables.guard import SpikeGuard


def severity_of(kind: SymptomKind) -> LoopSeverity:
    """A symptom from step 10 on, over a baseline of 1 +- 0.1 nats."""
    symptom = Symptom(kind, 14, 10, 9.0, "", Baseline(1.0, 0.1, 0.0))
    return LoopSeverity(symptom, DetectorConfig(confirm=2, min_history=4, history=8), 6.0)


def losses(values: list[float], first: int = 10) -> list[StepSignals]:
    """Signals of consecutive steps."""
    return [StepSignals(first + i, value) for i, value in enumerate(values)]


def trained(loop: Loop, steps: int) -> SpikeGuard:
    """A guard after some steps, its loop still healthy."""
    guard = loop.guard()
    loop.run_guarded(guard, steps)
    assert guard.events == []
    return guard


def replayer_of(guard: SpikeGuard) -> LoopReplayer:
    """A replayer of what the guard has seen."""
    last = guard.history.records[-1].plan.step
    return LoopReplayer(guard.state, guard.stepper, guard.history, last)


def test_one_bad_step_is_no_event() -> None:
    """As in the detector, a spike needs `confirm` bad steps of twice as many."""
    severity = severity_of("spike")
    assert severity(losses([1.0, 3.0, 1.0, 1.0, 1.0, 1.0])) == pytest.approx(0.0)
    assert severity(losses([1.0, 3.0, 1.0, 3.0, 1.0, 1.0])) == pytest.approx(20.0)
    assert severity(losses([3.0, 1.0, 1.0, 1.0, 3.0, 1.0])) == pytest.approx(0.0)


def test_steps_before_the_onset_do_not_count() -> None:
    """What lies before the event has no say; without a step after it there is neither event nor health."""
    severity = severity_of("spike")
    assert severity(losses([9.0, 9.0, 9.0, 1.0, 1.0], first=7)) == pytest.approx(0.0)
    assert math.isnan(severity(losses([9.0, 9.0], first=7)))


def test_loss_that_is_not_finite_is_the_worst() -> None:
    """Nan and inf score alike, and settle a replay at once."""
    severity = severity_of("non_finite")
    for bad in (math.nan, math.inf):
        assert severity(losses([1.0, bad])) == NON_FINITE_SCORE
        assert severity.settled(losses([bad]))


def test_replay_settles_once_the_event_is_there() -> None:
    """Not before `confirm` steps, and never on healthy ones."""
    severity = severity_of("spike")
    assert not severity.settled(losses([3.0]))
    assert severity.settled(losses([3.0, 3.0]))
    assert not severity.settled(losses([1.0] * 6))


def test_drift_is_scored_by_its_median() -> None:
    """A divergence is what most of `min_history` steps show."""
    assert severity_of("divergence")(losses([1.0, 3.0, 3.0, 3.0])) == pytest.approx(20.0)
    assert severity_of("divergence")(losses([1.0, 1.0, 1.0, 3.0])) == pytest.approx(0.0)


def test_exact_replay_has_every_bit(make_loop: MakeLoop) -> None:
    """From each snapshot the recorded losses come back; with a swap they don't, and the first step is named."""
    guard = trained(make_loop("conv"), 45)
    replayer = replayer_of(guard)
    assert [snapshot.step for snapshot in guard.history.snapshots] == [10, 20, 30, 40]
    for snapshot in guard.history.snapshots:
        replay = replayer.run(snapshot, 45)
        assert len(replay.signals) == 45 - snapshot.step
        assert replayer.first_difference(replay) is None
    swap = skipped((33,))
    assert replayer.first_difference(replayer.run(guard.history.snapshots[2], 45, [swap])) == 34


def test_rate_before_is_held_and_caps(make_loop: MakeLoop) -> None:
    """The reference holds the rate of before from the jump on; the cure lowers a rate, and never raises one."""
    loop = make_loop(rate_at=lambda k: 0.1 if k < 22 else 0.2)
    guard = trained(loop, 28)
    assert last_jump(guard.history, 28) == 22
    assert last_jump(guard.history, 21) is None
    rate = rate_before(replayer_of(guard), 22)
    assert rate.cap is not None

    def rates(step: int, value: float) -> tuple[float, float]:
        plan = StepPlan(step, step, ({"lr": value},))
        held, capped = rate.swap.change(plan).groups, rate.cap and rate.cap(plan).groups
        assert held
        assert capped
        return held[0]["lr"], capped[0]["lr"]

    assert rates(21, 0.2) == (0.2, 0.2)
    assert rates(22, 0.2) == (0.1, 0.1)
    assert rates(30, 0.01) == (0.1, 0.01)


def test_fallen_rate_has_no_cure_that_goes_on(make_loop: MakeLoop) -> None:
    """To hold the higher rate of before is a reference, but nothing to keep to."""
    guard = trained(make_loop(rate_at=lambda k: 0.1 if k < 22 else 0.05), 28)
    assert rate_before(replayer_of(guard), 22).cap is None


def test_rate_is_divided_in_each_group(make_loop: MakeLoop) -> None:
    """A rung of the ladder divides whatever rate each group has."""
    rate = rate_divided(replayer_of(trained(make_loop(), 5)), 4.0, 4)
    groups = rate.swap.change(StepPlan(4, 4, ({"lr": 0.4}, {"lr": 0.8}))).groups
    assert groups == ({"lr": 0.1}, {"lr": 0.2})


def test_other_batches_come_from_before_the_event(make_loop: MakeLoop) -> None:
    """Each step draws its other batch by its own number, out of those before the onset."""
    guard = trained(make_loop(), 30)
    swap = build_references(guard.stepper, guard.history, 20, 10).swaps["samples"]
    drawn = [swap.change(StepPlan(k, k)).batch for k in range(20, 60)]
    assert drawn == [swap.change(StepPlan(k, k)).batch for k in range(20, 60)]
    assert {number for number in drawn if number is not None} <= set(range(20))
    assert len(set(drawn)) > 10


def test_what_has_no_reference_says_why(make_loop: MakeLoop) -> None:
    """Nothing is left out in silence."""
    guard = trained(make_loop(optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1)), 6)
    references = build_references(guard.stepper, guard.history, 2, 0)
    assert references.swaps == {}
    assert references.not_tested["samples"].startswith("only 2 batches came before the event")
    assert references.not_tested["number_format"] == "no fp32_step was given"
    assert references.not_tested["optimizer_state"].startswith("the optimizer keeps none of momentum_buffer")
    assert references.not_tested["normalization"].startswith("the model has no batch norm")


def test_memory_is_bounded(make_loop: MakeLoop) -> None:
    """However long a run, so many snapshots and records are kept."""
    guard = trained(make_loop(), REMEMBERED + 60)
    assert len(guard.history.records) == REMEMBERED
    assert len(guard.history.snapshots) == 4


def test_jump_at_the_last_step_is_seen(make_loop: MakeLoop) -> None:
    """A rate that has only just jumped is a jump already."""
    guard = trained(make_loop(), 20)
    record = guard.history.records[-1]
    jumped = replace(record, plan=replace(record.plan, step=20, groups=({"lr": 3.0},)))
    guard.history.records.append(jumped)
    assert last_jump(guard.history, 20) == 20


def test_first_snapshot_is_always_due() -> None:
    """A run that starts between two due steps has a state to go back to."""
    history = History(every=10, keep=2)
    assert history.is_due(7)
    assert history.is_due(10)
