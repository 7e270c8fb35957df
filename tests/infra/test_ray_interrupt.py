"""Ctrl-C while Tune runs, before and after."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from infra.notice import listening, told_to_stop
from infra.ray_interrupt import FirstInterrupt, interrupts

Heard = list[str]


@dataclass
class Trial:
    """As Tune shows one to callbacks."""

    trial_id: str
    status: str = "RUNNING"


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What was called; nobody is told of a Ctrl-C afterwards."""
    with listening():
        yield []


def as_in_tune(callback: FirstInterrupt, heard: Heard) -> None:
    """Set it up as Tune does, beside a handler of its own, which puts back the one of before."""
    callers = signal.getsignal(signal.SIGINT)

    def tunes(_number: int, _frame: object) -> None:
        heard.append("Tune")
        signal.signal(signal.SIGINT, callers)

    signal.signal(signal.SIGINT, tunes)
    callback.setup()


def test_the_trials_end_first_and_then_tune(heard: Heard) -> None:
    """A first Ctrl-C tells the trials; Tune has it when those that ran have ended, though another one runs by then."""
    before = signal.getsignal(signal.SIGINT)
    with interrupts(*(lambda one=one: heard.append(one) for one in ("show", "second", "tell"))) as callback:
        as_in_tune(callback, heard)
        trials = [Trial("a"), Trial("b"), Trial("c", "PENDING")]
        callback.on_step_end(0, trials)
        assert (heard, told_to_stop()) == ([], False)
        signal.raise_signal(signal.SIGINT)
        assert (heard, told_to_stop()) == (["show"], True)
        callback.on_step_end(1, trials)
        trials[0].status, trials[2].status = "PENDING", "RUNNING"
        callback.on_step_end(2, trials)
        assert heard == ["show", "tell"]
        trials[0].status, trials[1].status = "RUNNING", "ERROR"
        callback.on_step_end(3, trials)
        callback.on_step_end(4, trials)
        assert heard == ["show", "tell", "Tune"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert heard == ["show", "tell", "Tune", "second"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_trial_that_does_not_end_is_left(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step, or a diagnosis, that outlasts the time of grace does not hold Tune, nor a second Ctrl-C."""
    monkeypatch.setattr("infra.ray_interrupt.GRACE_S", 0.0)
    with interrupts(*(lambda one=one: heard.append(one) for one in ("show", "second", "tell"))) as callback:
        as_in_tune(callback, heard)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        callback.on_step_end(0, [Trial("a")])
    assert heard == ["show", "second", "tell", "Tune"]


def test_an_interrupt_while_tune_does_not_run(heard: Heard) -> None:
    """It is what it always is, and no second one."""
    with (
        interrupts(*(lambda one=one: heard.append(one) for one in ("show", "second", "tell"))),
        pytest.raises(KeyboardInterrupt),
    ):
        signal.raise_signal(signal.SIGINT)
    assert heard == []


def test_what_tune_keeps_has_no_handler(heard: Heard) -> None:
    """Tune pickles its callbacks."""
    callback = FirstInterrupt(lambda: heard.append("show"), lambda: heard.append("tell"))
    assert not pickle.loads(pickle.dumps(callback)).told  # noqa: S301 - our own
