"""Which trials Tune takes up again: Tune's own trials, given the errors that Ray passes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError
from ray.tune.experiment import Trial

from infra.notice import InterruptedTrialError, listening, tell
from infra.ray_recovery import Recovery, taking_up
from trainables.errors import DataError

HERE = {"head": False}
BEFORE = HERE | {"a": False, "old": True}
LOST_A = BEFORE | {"a": True}
DIED = ActorDiedError()
UNREACHABLE = ActorUnavailableError("no connection", None)


class TrialIn(Trial):
    """A trial of Tune's with a folder, which it would have from a session of Ray's."""

    def __init__(self, folder: Path) -> None:
        super().__init__("run_trial", stub=True)
        self.folder = folder
        self.storage: Any = folder

    @property
    def local_path(self) -> str:
        """Where it keeps what it raised."""
        return str(self.folder)


def raised(error: Exception) -> RayError:
    """As it arrives from the process whose code raised it."""
    return RayTaskError("train", "traceback", error)


TOLD, BROKEN = raised(InterruptedTrialError("at step 3")), raised(DataError("data.path: no such folder"))


def recovers(
    error: RayError, before: dict[str, bool], now: dict[str, bool], folder: Path, patch: pytest.MonkeyPatch
) -> bool:
    """Whether Tune takes up a trial that started with nodes `before`, and raised `error` with nodes `now`."""
    recovery = Recovery()
    trial: Any = TrialIn(folder)
    patch.setattr("infra.ray_recovery.known_nodes", lambda: before)
    recovery.on_trial_start(0, [trial], trial)
    patch.setattr("infra.ray_recovery.known_nodes", lambda: now)
    with taking_up(recovery.goes_on):
        trial.handle_error(error)
        taken = bool(trial.should_recover())
    assert not trial.should_recover()
    return taken


@pytest.mark.parametrize(
    ("error", "before", "now", "expected"),
    [
        pytest.param(DIED, BEFORE, LOST_A, True, id="its node is lost"),
        pytest.param(DIED, HERE, LOST_A, True, id="its node came for it and is lost"),
        pytest.param(DIED, BEFORE, BEFORE, False, id="its process was killed"),
        pytest.param(DIED, LOST_A, LOST_A, False, id="its process was killed after a node was lost"),
        pytest.param(UNREACHABLE, BEFORE, BEFORE, True, id="its node is about to be lost"),
        pytest.param(UNREACHABLE, HERE, HERE, False, id="there is one machine"),
        pytest.param(TOLD, BEFORE, BEFORE, True, id="its node has got a notice"),
        pytest.param(TOLD, HERE, HERE, False, id="the one machine has got a notice"),
        pytest.param(BROKEN, BEFORE, LOST_A, False, id="its own code raised"),
    ],
)
def test_what_is_taken_up(
    error: RayError,
    before: dict[str, bool],
    now: dict[str, bool],
    expected: bool,  # noqa: FBT001 - a table
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A trial goes on elsewhere where its node went, and ends where it failed by itself."""
    assert recovers(error, before, now, tmp_path, monkeypatch) == expected


def test_a_sweep_that_stops_keeps_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the sweep itself told its trials to end, Tune keeps them as unfinished, for the sweep that goes on."""
    with listening():
        tell()
        assert recovers(TOLD, HERE, HERE, tmp_path, monkeypatch)
