"""What happened to each trial, out of Tune's callbacks."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from infra.ray_events import Outcomes, TrialOutcome, describe_error
from trainables.errors import DataError


class FakeTrial:
    """The part of a Tune trial that the callback reads."""

    def __init__(self, trial_id: str, error: BaseException | None = None, folder: Path | None = None) -> None:
        self.trial_id = trial_id
        self.config = {"optim.lr": 0.1}
        self.status = "TERMINATED"
        self.last_result: dict[str, Any] = {}
        self.storage = folder
        self.pickled_error_file = None
        if error is not None and folder is not None:
            self.pickled_error_file = str(folder / "error.pkl")
            Path(self.pickled_error_file).write_bytes(pickle.dumps(error))

    def is_finished(self) -> bool:
        """As Tune has it."""
        return self.status in ("TERMINATED", "ERROR")


class Deaf:
    """A listener that can't be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def trial_known(self, outcome: TrialOutcome) -> None:
        """Nothing."""

    def trial_started(self, outcome: TrialOutcome) -> None:
        """Nothing."""

    def trial_reported(self, outcome: TrialOutcome, losses: Iterable[float]) -> None:
        """Nothing."""

    def trial_ended(self, outcome: TrialOutcome) -> None:
        """Nothing."""


class Wrapped(Exception):  # noqa: N818 - stands for Ray's wrappers
    """An exception with the original inside, as Ray's are."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("Traceback (most recent call last):\n  File ...")
        self.cause = cause


@pytest.mark.parametrize(
    ("phase", "status"),
    [("finished", "finished"), ("stopped", "stopped"), ("training", "pruned"), ("diagnosing", "stopped")],
)
def test_status_follows_the_last_phase(phase: str, status: str) -> None:
    """A trial that ended in training was ended by the scheduler; one that ended over its diagnosis, by the stopper."""
    outcomes, trial = Outcomes(), FakeTrial("a")
    outcomes.on_trial_result(1, [], trial, {"phase": phase, "step": 3, "history": [{"step": 2}]})
    outcomes.on_trial_complete(1, [], trial)
    assert outcomes.trials["a"].status == status
    assert "history" not in outcomes.trials["a"].row


def test_trial_that_never_ended_is_interrupted() -> None:
    """Ctrl-C leaves trials without an end, some without a row: interrupted, as are those that never began."""
    outcomes, starting, running, waiting = Outcomes(), FakeTrial("a"), FakeTrial("b"), FakeTrial("c")
    waiting.status, staged = "PENDING", FakeTrial("d")
    outcomes.on_trial_start(1, [], starting)
    outcomes.on_trial_start(1, [], running)
    outcomes.on_trial_result(1, [], running, {"phase": "training", "step": 3})
    outcomes.on_experiment_end([starting, running, waiting, staged])
    assert {trial_id: outcome.status for trial_id, outcome in outcomes.trials.items()} == {
        "a": "interrupted",
        "b": "interrupted",
        "c": "interrupted",
        "d": "interrupted",
    }


def test_trial_that_ended_before_a_restore_keeps_its_end() -> None:
    """A restored sweep lists the trials that were over before, in Tune's order."""
    outcomes, before, pruned, now = Outcomes(), FakeTrial("a"), FakeTrial("p"), FakeTrial("b")
    before.last_result = {"phase": "finished", "step": 9}
    pruned.last_result = {"phase": "training", "step": 3}
    outcomes.on_trial_result(1, [], now, {"phase": "finished", "step": 9})
    outcomes.on_trial_complete(1, [], now)
    outcomes.on_experiment_end([before, pruned, now])
    assert [(outcome.trial_id, outcome.status) for outcome in outcomes.trials.values()] == [
        ("a", "finished"),
        ("p", "pruned"),
        ("b", "finished"),
    ]


def test_failure_is_one_line(tmp_path: Path) -> None:
    """A trial that raised is failed, with type and first line of what it raised, whatever Ray wrapped around it."""
    outcomes, trial = Outcomes(), FakeTrial("a", RuntimeError("boom\nat line 2"), tmp_path)
    outcomes.on_trial_error(1, [], trial)
    assert outcomes.trials["a"] == TrialOutcome("a", {"optim.lr": 0.1}, "failed", {}, "RuntimeError: boom")


def test_process_that_died_is_said_so() -> None:
    """Where no exception was left, the line says that the process ended."""
    outcomes = Outcomes()
    outcomes.on_trial_error(1, [], FakeTrial("a"))
    assert outcomes.trials["a"].error == "the trial's process ended without a word"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Wrapped(ValueError("bad\nworse")), "ValueError: bad"),
        (Wrapped(Wrapped(KeyError("x"))), "KeyError: 'x'"),
        (DataError("data.path: 'x' is not allowed; remedy: y"), "data.path: 'x' is not allowed; remedy: y"),
        (RuntimeError(), "RuntimeError"),
        (
            RuntimeError("Traceback (most recent call last):\n  File ...\nKeyError: 'a'\n"),
            "RuntimeError: KeyError: 'a'",
        ),
    ],
)
def test_describe_error(error: BaseException, line: str) -> None:
    """The innermost exception speaks; our own errors are whole lines already."""
    assert describe_error(error) == line


def test_listener_hears_rows_and_ends() -> None:
    """Trials of before a restore, starts, rows and ends reach it, rows before the scheduler can end a trial."""
    heard: list[str] = []

    class Ear:
        def trial_known(self, outcome: TrialOutcome) -> None:
            heard.append(f"known {outcome.trial_id} {outcome.status}")

        def trial_started(self, outcome: TrialOutcome) -> None:
            heard.append(f"started after step {outcome.row.get('step', 0)}")

        def trial_reported(self, outcome: TrialOutcome, losses: Iterable[float]) -> None:
            heard.append(f"row {outcome.row['step']} {list(losses)}")

        def trial_ended(self, outcome: TrialOutcome) -> None:
            heard.append(outcome.status)

    outcomes, before, trial = Outcomes(Ear()), FakeTrial("b"), FakeTrial("a")
    before.last_result = {"phase": "finished", "step": 6}
    trial.status, trial.last_result = "PENDING", {"phase": "training", "step": 2}
    for iteration in (1, 2):
        outcomes.on_step_begin(iteration, [before, trial])
    outcomes.on_trial_start(1, [], trial)
    outcomes.on_trial_result(1, [], trial, {"phase": "training", "step": 3, "history": [{"step": 2, "loss": 0.5}]})
    outcomes.on_trial_result(2, [], trial, {"phase": "finished", "step": 6})
    outcomes.on_trial_complete(2, [], trial)
    assert heard == ["known b finished", "started after step 2", "row 3 [0.5]", "row 6 []", "finished"]


def test_what_tune_keeps_has_no_listener() -> None:
    """Tune pickles its callbacks, and a display has a thread and a lock."""
    outcomes = Outcomes(Deaf())
    outcomes.on_trial_start(1, [], FakeTrial("a"))
    assert pickle.loads(pickle.dumps(outcomes)).trials.keys() == {"a"}  # noqa: S301 - our own
