"""Run a stretch of the user's loop again with some ingredients swapped, and say how bad it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from trainables.baseline import NON_FINITE_SCORE
from trainables.config import DetectorConfig
from trainables.detectors import Symptom
from trainables.guard.history import History
from trainables.guard.state import LoopSnapshot, LoopState, RandomState
from trainables.guard.stepper import Stepper, StepPlan
from trainables.rng import generator
from trainables.step_signals import StepSignals

WEIGHT_NOISE = 1e-6
"""Relative noise on the weights that a placebo adds."""


@dataclass(frozen=True)
class GuardSwap:
    """One ingredient at another value: a change of plans, with a name for the table."""

    name: str
    change: Callable[[StepPlan], StepPlan]


@dataclass(frozen=True)
class LoopReplay:
    """What a replay did; skipped steps have no signals."""

    signals: tuple[StepSignals, ...]
    grad_norms: dict[int, float]


@dataclass(frozen=True)
class LoopSeverity:
    """Scores replays of one symptom by the rule that the detector used, in the same units."""

    symptom: Symptom
    detector: DetectorConfig
    present: float

    def __call__(self, signals: Sequence[StepSignals]) -> float:
        """Severity of the event; nan, which is neither present nor absent, where every step was skipped."""
        after = [s for s in signals if s.step >= self.symptom.onset]
        if not after:
            return math.nan
        if not all(s.finite for s in after):
            return NON_FINITE_SCORE
        starts = range(max(1, len(after) - self.window + 1))
        return max(self.of_window(after[i : i + self.window]) for i in starts)

    def settled(self, signals: Sequence[StepSignals]) -> bool:
        """Whether the event is present already, whatever comes after."""
        after = [s for s in signals if s.step >= self.symptom.onset]
        last = after[-self.window :]
        enough = len(last) >= min(self.window, self.detector.confirm)
        return any(not s.finite for s in last) or (enough and self(last) >= self.present)

    @property
    def window(self) -> int:
        """Steps that the detector's rule looks at."""
        return self.detector.min_history if self.symptom.kind == "divergence" else 2 * self.detector.confirm

    def of_window(self, steps: Sequence[StepSignals]) -> float:
        """The median of a drift; the score that `confirm` steps of the window reach of what is sudden."""
        baseline = self.symptom.baseline
        if self.symptom.kind == "divergence":
            return baseline.window_score(steps)
        losses = sorted(baseline.plain_losses(steps), reverse=True)
        return baseline.loss_score(losses[min(self.detector.confirm, len(losses)) - 1])


class LoopReplayer:
    """Replays stretches of the loop on its live state; the caller puts the state back.

    Args:
        state: the live state.
        stepper: runs one step.
        history: what the loop did.
        onset: first step of the event; the batches before it are the healthy ones.

    """

    def __init__(self, state: LoopState, stepper: Stepper, history: History, onset: int) -> None:
        self.state = state
        self.stepper = stepper
        self.records = history.by_step()
        self.last = history.records[-1]
        self.batches = history.healthy_batches(onset) or history.healthy_batches(self.last.plan.step + 1)
        self.coming: dict[int, int] = {}
        """The batch of each step past the last one."""
        self.steps = 0
        """Steps replayed so far."""

    def plan(self, step: int) -> StepPlan:
        """The step as it was; past the last one, with its hyperparameters held and the batches that come."""
        if step in self.records:
            return self.records[step].plan
        return StepPlan(step, self._coming(step), self.last.plan.groups)

    def run(
        self,
        snapshot: LoopSnapshot,
        stop: int,
        swaps: Sequence[GuardSwap] = (),
        *,
        placebo: int | None = None,
        settled: Callable[[Sequence[StepSignals]], bool] = lambda signals: False,
    ) -> LoopReplay:
        """Replay [snapshot.step, stop) with `swaps`, or until `settled`; a placebo is keyed by its number."""
        self.state.restore(snapshot)
        if placebo is not None:
            self.state.add_weight_noise(WEIGHT_NOISE, seed=placebo)
        done: list[StepSignals] = []
        norms: dict[int, float] = {}
        for step in range(snapshot.step, stop):
            signals = self.step(step, swaps)
            norms[step] = self.stepper.grad_norm
            if signals is None:
                continue
            done.append(signals)
            if settled(done):
                break
        return LoopReplay(tuple(done), norms)

    def step(self, step: int, swaps: Sequence[GuardSwap] = ()) -> StepSignals | None:
        """One step on the state as it is, with the generators where they stood."""
        plan = replace(self.plan(step), max_grad_norm=math.inf)
        for swap in swaps:
            plan = swap.change(plan)
        if step in self.records:
            self.records[step].randomness.write()
        if plan.zero_momentum:
            self.state.zero_momentum()
        self.steps += 1
        return self.stepper.run(plan)

    def first_difference(self, replay: LoopReplay) -> int | None:
        """First step whose loss did not come back with the bits that the run recorded; None: all did."""
        for signals in replay.signals:
            recorded = self.records.get(signals.step)
            # repr tells every two floats apart, and says nan of each nan.
            if recorded and recorded.signals and repr(recorded.signals.loss) != repr(signals.loss):
                return signals.step
        return None

    def _coming(self, step: int) -> int:
        """The batch of a step that the loop has not reached; a healthy one where the data ends, or can't be asked."""
        if step not in self.coming:
            randomness = RandomState.read()
            known = [number for number in self.batches if self.stepper.batches.has(number)]
            other = int(generator("guard", "coming", step).choice(known))
            self.coming[step] = step if self.stepper.batches.reaches(step) else other
            randomness.write()
        return self.coming[step]
