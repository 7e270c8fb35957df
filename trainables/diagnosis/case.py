"""One diagnosis under way: what its replays share."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from trainables.config import TrialConfig
from trainables.detectors import Symptom
from trainables.diagnosis.causes import Ingredient
from trainables.diagnosis.replay import Replay, Replayer, Severity
from trainables.diagnosis.swap_table import SwapResult, Thresholds
from trainables.ingredients import Stream, Swap
from trainables.recipe import Recipe
from trainables.state import Snapshot, TrainState

log = logging.getLogger(__name__)

Progress = Callable[[str], None]


class BudgetSpentError(Exception):
    """The steps or seconds of a diagnosis are used up."""


@dataclass
class Case:
    """Everything that the replays of one diagnosis share."""

    config: TrialConfig
    recipe: Recipe
    state: TrainState
    stream: Stream
    symptom: Symptom
    replayer: Replayer
    severity: Severity
    thresholds: Thresholds
    progress: Progress
    snapshot: Snapshot
    stop: int
    known: dict[Ingredient, int] = field(default_factory=dict)
    """Ingredients that are known not to be the recipe's, and since when; the pixels are not looked at beforehand."""
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    table: list[SwapResult] = field(default_factory=list)
    """What was learned so far."""
    replays: dict[tuple[object, ...], Replay] = field(default_factory=dict)
    """By snapshot, end, swaps and placebo: the same question is never replayed twice."""
    update_ratio: float = math.nan
    """Norm of the first step's update over that of the weights, where a whole run is replayed."""
    started: float = field(default_factory=time.monotonic)

    def score(self, label: str, swaps: list[Swap], *, placebo: int | None = None, keep: bool = False) -> float:
        """Severity of one replay from the case's snapshot."""
        severity = self.severity(self.replay(label, swaps, placebo=placebo, keep=keep))
        log.info("replay %s: severity %.2f", label, severity)
        return severity

    def replay(self, label: str, swaps: list[Swap], *, placebo: int | None = None, keep: bool = False) -> Replay:
        """One replay from the case's snapshot; its curve is kept for the report where asked.

        Raises BudgetSpentError where it might pass the budget.
        """
        key = self.key(swaps, placebo)
        if key not in self.replays:
            if not self.affords(1):
                raise BudgetSpentError
            self.progress(label)
            self.replays[key] = self._run(swaps, placebo)
        replay = self.replays[key]
        if keep and (curve := replay.curve()):
            self.curves[label] = curve
        return replay

    def key(self, swaps: list[Swap], placebo: int | None) -> tuple[object, ...]:
        """What a replay is told apart by: a swap's name says all of it."""
        return self.snapshot.step, self.stop, frozenset(swap.name for swap in swaps), placebo

    @contextmanager
    def until(self, stop: int) -> Iterator[None]:
        """Let replays end at another step, for a while."""
        before, self.stop = self.stop, stop
        try:
            yield
        finally:
            self.stop = before

    def affords(self, replays: int) -> bool:
        """Whether so many replays from the case's snapshot are within the budget; the same answer on every rank."""
        budget, ranks = self.config.diagnosis, self.state.ranks
        steps = self.replayer.steps + replays * (self.stop - self.snapshot.step)
        seconds = ranks.total(time.monotonic() - self.started) / ranks.world_size
        return steps <= budget.max_replayed_steps and seconds <= budget.max_seconds

    def _run(self, swaps: list[Swap], placebo: int | None) -> Replay:
        """An input does not depend on the weights: a shift of it needs no training but in the exact control."""
        if self.symptom.kind == "input_shift" and (swaps or placebo is not None):
            return self.replayer.observe(self.snapshot, self.stop, swaps, placebo=placebo)
        return self.replayer.run(self.snapshot, self.stop, swaps, placebo=placebo, settled=self.severity.settled)
