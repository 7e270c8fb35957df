"""Ctrl-C while Tune runs, before and after."""

from __future__ import annotations

import pickle
import signal

import pytest

from infra.ray_interrupt import FirstInterrupt, interrupts


def test_first_interrupt_is_tunes_and_the_second_the_callers() -> None:
    """The first one is told of and stops Tune, the next one is the caller's; afterwards all is as before."""
    heard: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with interrupts(lambda: heard.append("first"), lambda: heard.append("second")) as callback:
        callers = signal.getsignal(signal.SIGINT)

        def tunes(_number: int, _frame: object) -> None:
            heard.append("Tune")
            signal.signal(signal.SIGINT, callers)

        signal.signal(signal.SIGINT, tunes)
        callback.setup()
        signal.raise_signal(signal.SIGINT)
        assert heard == ["first", "Tune"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert heard == ["first", "Tune", "second"]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_while_tune_does_not_run() -> None:
    """It is what it always is, and no second one."""
    heard: list[str] = []
    with (
        interrupts(lambda: heard.append("first"), lambda: heard.append("second")),
        pytest.raises(KeyboardInterrupt),
    ):
        signal.raise_signal(signal.SIGINT)
    assert heard == []


def test_what_tune_keeps_has_no_handler() -> None:
    """Tune pickles its callbacks."""
    callback = FirstInterrupt(lambda: None)
    assert not pickle.loads(pickle.dumps(callback)).told  # noqa: S301 - our own
