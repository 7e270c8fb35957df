"""The view of the trials that MLflow's UI lists, and what it draws."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from infra.tracking_views import EVENT_LOSS, VIEW_NAME, VIEW_TAG, view_link

if TYPE_CHECKING:
    from tests.infra.conftest import Loss, Store

EVENT = {
    "number": 1,
    "action": "observe",
    "kind": "spike",
    "onset": 20,
    "step": 22,
    "last_step": 22,
    "rollbacks": 0,
}
ROW = {"trial_id": "t", "name": "n", "steps": 20}


def test_an_experiment_has_the_view_once(local: Store) -> None:
    """A new experiment has it, one from before gets it, and it fits into what MLflow takes of a view."""
    old = local.client.create_experiment(local.experiment)
    tags = []
    for _ in range(2):
        sweep = local.sweep()
        sweep.tracker.setup()
        assert sweep.tracker.finish([{"trial_id": "t", "name": "n"}]) is None
        tags.append(local.client.get_experiment(old).tags[VIEW_TAG])
    assert tags[0] == tags[1]
    assert len(tags[0]) < 20_000
    assert json.loads(tags[0])["name"] == VIEW_NAME
    parent, _ = local.runs()
    assert f"[{VIEW_NAME}]({view_link(old)})" in parent.data.tags["mlflow.note.content"]


@pytest.mark.parametrize(
    ("loss", "marked"),
    [
        (lambda step: 0.5, [58, 59, 60, 61]),
        (lambda step: 0.5 if step < 55 else math.nan, [54]),
        (lambda _: math.nan, []),
    ],
    ids=["spike", "no number from before the onset on", "never a number"],
)
def test_the_event_is_marked_on_the_loss(
    loss: Loss, marked: list[int], local: Store, diagnosis: dict[str, Any]
) -> None:
    """The losses from onset to alarm, or the last number before them, stand under a name of their own; once."""
    sweep = local.sweep()
    trial = sweep.start()
    sweep.report(trial, 0, 62, loss)
    for _ in range(2):
        sweep.report(trial, 61, 62, loss, phase="stopped", symptom="spike", diagnosis=diagnosis)
    sweep.complete(trial)
    assert sweep.tracker.finish([]) is None
    assert [step for step, _ in local.losses(local.trial(), EVENT_LOSS)] == marked


def test_an_event_that_a_run_goes_on_after_is_marked_too(local: Store) -> None:
    """What a rollback followed shows on the loss as well."""
    sweep = local.sweep()
    trial = sweep.start()
    sweep.report(trial, 0, 40, event=EVENT)
    sweep.complete(trial)
    assert sweep.tracker.finish([]) is None
    assert [step for step, _ in local.losses(local.trial(), EVENT_LOSS)] == [20, 21, 22]


def test_the_machine_is_told_once(local: Store) -> None:
    """Its numbers and the speeds stand at their report's step; one that comes again, after a restore too, adds none."""
    tracker = local.tracker()
    told: dict[str, Any] = {"system": {"system/cpu_utilization_percentage": 80.0}, "event": {**EVENT, "rollbacks": 1}}
    for again in (tracker, local.tracker(parent_run_id=tracker.parent_run_id)):
        sweep = local.sweep(again)
        trial = sweep.start()
        for _ in range(2):
            sweep.report(trial, 0, 10, step=10, **told)
        again.on_experiment_end([])
    sweep.report(trial, 10, 20, step=20, system={})
    sweep.complete(trial)
    for last in (tracker, again):
        assert last.finish([ROW]) is None
    parent, child = local.runs()
    assert local.losses(child, "system/cpu_utilization_percentage") == [(10, 80.0)]
    assert local.losses(child, "images_per_s") == [(10, 9.5), (20, 9.5)]
    assert local.losses(child, "rollbacks") == [(10, 1.0)]
    # The sweep's totals come once an end; the second end finds the first one's.
    assert local.losses(parent, "num_trials") == [(20, 1.0), (21, 1.0)]
