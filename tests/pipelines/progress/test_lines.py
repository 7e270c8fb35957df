"""Lines of progress: one a report, one a trial's end, and an estimate of the time left."""

from __future__ import annotations

from typing import Any

import pytest

from infra.ray_events import TrialOutcome, TrialStatus
from pipelines.progress.display import Display
from pipelines.progress.state import SweepState


class Screen:
    """A display without a table over two trials of 20 steps, and the lines that it wrote. A question takes a second."""

    def __init__(self, *, table: bool = False) -> None:
        self.lines: list[str] = []
        self.now = 0.0
        state = SweepState(2, steps=lambda _: 20, name=lambda point: f"lr{point['optim.lr']}", clock=self.clock)
        self.display = Display(state, self.lines.append, lambda: "MLflow: here", table=table)

    def clock(self) -> float:
        """Seconds."""
        self.now += 1
        return self.now

    def report(self, trial_id: str, **row: Any) -> str:
        """The line after a row, or nothing."""
        before = len(self.lines)
        self.display.trial_reported(TrialOutcome(trial_id, {"optim.lr": 0.1}, row=row), [1.0])
        return "\n".join(self.lines[before:])

    def end(self, trial_id: str, status: TrialStatus, error: str = "", **row: Any) -> str:
        """The line after a trial's end, or nothing."""
        before = len(self.lines)
        self.display.trial_ended(TrialOutcome(trial_id, {"optim.lr": 0.2}, status, row, error))
        return "\n".join(self.lines[before:])


def test_report_line() -> None:
    """A report says which trial of how many, its name, step, loss, accuracy, speed, and the time that is left."""
    screen = Screen()
    row = {"phase": "training", "loss": 1.23456, "val_top1": 0.5, "images_per_s": 33.3}
    line = screen.report("a", step=5, **row)
    assert line == "trial 1/2 lr0.1: step 5/20, loss 1.235, val top-1 50.0 %, 33 images/s"
    line = screen.report("a", step=10, **row)
    assert line.startswith("trial 1/2 lr0.1: step 10/20, loss 1.235, val top-1 50.0 %, 33 images/s; about ")
    assert line.endswith(" left")


def test_diagnosis_is_reported() -> None:
    """While a trial diagnoses, its line says of what, and which replay runs."""
    line = Screen().report("a", phase="diagnosing", step=10, symptom="spike", replay="other samples")
    assert line == "trial 1/2 lr0.1: step 10/20, diagnosing: spike, replay: other samples"


def test_accuracy_waits_for_an_evaluation() -> None:
    """Before the first evaluation no accuracy is shown."""
    assert "val top-1" not in Screen().report("a", phase="training", step=10, loss=1.0, val_top1=0.0)


@pytest.mark.parametrize("phase", ["finished", "stopped"])
def test_last_row_is_left_to_the_end(phase: str) -> None:
    """The last row is followed by the trial's end, which says more."""
    assert Screen().report("a", phase=phase, step=20) == ""


@pytest.mark.parametrize(
    ("status", "row", "says"),
    [
        ("finished", {"step": 20, "best_val_top1": 0.875}, "finished at step 20, best val top-1 87.5 %"),
        ("pruned", {"step": 10, "best_val_top1": 0.1}, "pruned at step 10, best val top-1 10.0 %"),
        ("stopped", {"step": 12, "symptom": "spike"}, "stopped at step 12, symptom: spike, no diagnosis"),
        (
            "stopped",
            {"step": 12, "symptom": "spike", "diagnosis": {"cause": "lr_jump"}},
            "stopped at step 12, symptom: spike, cause: lr_jump",
        ),
    ],
)
def test_end_line(status: TrialStatus, row: dict[str, Any], says: str) -> None:
    """A trial's end says how it ended."""
    assert Screen().end("a", status, **row) == f"trial 1/2 lr0.2: {says}"


@pytest.mark.parametrize("table", [False, True])
def test_failure_line(table: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A failed trial's line carries its error, beside a table too, where nothing else is a line."""
    screen = Screen(table=table)
    assert screen.end("a", "failed", error="RuntimeError: boom") == "trial 1/2 lr0.2: failed: RuntimeError: boom"
    assert bool(screen.report("b", phase="training", step=1)) != table


def test_first_trial_says_where_the_records_are() -> None:
    """The sweep's run is there when its first trial begins."""
    screen = Screen()
    for trial_id in ("a", "b"):
        screen.display.trial_started(TrialOutcome(trial_id, {"optim.lr": 0.1}))
    assert screen.lines == ["MLflow: here"]


def test_no_estimate_before_the_first_step_and_after_the_last() -> None:
    """Where nothing is done, or nothing left, there is no estimate."""
    screen = Screen()
    assert "left" not in screen.report("a", phase="training", step=0)
    assert "left" in screen.end("a", "finished", step=20)
    assert "left" not in screen.end("b", "finished", step=20)


def test_trials_keep_their_numbers() -> None:
    """Trials are numbered in the order in which they are heard of."""
    screen = Screen()
    screen.report("a", phase="training", step=5)
    assert screen.report("b", phase="training", step=5).startswith("trial 2/2")
    assert screen.report("a", phase="training", step=9).startswith("trial 1/2")
