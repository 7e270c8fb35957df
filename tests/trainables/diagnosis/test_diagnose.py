"""Whole trials, end to end: a fault or a bad config, the symptom, the replays, the verdict, the cure.

Where no verdict is due: test_unexplained.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch

from trainables.diagnosis.confidence import confidence_of
from trainables.diagnosis.swap_table import ABSENT_SHARE, Thresholds
from trainables.diagnosis.verdict import Diagnosis
from trainables.trial import TrialResult

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.diagnosis.conftest import MakeSmall, Small

START = 50
BASE: dict[str, Any] = {"global_batch_size": 32, "max_steps": 80, "optim": {"lr": 0.05}, "diagnosis": {"replicates": 1}}


def fault(name: str, **params: Any) -> dict[str, Any]:
    """The `faults` key with one built-in fault from step START on."""
    return {"faults": [{"use": f"trainables.faults:{name}", "start_step": START, "params": params}]}


@dataclass(frozen=True)
class Story:
    """A trial's changes, and what is right."""

    changes: dict[str, Any]
    symptom: str
    ingredient: str
    cause: str
    group: str
    cure: dict[str, Any] | None = None
    """Changed config keys; None: the fault lies outside the config."""


STORIES = {
    "lr jump": Story(
        {"schedule": {"kind": "multi_step", "milestones": [START], "gamma": 50.0}},
        *("spike", "learning_rate", "lr_jump", "learning_rate"),
        cure={"schedule": {"kind": "multi_step", "milestones": []}},
    ),
    "hot": Story(
        {"optim": {"lr": 20.0}},
        *("divergence", "learning_rate", "lr_too_high", "learning_rate"),
        cure={"optim": {"lr": 1.25}},
    ),
    "small batch": Story(
        {"global_batch_size": 2, "max_steps": 130, "optim": {"lr": 0.2, "lr_batch_size": 32}, "seed": 5},
        *("instability", "normalization", "bn_small_batch", "normalization"),
        cure={"global_batch_size": 32},
    ),
    "preprocessing": Story(
        fault("preprocessing", normalization="one_scale"),
        *("input_shift", "pixels", "wrong_mean_std", "preprocessing"),
    ),
    "declared": Story(
        {"data": {"normalization": "bgr"}},
        *("input_shift", "pixels", "channel_swap", "preprocessing"),
        cure={"data": {"normalization": "per_channel"}},
    ),
    "nan": Story(fault("non_finite_input"), "non_finite", "pixels", "non_finite_input", "preprocessing"),
    "labels": Story(fault("offset_labels"), "spike", "labels", "label_offset", "data"),
    "order": Story(fault("sorted_by_brightness"), "input_shift", "samples", "batch_shift", "data"),
}


@dataclass(frozen=True)
class Told:
    """A story that was run."""

    story: Story
    small: Small
    result: TrialResult

    @property
    def diagnosis(self) -> Diagnosis:
        """Its diagnosis."""
        assert self.result.diagnosis is not None
        return self.result.diagnosis


Tell = Callable[[str], Told]


@pytest.fixture(scope="module")
def tell(small: MakeSmall, tiny: Tiny) -> Tell:
    """Runs each story once."""

    @cache
    def run(name: str) -> Told:
        story = STORIES[name]
        trial = small(tiny(**{**BASE, **story.changes}))
        return Told(story, trial, trial.run())

    return run


@pytest.mark.parametrize("name", STORIES)
def test_the_cause_is_found_and_cured(tell: Tell, name: str) -> None:
    """The symptom, the one guilty ingredient, its name and group, and a cure that a replay has proved."""
    told = tell(name)
    story, found = told.story, told.diagnosis
    assert told.result.phase == "stopped"
    assert (found.symptom.kind, found.cause, found.group) == (story.symptom, story.cause, story.group)
    assert [row.ingredient for row in found.table if row.is_cause] == [story.ingredient]
    assert found.confidence >= 0.6
    assert found.remedy is not None
    assert found.remedy.verified
    assert bool(found.remedy.change) is (story.cure is not None)


@pytest.mark.parametrize("name", STORIES)
def test_controls_came_out_as_they_must(tell: Tell, name: str) -> None:
    """The event comes back with the very bits, under placebos too, and is gone with everything at reference."""
    found = tell(name).diagnosis
    controls = found.controls
    assert controls.exact_bits_equal
    assert controls.exact >= 6.0
    assert len(controls.placebo) == (1 if found.symptom.kind == "instability" else 2)
    assert min(controls.placebo) >= 6.0
    assert controls.all_reference is not None
    # Of a severe event a trace counts as absent, and what a healed run scores differs between processors.
    assert Thresholds(present=6.0, absent=3.0).beside(controls.exact, ABSENT_SHARE).is_absent(controls.all_reference)
    assert controls.snapshot_step <= found.symptom.onset
    assert found.replayed_steps > 0


@pytest.mark.parametrize("name", ["lr jump", "preprocessing", "nan", "labels", "order"])
def test_the_onset_is_the_faults_first_step(tell: Tell, name: str) -> None:
    """Or the next one, where the first bad step was yet computed with good weights."""
    assert tell(name).diagnosis.symptom.onset in (START, START + 1)


@pytest.mark.parametrize("name", [name for name, story in STORIES.items() if story.cure is not None])
def test_the_cured_config_stays_healthy(tell: Tell, small: MakeSmall, tiny: Tiny, name: str) -> None:
    """The change that the remedy names, made in the config, gives a run without a symptom."""
    story = STORIES[name]
    assert story.cure is not None
    changes = {**BASE, **story.changes}
    for key, value in story.cure.items():
        changes[key] = {**changes.get(key, {}), **value} if isinstance(value, dict) else value
    told = tell(name)
    assert told.diagnosis.remedy is not None
    for key, value in told.diagnosis.remedy.change.items():
        section, _, last = key.rpartition(".")
        ours = changes[section][last] if section else changes[last]
        # The batch of the cure is a matter of taste, its being larger is not.
        assert value == ours or (key == "global_batch_size" and value > 2)
    assert small(tiny(**changes)).run().symptom is None


def test_the_table_says_why_others_are_innocent(tell: Tell) -> None:
    """An ingredient whose swap changes no value is cleared without a replay, and the row says so."""
    rows = {row.ingredient: row for row in tell("lr jump").diagnosis.table}
    assert {"learning_rate", "labels", "pixels", "samples", "normalization", "step_code"} <= set(rows)
    for name in ("labels", "pixels"):
        assert rows[name].necessary == "no"
        assert rows[name].evidence == "equal to the reference at every replayed step"
    assert rows["samples"].severity_alone is None
    assert rows["samples"].sufficient == "not tested"


def test_confidence_counts_replays(tell: Tell) -> None:
    """With one replicate of both tests, four replays that agree on labels that are not the index's make 0.9."""
    found = tell("labels").diagnosis
    assert found.confidence == pytest.approx(confidence_of(4, 4, "declared"), abs=1e-3)
    assert "4 of 4 replays agree" in found.summary


def test_curves_are_those_of_the_replays(tell: Tell) -> None:
    """The exact replay's curve is the run's own, from the snapshot to the end of the horizon."""
    told = tell("lr jump")
    curves, losses = told.diagnosis.curves, told.small.trial.losses
    assert {"as run", "all reference", "learning_rate swapped", "learning_rate alone", "remedy"} <= set(curves)
    first = curves["as run"][0][0]
    assert first == told.diagnosis.controls.snapshot_step
    for step, loss in curves["as run"]:
        if step in losses:
            assert loss == pytest.approx(losses[int(step)], abs=1e-6)


@pytest.mark.parametrize("name", STORIES)
def test_rows_of_a_diagnosis(tell: Tell, name: str) -> None:
    """Diagnosing rows name the symptom and the replay, no step is reported twice, the last row has the diagnosis."""
    told = tell(name)
    rows = told.small.rows
    phases = [row["phase"] for row in rows]
    assert phases[-1] == "stopped"
    first = phases.index("diagnosing")
    assert set(phases[:first]) <= {"training"}
    assert set(phases[first:-1]) == {"diagnosing"}
    assert {row["symptom"] for row in rows[first:]} == {told.story.symptom}
    replays = [row["replay"] for row in rows[first:-1]]
    assert replays[0] == ""
    assert replays[1] == "as run"
    assert all(replays[1:])
    steps = [step["step"] for row in rows for step in row["history"]]
    assert steps == list(range(told.diagnosis.symptom.step + 1))
    assert all(row["diagnosis"] is None for row in rows[:-1])
    assert rows[-1]["diagnosis"] == told.diagnosis.to_dict()
    text = json.dumps(rows[-1]["diagnosis"], allow_nan=False)
    assert json.loads(text)["cause"] == told.story.cause


def test_the_live_state_is_put_back(tell: Tell, small: MakeSmall, tiny: Tiny) -> None:
    """After all the replays weights, buffers and momentum are those of the run at its last step."""
    told = tell("labels")
    plain = small(tiny(**{**BASE, **told.story.changes, "diagnosis": {"enabled": False}}))
    result = plain.run()
    assert result.diagnosis is None
    assert result.symptom == told.result.symptom
    live = told.small.trial.state.tensors()
    assert all(torch.equal(tensor, live[name]) for name, tensor in plain.trial.state.tensors().items())


def test_a_diagnosis_is_a_function_of_the_config(tell: Tell, small: MakeSmall, tiny: Tiny) -> None:
    """Run again, it comes to the same numbers; only the time differs."""
    told = tell("nan")
    again = small(tiny(**{**BASE, **told.story.changes})).run()
    assert again.diagnosis is not None
    one, other = told.diagnosis.to_dict(), again.diagnosis.to_dict()
    one.pop("seconds")
    other.pop("seconds")
    assert one == other


def test_a_healthy_run_has_no_diagnosis(small: MakeSmall, tiny: Tiny) -> None:
    """Nothing to explain, nothing replayed."""
    result = small(tiny(**BASE)).run()
    assert (result.phase, result.symptom, result.diagnosis) == ("finished", None, None)
    assert math.isfinite(result.best_val_top1)
