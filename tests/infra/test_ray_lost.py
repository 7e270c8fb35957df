"""A worker group that lost a node is told from one whose own work failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from infra.notice import InterruptedTrialError
from infra.ray_lost import lost_nodes, may_come_of_a_lost_node
from trainables.errors import DataError

ALIVE = {"head": False, "a": False, "b": False}
LOST_B = ALIVE | {"b": True}


def raised(error: Exception) -> Exception:
    """As it arrives from the worker whose code raised it."""
    wrapped: Exception = UserExceptionWithTraceback(error, traceback_str="")
    return wrapped


BROKEN = raised(RuntimeError("Connection closed by peer"))


def answers(*states: dict[str, bool]) -> Callable[[], dict[str, bool]]:
    """What Ray knows, look by look; the last goes on."""
    rest: Iterator[dict[str, bool]] = iter(states[:-1])
    return lambda: next(rest, states[-1])


def test_node_that_ray_has_yet_to_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The survivors' broken connection comes before Ray knows of the node: it is waited for."""
    monkeypatch.setattr("infra.ray_lost.POLL_S", 0.001)
    assert lost_nodes([BROKEN], ALIVE, known=answers(ALIVE, ALIVE, LOST_B)) == {"b"}


def test_nodes_that_came_after_the_start_count() -> None:
    """A node that the autoscaler started for this very trial is as lost as any."""
    assert lost_nodes([BROKEN], {"head": False}, known=answers(LOST_B)) == {"b"}


def test_nodes_lost_before_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that was gone when the group started did not break it."""
    monkeypatch.setattr("infra.ray_lost.POLL_S", 0.001)
    assert lost_nodes([BROKEN], LOST_B, known=answers(LOST_B), wait_s=0.01) == frozenset()


@pytest.mark.parametrize("failure", [DataError("data.path: no such folder"), ZeroDivisionError(), KeyError("x")])
def test_own_failures_are_not_waited_for(failure: Exception) -> None:
    """What no peer can cause is raised at once, even if a node goes just then."""
    assert lost_nodes([BROKEN, raised(failure)], ALIVE, known=answers(LOST_B)) == frozenset()
    assert lost_nodes([raised(failure)], ALIVE, known=answers(ALIVE), wait_s=1e9) == frozenset()


def test_one_machine_is_not_waited_for() -> None:
    """Where Ray has only this node there is nothing to lose but oneself."""
    assert lost_nodes([BROKEN], {"head": False}, known=answers({"head": False}), wait_s=1e9) == frozenset()


def test_what_a_lost_node_can_cause() -> None:
    """Its worker's death, the others' broken collectives, and the notice before its end."""
    assert all(
        map(may_come_of_a_lost_node, (RayActorError(), BROKEN, InterruptedTrialError("told"), ConnectionError()))
    )
