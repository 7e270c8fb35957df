"""What an evaluation shows of itself: another input than before, and running statistics that lose skill."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from trainables.config import DetectorConfig
from trainables.detectors import Detector, EvaluationSignals, Symptom

CONFIG = DetectorConfig()
MOMENTS = (0.0, 0.1, 0.2, 1.0, 1.0, 1.0)
SWAPPED = (0.2, 0.1, 0.0, 1.0, 1.0, 1.0)
FIRST = 2 * CONFIG.history
"""Step from which running statistics are judged."""


def evaluated(step: int, lost: float = 0.0, moments: tuple[float, ...] = MOMENTS) -> EvaluationSignals:
    """A good evaluation but for what running statistics lose of a batch's 0.82, and for its input."""
    scores = EvaluationSignals(step, val_loss=0.6, val_top1=0.8, train_loss=0.5, train_top1=0.85)
    noise = math.sqrt(abs(lost) / 256)
    return replace(scores, input_moments=moments, batch_top1=0.82, lost=lost, lost_noise=noise)


def seen(rows: list[EvaluationSignals], detector: Detector | None = None) -> list[Symptom]:
    """What the detector says to them."""
    detector = detector or Detector(CONFIG, 10)
    return [symptom for row in rows if (symptom := detector.update_evaluation(row))]


def test_another_input_of_the_same_images_is_seen_at_the_second_evaluation() -> None:
    """However little it costs, and however early; the onset is the first of them."""
    rows = [evaluated(10), evaluated(20), evaluated(30, moments=SWAPPED), evaluated(40, moments=SWAPPED)]
    (symptom,) = seen(rows)
    assert (symptom.kind, symptom.onset, symptom.step) == ("eval_gap", 30, 40)
    assert symptom.of_input
    assert symptom.severity == pytest.approx(20.0)
    assert "0.20+-1.00, 0.10+-1.00, 0.00+-1.00 where they were 0.00+-1.00" in symptom.detail


@pytest.mark.parametrize("moments", [(*MOMENTS[:5], 1.05), (), (0.0, 1.0)])
def test_an_input_that_is_nearly_the_same_or_unknown_is_quiet(moments: tuple[float, ...]) -> None:
    """An image that no longer decodes moves the moments a little."""
    assert seen([evaluated(100), *(evaluated(step, moments=moments) for step in (200, 300))]) == []


def test_an_input_that_is_not_finite_is_seen() -> None:
    """It has no distance."""
    bad = (math.nan, *MOMENTS[1:])
    assert [s.step for s in seen([evaluated(100), evaluated(200, moments=bad), evaluated(300, moments=bad)])] == [300]


def test_a_scheduled_change_of_the_input_is_none() -> None:
    """From that step on the images have another size, and other moments."""
    from trainables.step_signals import StepSignals

    detector = Detector(CONFIG, 10, scheduled_changes=(150,))
    assert seen([evaluated(100)], detector) == []
    assert detector.update(StepSignals(150, 0.5)) is None
    assert seen([evaluated(200, moments=SWAPPED), evaluated(300, moments=SWAPPED)], detector) == []


def test_statistics_that_lose_skill_again_and_again_are_seen() -> None:
    """The mean of four counts."""
    rows = [evaluated(FIRST + 20 * k, lost) for k, lost in enumerate((0.0, 0.0, 0.08, 0.2, 0.1))]
    symptom = seen(rows)[0]
    assert (symptom.kind, symptom.step, symptom.of_input) == ("eval_gap", FIRST + 80, False)
    assert "running statistics lose 0%, 11%, 28%, 14% of the skill that a batch's own give" in symptom.detail


@pytest.mark.parametrize(
    "lost",
    [
        *([0.14, 0.0, 0.14, 0.0] * 2, [0.08] * 6, [0.2, 0.2, 0.01, 0.01, 0.0]),
        *([0.0, 0.0, 0.8, 0.0, 0.0], [-0.4] * 6, [math.nan] * 6),
    ],
    ids=["every other", "a little", "at first", "all at once", "gained", "unknown"],
)
def test_what_a_sound_run_loses_is_quiet(lost: list[float]) -> None:
    """At a small batch, and after a change, the running statistics follow single batches a little."""
    assert seen([evaluated(FIRST + 20 * k, value) for k, value in enumerate(lost)]) == []


def test_what_chance_may_lose_is_quiet() -> None:
    """Of a small val/ a few samples are an eighth of the skill."""
    rows = [replace(evaluated(FIRST + 20 * k, 0.15), lost_noise=0.12) for k in range(6)]
    assert seen(rows) == []


def test_statistics_that_still_follow_the_first_steps_are_quiet() -> None:
    """And a model that has learned nothing has nothing to lose."""
    assert seen([evaluated(step, 0.4) for step in range(10, FIRST, 10)]) == []
    assert seen([replace(evaluated(FIRST + 20 * k, 0.1), batch_top1=0.2) for k in range(6)]) == []


@pytest.mark.parametrize("at", range(6))
def test_save_and_restore_through_json_change_no_decision(at: int) -> None:
    """What the last evaluations lost, and the moments of the last good one, are kept."""
    rows = [evaluated(FIRST + 20 * k, 0.15) for k in range(4)] + [evaluated(FIRST + 80, 0.0, SWAPPED)]
    whole, before, after = (Detector(CONFIG, 10) for _ in range(3))
    expected = [whole.update_evaluation(row) for row in rows]
    first = [before.update_evaluation(row) for row in rows[:at]]
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert first + [after.update_evaluation(row) for row in rows[at:]] == expected
    assert expected[3] is not None
