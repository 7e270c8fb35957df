"""A step that is not one step of its optimizer's rule: seen from the weights alone, and named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.benchmarks.diagnosis.below import step_twice
from trainables.loop import RATIO_EVERY

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.diagnosis.conftest import MakeSmall, Small

CHANGES: dict[str, Any] = {
    "global_batch_size": 32,
    "max_steps": 80,
    "optim": {"lr": 0.05},
    "diagnosis": {"replicates": 1},
}


@pytest.mark.parametrize("start", [0, 1, RATIO_EVERY, RATIO_EVERY + 1])
def test_a_doubled_step_is_found_at_the_next_measured_one(small: MakeSmall, tiny: Tiny, start: int) -> None:
    """At the very first step, where the code was wrong from the start; the replays are as short as that."""
    fault = {"use": "trainables.faults:double_step", "start_step": start}
    found = small(tiny(**CHANGES, faults=[fault])).run().diagnosis
    assert found is not None
    assert (found.symptom.kind, found.symptom.step) == ("wrong_update", -(-start // RATIO_EVERY) * RATIO_EVERY)
    assert (found.cause, found.group, found.culprits.step) == ("double_step", "code", start)
    assert found.remedy is not None
    assert found.remedy.verified
    assert found.replayed_steps < 100


def test_an_optimizer_that_steps_twice_is_found_below_the_seam(small: MakeSmall, tiny: Tiny) -> None:
    """No ingredient of the step says so: an optimizer that is built anew does it once."""

    def watch(row: dict[str, Any]) -> None:
        if row["step"] >= 40 and "step" not in vars(run.trial.state.optimizer):
            step_twice(run.trial.state)

    run: Small = small(tiny(**CHANGES), watch)
    found = run.run().diagnosis
    assert found is not None
    assert (found.symptom.kind, found.cause) == ("wrong_update", "double_step"), found.summary
    assert found.remedy is not None
    assert found.remedy.verified


def test_a_doubled_step_is_cured_by_a_rollback(small: MakeSmall, tiny: Tiny) -> None:
    """The run goes on with the reference step, and ends."""
    fault = {"use": "trainables.faults:double_step", "start_step": 30}
    changes = CHANGES | {"diagnosis": {"replicates": 1, "on_event": "rollback"}}
    result = small(tiny(**changes, faults=[fault])).run()
    assert (result.phase, result.steps, result.symptom) == ("finished", 80, None)
    assert [(event.kind, event.cause) for event in result.events] == [("wrong_update", "double_step")]
