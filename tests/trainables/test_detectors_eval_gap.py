"""Training is fine and evaluation is not: seen over two evaluations or in the last one; overfitting is none."""

from __future__ import annotations

import json
import math

import pytest

from trainables.config import DetectorConfig
from trainables.detectors import Detector, EvaluationSignals, Symptom
from trainables.step_signals import StepSignals

CONFIG = DetectorConfig()
Scores = tuple[float, float, float, float]
"""Train loss, train top-1, val loss, val top-1."""
HEALTHY: Scores = (0.5, 0.85, 0.6, 0.8)
START: list[Scores] = [(2.0, 0.3, 2.1, 0.25), (1.2, 0.6, 1.3, 0.55), HEALTHY]


def evaluations(scores: list[Scores], every: int = 100, *, last: bool = False) -> list[EvaluationSignals]:
    """An evaluation each `every` steps; `last`: the run ends with it."""
    return [
        EvaluationSignals((i + 1) * every, val_loss, val_top1, train_loss, train_top1, last and i + 1 == len(scores))
        for i, (train_loss, train_top1, val_loss, val_top1) in enumerate(scores)
    ]


def seen(scores: list[Scores], classes: int | None = 10, *, last: bool = False) -> list[Symptom]:
    """What the detector says to the evaluations."""
    detector = Detector(CONFIG, classes)
    return [s for e in evaluations(scores, last=last) if (s := detector.update_evaluation(e))]


BAD: dict[str, Scores] = {
    "corrupted running statistics": (0.5, 0.85, 9.0, 0.1),
    "half of the skill lost": (0.5, 0.85, 2.2, 0.35),
    "loss not a number": (0.5, 0.85, math.nan, 0.1),
    "loss infinite": (0.5, 0.85, math.inf, 0.1),
    "metric bug: loss good, top-1 guessing": (0.5, 0.85, 0.6, 0.1),
    "metric bug of both": (0.5, 0.1, 0.6, 0.1),
    "a third of the skill lost at once": (0.5, 0.85, 0.9, 0.56),
}


@pytest.mark.parametrize("name", BAD)
def test_two_bad_evaluations_in_a_row_are_a_gap(name: str) -> None:
    """Confirmed by the second; the first is the onset."""
    symptom = seen([*START, BAD[name], BAD[name]])[0]
    assert (symptom.kind, symptom.onset, symptom.step) == ("eval_gap", 400, 500)
    assert symptom.severity >= CONFIG.spike_score


@pytest.mark.parametrize("name", BAD)
def test_growing_images_have_no_gap_before_they_are_grown(name: str) -> None:
    """val/ is always at the last size, which is foreign to a net that is trained on smaller images."""
    rows = evaluations([*START, *[BAD[name]] * 3, HEALTHY, *[BAD[name]] * 2])
    growing = Detector(CONFIG, 10, scheduled_changes=(350, 450, 600))
    assert [s.step for e in rows if (s := growing.update_evaluation(e))] == [900]


@pytest.mark.parametrize("name", BAD)
def test_one_bad_evaluation_is_a_dip_unless_it_is_the_last(name: str) -> None:
    """A one-epoch dip with a smooth training loss is a negative control; what ships in the end counts."""
    assert seen([*START, BAD[name], HEALTHY, BAD[name], HEALTHY]) == []
    assert [s.step for s in seen([*START, BAD[name]], last=True)] == [400]


def test_label_offset_in_training_is_a_gap() -> None:
    """Training learns shifted labels from the start; val top-1 is below guessing and its loss far above."""
    offset: list[Scores] = [(1.5, 0.5, 5.0, 0.02), (0.6, 0.8, 8.0, 0.0), (0.3, 0.9, 9.0, 0.0)]
    assert seen(offset)[0].onset == 100


QUIET: dict[str, list[Scores]] = {
    "overfitting": [*START, *[(0.5 / 2**i, 0.99, 0.7 * 1.3**i, 0.75 - 0.02 * i) for i in range(12)]],
    "overfitting of a tiny set": [(0.8, 0.8, 1.9, 0.45), *[(0.01, 1.0, 4.5, 0.4)] * 6],
    "strong augmentation": [(2.2, 0.2, 1.5, 0.5), (2.0, 0.3, 1.0, 0.7), (1.9, 0.35, 0.8, 0.8)],
    "mixup switched on": [*START, (1.6, 0.5, 0.6, 0.8), (1.5, 0.52, 0.58, 0.81)],
    "label smoothing": [(2.1, 0.4, 1.9, 0.4), (1.3, 0.8, 1.2, 0.75), (1.0, 0.95, 1.1, 0.8)],
    "resolution switch": [*START, (0.9, 0.7, 1.4, 0.5), (0.5, 0.85, 0.6, 0.8)],
    "a tenth of the skill lost at once": [*START, *[(0.5, 0.85, 0.8, 0.73)] * 4],
    "a small val/ that is hardly learned": [*START[:1], (2.0, 0.3, 1.9, 0.35), *[(2.0, 0.3, 2.0, 0.26)] * 3],
    "at chance": [(2.3, 0.1, 2.3, 0.1)] * 5,
    "constant": [HEALTHY] * 5,
    "nothing measured": [(math.nan, math.nan, math.nan, math.nan)] * 5,
    "training fell ill too": [*START, *[(2.3, 0.1, 2.4, 0.1)] * 3],
}


@pytest.mark.parametrize("name", QUIET)
def test_what_is_no_gap_is_quiet(name: str) -> None:
    """The last evaluation included."""
    assert seen(QUIET[name], last=True) == []


def test_running_statistics_that_lag_in_early_training_are_quiet() -> None:
    """Evaluations within the first 2 * history steps say nothing yet."""
    detector = Detector(CONFIG, 10)
    early = [EvaluationSignals(step, 5.0, 0.1, 1.0, 0.6) for step in (20, 40, 60)]
    assert [detector.update_evaluation(e) for e in early] == [None] * 3


def test_the_training_level_is_that_of_the_steps_before() -> None:
    """Without a level the detector takes its own: `update` and `update_evaluation` are all that a loop calls."""
    detector = Detector(CONFIG, 10)
    for step in range(200):
        assert detector.update(StepSignals(step, 0.5, top1=0.85)) is None
    assert detector.update_evaluation(EvaluationSignals(200, 7.0, 0.1)) is None
    symptom = detector.update_evaluation(EvaluationSignals(300, 7.0, 0.1))
    assert symptom is not None
    assert symptom.baseline.level == pytest.approx(0.5)


def test_unknown_classes_are_judged_by_top1() -> None:
    """No chance level, the same gap."""
    bad: Scores = (0.5, 0.85, 9.0, 0.02)
    assert [s.onset for s in seen([*START, bad, bad], None)] == [400]
    assert seen([*START, bad, HEALTHY], None) == []


@pytest.mark.parametrize("at", range(5))
def test_save_and_restore_through_json_change_no_decision(at: int) -> None:
    """Between two bad evaluations too."""
    rows = evaluations([*START, BAD["half of the skill lost"], BAD["loss not a number"]])
    whole, before, after = (Detector(CONFIG, 10) for _ in range(3))
    expected = [whole.update_evaluation(row) for row in rows]
    first = [before.update_evaluation(row) for row in rows[:at]]
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert first + [after.update_evaluation(row) for row in rows[at:]] == expected
    assert any(expected)


def test_disabled_sees_nothing() -> None:
    """`enabled: false` trains on whatever happens."""
    detector = Detector(DetectorConfig(enabled=False), 10)
    rows = evaluations([*START, BAD["loss not a number"], BAD["loss not a number"]])
    assert [detector.update_evaluation(row) for row in rows] == [None] * 5
