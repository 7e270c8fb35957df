"""What a step does to the weights is one step of its optimizer's rule, or shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.benchmarks.diagnosis.below import step_twice
from trainables.baseline import NON_FINITE_SCORE, update_score
from trainables.config import DetectorConfig
from trainables.detectors import Detector
from trainables.faults import double_step
from trainables.ingredients import Batch, Ingredients, load_batch
from trainables.loop import RATIO_EVERY, run_step, train_step
from trainables.signals import StepRecord, read_signals
from trainables.state import TrainState
from trainables.step_signals import StepSignals

if TYPE_CHECKING:
    from tests.trainables.conftest import Bench, Build, Tiny

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.02},
    "sgd, unfused": {"lr": 0.02, "fused": False},
    "sgd, nesterov, decayed": {"lr": 0.02, "nesterov": True, "weight_decay": 1.0},
    "sgd without momentum": {"lr": 0.02, "momentum": 0.0, "weight_decay": 0.1},
    "sgd, clipped": {"lr": 0.02, "clip_grad_norm": 0.5, "agc": 0.01},
    "sgd, hardly moving": {"lr": 1e-7},
    "adamw": {"kind": "adamw", "lr": 0.001, "weight_decay": 0.5},
    "adamw, unfused": {"kind": "adamw", "lr": 0.001, "fused": False},
    "lamb": {"kind": "lamb", "lr": 0.01, "weight_decay": 0.01},
    "lars": {"kind": "lars", "lr": 1.0, "weight_decay": 0.01},
}
MOVING = [name for name in OPTIMIZERS if name != "sgd, hardly moving"]


def third_step(build: Build, config: Any, change: Callable[[Bench, Ingredients], Ingredients]) -> StepSignals:
    """A measured step, after two that give the optimizer a history, with its ingredients changed."""
    bench = build(config)
    bench.state.model.train()
    for step in (1, 2):
        taken(bench.state, bench.stream(step))
    measured = replace(bench.stream(RATIO_EVERY), optim=bench.stream(3).optim)
    return taken(bench.state, change(bench, measured))


def taken(state: TrainState, ingredients: Ingredients) -> StepSignals:
    """The signals of that one step."""
    return read_signals([run_step(state, ingredients, load_batch(ingredients, state.ranks))])[0]


def as_it_is(_bench: Bench, ingredients: Ingredients) -> Ingredients:
    """A sound step."""
    return ingredients


def twice(bench: Bench, ingredients: Ingredients) -> Ingredients:
    """The optimizer steps twice, after the step that the seam knows."""
    change = double_step(bench.recipe)
    assert callable(change)
    return change(ingredients)


def twice_below(bench: Bench, ingredients: Ingredients) -> Ingredients:
    """The optimizer's own step is two."""
    step_twice(bench.state)
    return ingredients


def half_the_rate(_bench: Bench, ingredients: Ingredients) -> Ingredients:
    """The optimizer steps at a rate that is not the step's."""

    def code(state: TrainState, ingredients: Ingredients, batch: Batch, /, *, notice: bool = False) -> StepRecord:
        halved = replace(ingredients.optim, learning_rate=ingredients.optim.learning_rate / 2)
        return train_step(state, replace(ingredients, optim=halved), batch, notice=notice)

    return replace(ingredients, code=code)


def edited(_bench: Bench, ingredients: Ingredients) -> Ingredients:
    """The head's weights are four times as large in the step."""

    def edit(state: TrainState) -> None:
        state.parameters[-2].data.mul_(4.0)

    return ingredients.edited(edit)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_sound_step_is_one_step_of_the_rule(build: Build, tiny: Tiny, name: str) -> None:
    """But for rounding, whatever the optimizer, its clipping and its rate."""
    signals = third_step(build, tiny(optim=OPTIMIZERS[name]), as_it_is)
    assert signals.update_ratio > 0.0
    assert 0.0 <= signals.update_error < 0.005
    assert update_score(signals) < 1.0


@pytest.mark.parametrize("change", [twice, twice_below, half_the_rate, edited])
@pytest.mark.parametrize("name", MOVING)
def test_another_update_shows(build: Build, tiny: Tiny, name: str, change: Any) -> None:
    """A second step, another rate and an edit, far above where the detector alarms."""
    signals = third_step(build, tiny(optim=OPTIMIZERS[name]), change)
    assert update_score(signals) > 2.0 * DetectorConfig().spike_score


@pytest.mark.parametrize("changes", [{"momentum": 0.0}, {"nesterov": True}])
def test_lars_can_not_be_told_without_its_momentum(build: Build, tiny: Tiny, changes: dict[str, Any]) -> None:
    """Its scaled gradients are not kept: no error is told, rather than a wrong one."""
    signals = third_step(build, tiny(optim={"kind": "lars", "lr": 1.0, **changes}), as_it_is)
    assert math.isnan(signals.update_error)
    assert signals.update_ratio > 0.0


def test_a_parameter_without_a_gradient_is_left_out(build: Build, tiny: Tiny) -> None:
    """The optimizer does not touch it, decay or not."""

    def drop(state: TrainState) -> None:
        state.parameters[0].grad = None

    for name in ("adamw", "sgd, nesterov, decayed"):
        signals = third_step(build, tiny(optim=OPTIMIZERS[name]), lambda _bench, i: replace(i, gradient_edits=(drop,)))
        assert signals.update_error < 0.005


def test_gradients_that_are_cleared_early_say_nothing(build: Build, tiny: Tiny) -> None:
    """Code that clears them at its end leaves nothing to compare with, which is no error."""

    def code(state: TrainState, ingredients: Ingredients, batch: Batch, /, *, notice: bool = False) -> StepRecord:
        record = train_step(state, ingredients, batch, notice=notice)
        state.optimizer.zero_grad()
        return record

    signals = third_step(build, tiny(), lambda _bench, i: replace(i, code=code))
    assert math.isnan(signals.update_error)
    assert signals.update_ratio > 0.0


def test_a_step_that_was_not_made_has_no_wrong_update(build: Build, tiny: Tiny) -> None:
    """A gradient that is not finite changes nothing, which is another symptom."""

    def bad(_bench: Bench, ingredients: Ingredients) -> Ingredients:
        def fill(state: TrainState) -> None:
            gradient = state.parameters[0].grad
            assert gradient is not None
            gradient.fill_(math.inf)

        return replace(ingredients, gradient_edits=(fill,))

    signals = third_step(build, tiny(), bad)
    assert not signals.applied
    assert update_score(signals) == 0.0


def healthy(steps: int) -> list[StepSignals]:
    """A calm run, measured now and then."""
    rows = [StepSignals(step, 0.5 + 0.01 * (step % 3)) for step in range(steps)]
    return [replace(row, update_error=0.003) if row.step % RATIO_EVERY == 0 else row for row in rows]


def test_the_detector_sees_a_wrong_update_at_once() -> None:
    """At the step that was measured, in a calm loss; rounding is none."""
    rows = healthy(80)
    detector = Detector(DetectorConfig(), num_classes=10)
    assert [detector.update(row) for row in rows] == [None] * 80
    detector = Detector(DetectorConfig(), num_classes=10)
    found = [detector.update(replace(row, update_error=0.5) if row.step == 64 else row) for row in rows]
    (symptom,) = filter(None, found)
    assert (symptom.kind, symptom.onset, symptom.step) == ("wrong_update", 64, 64)
    assert "50%" in symptom.detail


def test_the_detector_sees_ranks_apart_at_once() -> None:
    """One rank with other weights is no matter of degree."""
    rows = [replace(row, weight_checksum_spread=float(row.step >= 64)) for row in healthy(70)]
    detector = Detector(DetectorConfig(), num_classes=10)
    found = list(filter(None, map(detector.update, rows)))
    assert (found[0].kind, found[0].onset, found[0].severity) == ("ranks_apart", 64, NON_FINITE_SCORE)
