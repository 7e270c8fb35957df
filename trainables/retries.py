"""Requests to an object store that are worth another try, and for how long they are tried.

The file system repeats a request S3_ATTEMPTS times itself, within two seconds, or ten where the server is silent. A
store that throttles (503 SlowDown) needs longer than that to come back; credentials that have expired never do.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pyarrow import ArrowInvalid, ArrowNotImplementedError

from trainables.places import FAILURES

T = TypeVar("T")
P = ParamSpec("P")

PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Between tries, each up to a half shorter by chance: those who were throttled together come back apart."""
PATIENCE_S = 30.0
"""No try begins later: with a silent server the whole takes about 40 s, with one that answers about 20."""
FINAL = (
    "ACCESS_DENIED",
    "NO_SUCH_BUCKET",
    "ExpiredToken",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    *(f"HTTP status {status}" for status in (301, 400, 401, 403, 404, 405, 412, 501)),
)
"""In what a store says where another try would hear the same."""
OPENING = (*FINAL, "NETWORK_CONNECTION")
"""When a place is opened the network has not yet worked either: a wrong address should be told soon."""


def patiently(
    work: Callable[[], T], *, final: tuple[str, ...] = FINAL, sleep: Callable[[float], None] = time.sleep
) -> T:
    """Result of `work`, which is called again while the place fails in a way that may pass.

    Args:
        work: may be called several times; raises one of FAILURES.
        final: what a message has in it that will not pass.
        sleep: waits so many seconds, or raises to end the matter.

    """
    started = time.monotonic()
    for pause in PAUSES_S:
        try:
            return work()
        except FAILURES as error:
            wait_s = pause * secrets.SystemRandom().uniform(0.5, 1.0)
            if not _may_pass(error, final) or time.monotonic() + wait_s > started + PATIENCE_S:
                raise
            sleep(wait_s)
    return work()


def patient(final: tuple[str, ...] = FINAL) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A function or method that is called `patiently`."""

    def decorate(work: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(work)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return patiently(lambda: work(*args, **kwargs), final=final)

        return call

    return decorate


def _may_pass(error: BaseException, final: tuple[str, ...]) -> bool:
    """Whether another try may hear otherwise; what has an errno is a file system's word, which is its last."""
    if isinstance(error, (MemoryError, ArrowInvalid, ArrowNotImplementedError)):
        return False
    if isinstance(error, OSError) and error.errno is not None:
        return False
    return not isinstance(error, FileNotFoundError) and not any(mark in str(error) for mark in final)
