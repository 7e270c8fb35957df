"""The rule that turns replays into a verdict, and its JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from trainables.baseline import Baseline
from trainables.detectors import Symptom
from trainables.diagnosis.causes import Ingredient
from trainables.diagnosis.culprits import Culprits
from trainables.diagnosis.swap_table import Answer, SwapResult, Thresholds, leading_cause
from trainables.diagnosis.verdict import Controls, Diagnosis, Remedy

THRESHOLDS = Thresholds(present=6.0, absent=3.0)


@pytest.mark.parametrize(
    ("severity", "necessary", "sufficient"),
    [
        (-2.0, "yes", "no"),
        (3.0, "yes", "no"),
        (3.01, "inconclusive", "inconclusive"),
        (5.99, "inconclusive", "inconclusive"),
        (6.0, "no", "yes"),
        (1000.0, "no", "yes"),
    ],
)
def test_thresholds_answer_both_tests(severity: float, necessary: Answer, sufficient: Answer) -> None:
    """Gone without the ingredient: necessary. There with it alone: sufficient. Between the thresholds: no vote."""
    assert THRESHOLDS.necessary(severity) == necessary
    assert THRESHOLDS.sufficient(severity) == sufficient


def test_what_is_not_a_number_is_no_vote() -> None:
    """A severity of nan convicts nobody and clears nobody."""
    assert THRESHOLDS.necessary(math.nan) == "inconclusive"
    assert THRESHOLDS.sufficient(math.nan) == "inconclusive"


def row(ingredient: Ingredient, necessary: Answer, sufficient: Answer) -> SwapResult:
    """A row of the table."""
    return SwapResult(ingredient, "reference", 1.0, necessary, 9.0, sufficient)


ANSWERS: tuple[Answer, ...] = ("yes", "no", "inconclusive", "not tested")


@pytest.mark.parametrize("necessary", ANSWERS[:3])
@pytest.mark.parametrize("sufficient", ANSWERS)
def test_a_cause_is_necessary_and_sufficient(necessary: Answer, sufficient: Answer) -> None:
    """One of the two is not enough."""
    innocent = row("labels", "no", "not tested")
    suspect = row("pixels", necessary, sufficient)
    expected = suspect if (necessary, sufficient) == ("yes", "yes") else None
    assert suspect.is_cause is (expected is not None)
    assert leading_cause([innocent, suspect]) is expected


def test_two_causes_are_none() -> None:
    """Where two ingredients qualify, nothing parts them: no verdict."""
    both = [row("labels", "yes", "yes"), row("samples", "yes", "yes"), row("pixels", "no", "not tested")]
    assert leading_cause(both) is None
    assert leading_cause([]) is None


def test_of_several_causes_the_one_that_is_proven_foreign_leads() -> None:
    """Declared before usual before drawn; two of one standing stay a draw."""
    drawn, declared = row("samples", "yes", "yes"), replace(row("labels", "yes", "yes"), standing="declared")
    assert leading_cause([drawn, declared]) is declared
    usual = replace(row("moments", "yes", "yes"), standing="usual")
    assert leading_cause([drawn, usual]) is usual
    assert leading_cause([usual, drawn, declared]) is declared
    assert leading_cause([declared, replace(declared, ingredient="pixels")]) is None


def diagnosis(remedy: Remedy | None = None) -> Diagnosis:
    """A diagnosis with something in every field that may be empty."""
    baseline = Baseline(0.4, 0.1, math.log(10), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Diagnosis(
        symptom=Symptom("spike", 61, 58, 14.2, "loss 3.1 is 14.2 noise units above", baseline),
        epoch=1,
        cause="lr_jump",
        group="learning_rate",
        confidence=0.875,
        summary="spike at step 58",
        table=[row("learning_rate", "yes", "yes"), SwapResult("labels", "labels of the index", 14.0, "no")],
        controls=Controls(14.2, exact_bits_equal=True, snapshot_step=50, horizon=24),
        curves={"as run": [[50, 0.41], [51, 0.4]]},
        remedy=remedy,
        culprits=Culprits((3, 7), ("train/a/3.jpg", "train/a/7.jpg"), rank=1, step=58),
        replayed_steps=240,
        seconds=41.0,
    )


@pytest.mark.parametrize("remedy", [None, Remedy({"schedule.milestones": []}, "hold it", verified=True, severity=0.3)])
def test_to_dict_is_json(remedy: Remedy | None) -> None:
    """Strict JSON without nan, read back as it was; what was not reached is null."""
    content = diagnosis(remedy).to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == json.loads(json.dumps(content))
    assert content["culprits"]["rank"] == 1
    assert list(content["culprits"]["files"]) == ["train/a/3.jpg", "train/a/7.jpg"]
    assert content["controls"]["all_reference"] is None
    assert content["table"][1]["severity_alone"] is None
    assert content["table"][1]["sufficient"] == "not tested"
    assert (content["remedy"] is None) is (remedy is None)


@pytest.mark.parametrize(
    ("exact", "present", "absent"),
    [
        *((5.0, 4.5, 3.0), (6.0, 4.5, 3.0), (8.0, 5.6, 3.0), (12.0, 6.0, 3.0)),
        *((16.0, 6.0, 4.0), (23.0, 6.0, 4.5), (1e3, 6.0, 4.5)),
    ],
)
def test_thresholds_follow_the_event(exact: float, present: float, absent: float) -> None:
    """Most of a weak event is the event, a quarter of a severe one is none; neither goes beyond half-way."""
    beside = Thresholds(present=6.0, absent=3.0).beside(exact, 0.25)
    assert (beside.present, beside.absent) == pytest.approx((present, absent))


@pytest.mark.parametrize(("exact", "absent"), [(12.0, 3.0), (23.0, 4.5), (24.0, 5.4), (1e3, 5.4)])
def test_what_a_severe_event_leaves_below_the_threshold_is_none(exact: float, absent: float) -> None:
    """Where nothing grows on it."""
    assert Thresholds(present=6.0, absent=3.0).beside(exact, 0.25, rest=True).absent == pytest.approx(absent)


def test_an_event_that_a_placebo_removes_is_chaotic() -> None:
    """Between the thresholds a placebo has no vote, but half of them have to bring the event back."""
    thresholds = Thresholds(present=6.0, absent=3.0)
    assert all(map(thresholds.survives, ([9.0, 7.0], [9.0, 5.0], [6.0])))
    assert not any(map(thresholds.survives, ([9.0, 2.0], [5.0, 5.0], [5.0])))


def test_to_dict_has_the_layout_of_diagnosis_json() -> None:
    """The keys that the tracker, the report and `epoch14 explain` read."""
    content = diagnosis(Remedy({}, "text", verified=False, severity=4.0)).to_dict()
    assert set(content) == {
        *("symptom", "cause", "group", "confidence", "summary", "table", "controls", "curves", "remedy"),
        *("causes", "culprits", "replayed_steps", "seconds", "snapshot_bytes"),
    }
    assert {"kind", "step", "onset", "epoch", "severity", "detail"} <= set(content["symptom"])
    assert content["symptom"]["epoch"] == 1
    assert set(content["table"][0]) == {
        *("ingredient", "swap", "severity_without", "necessary", "severity_alone", "sufficient", "evidence"),
        *("standing", "beside"),
    }
    assert {"exact", "exact_bits_equal", "placebo", "all_reference", "snapshot_step", "horizon"} == set(
        content["controls"]
    )
    assert set(content["remedy"]) == {"change", "text", "verified", "severity", "cure"}


def test_to_dict_leaves_the_diagnosis_alone() -> None:
    """It may be called twice."""
    once = diagnosis()
    assert once.to_dict() == once.to_dict()
    assert once.symptom.baseline.level == 0.4
