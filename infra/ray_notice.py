"""A sweep's word to its trials to end, wherever they run: kept by the head of its Ray, and looked up by each trial.

SIGTERM (infra.notice) reaches one process, on one machine; this reaches all of a sweep's.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

from infra.notice import told_to_stop

NAMESPACE = "epoch14"
LOOK_EVERY_S = 1.0
"""Time between two looks, a millisecond each."""


@dataclass(frozen=True)
class StopWord:
    """Of one process's work on a sweep: whoever goes on with the sweep has another."""

    key: str = field(default_factory=lambda: f"stop-{secrets.token_hex(8)}")

    def say(self) -> None:
        """Tell every trial that it is to end at its next step, with a checkpoint."""
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(self.key, b"stop", namespace=NAMESPACE)

    def is_said(self) -> bool:
        """Whether the trials were told; False too where the head does not answer."""
        from ray.exceptions import RayError
        from ray.experimental.internal_kv import _internal_kv_exists

        try:
            return bool(_internal_kv_exists(self.key, namespace=NAMESPACE))
        except RayError:
            return False


class Notice:
    """Asked before each step: whether this trial was told to stop, by a SIGTERM or by its sweep."""

    def __init__(self, word: StopWord) -> None:
        self._word = word
        self._next_look = time.monotonic()
        self._is_said = False

    def __call__(self) -> bool:
        """Look at the word where the last look is old."""
        now = time.monotonic()
        if not self._is_said and now >= self._next_look:
            self._next_look = now + LOOK_EVERY_S
            self._is_said = self._word.is_said()
        return self._is_said or told_to_stop()
