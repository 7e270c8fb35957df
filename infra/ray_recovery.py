"""Which trials Tune takes up again by itself: those that are not over, though their process is.

A trial of several workers has a driver on the head, which sees to it (ray_lost). One of a single worker is the very
process that goes with a lost node, so Tune has to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import ActorUnavailableError, RayActorError
from ray.tune import Callback
from ray.tune.experiment import Trial

from infra.notice import told_to_stop
from infra.ray_events import is_interrupted, raised_by
from infra.ray_lost import known_nodes


class Recovery(Callback):
    """Knows which nodes there were when a trial started."""

    def __init__(self) -> None:
        self._before: dict[str, dict[str, bool]] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take note of the nodes."""
        del iteration, trials, info
        self._before[trial.trial_id] = known_nodes()

    def goes_on(self, trial: Any) -> bool:
        """Whether a trial whose process has ended in an error is to go on from its last checkpoint.

        So it is where its node is lost, and where it was told to stop: by a notice, on a cluster of several nodes, or
        by its sweep, which then leaves it to a later one. What its own code raised, and a process that the kernel
        killed, are its end.
        """
        nodes = known_nodes()
        if is_interrupted(trial):
            return told_to_stop() or len(nodes) > 1
        error = raised_by(trial)
        if isinstance(error, ActorUnavailableError):
            # The connection is broken, and nobody knows of a process that has ended.
            return len(nodes) > 1
        before = self._before.get(trial.trial_id, {})
        return isinstance(error, RayActorError) and any(
            is_lost and not before.get(node, False) for node, is_lost in nodes.items()
        )


@contextmanager
def taking_up(goes_on: Callable[[Any], bool]) -> Iterator[None]:
    """Have Tune take up the trials that `goes_on` says, besides those of its own FailureConfig.

    Tune has no such choice: `max_failures` counts all failures alike, or none.
    """
    tunes: Callable[[Trial], Any] = Trial.should_recover

    def should_recover(trial: Trial) -> bool:
        return bool(tunes(trial)) or goes_on(trial)

    Trial.should_recover = should_recover  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trial.should_recover = tunes  # type: ignore[method-assign]
