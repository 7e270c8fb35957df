"""Run a stretch of training again with some ingredients swapped, and say how bad it was.

A replay starts from a snapshot copied into the live state. Severity has two parts, since a poisoned batch scores
badly without damage and a hot learning rate damages while any batch looks fine first: the losses of the replayed
batches, and the loss of a fixed clean batch before and after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainables.baseline import NON_FINITE_SCORE, erratic_score
from trainables.config import DetectorConfig
from trainables.detectors import Symptom
from trainables.detectors.broken import OF_ONE_STEP
from trainables.ingredients import Ingredients, Stream, Swap, load_batch, with_swaps
from trainables.loop import observe_inputs, run_steps, score_batch
from trainables.rng import generator
from trainables.state import Snapshot, TrainState
from trainables.step_signals import StepSignals

WEIGHT_NOISE = 1e-6
"""Relative noise on the weights that a placebo adds."""
FROM_THE_START = frozenset({"instability", "stall"})
"""Symptoms of a whole run: no healthy stretch comes before, and the last steps are what counts."""
UNSETTLED = FROM_THE_START | {"input_shift", "eval_gap", *OF_ONE_STEP}
"""Symptoms that only the end of a replay shows."""
LASTING = frozenset({"divergence", "collapse"})
"""Symptoms of a level: as many steps count as the detector's slow rules look at."""


@dataclass(frozen=True)
class Replay:
    """What a replay did."""

    signals: tuple[StepSignals, ...]
    clean_before: float
    """Loss of the fixed clean batch from the snapshot, in nats."""
    clean_after: float
    """The same after the last replayed step."""

    def curve(self) -> list[list[float]]:
        """[[step, loss], ...], finite losses only."""
        return [[s.step, round(s.loss, 6)] for s in self.signals if math.isfinite(s.loss)]


@dataclass(frozen=True)
class Severity:
    """Scores replays of one symptom, in the units that the detector uses."""

    symptom: Symptom
    detector: DetectorConfig
    present: float
    """Severity from which the event counts as present."""

    def __call__(self, replay: Replay) -> float:
        """Severity of the event in `replay`; NON_FINITE_SCORE where a step was not finite."""
        baseline, kind = self.symptom.baseline, self.symptom.kind
        after_onset = [s for s in replay.signals if s.step >= self.symptom.onset]
        if kind == "input_shift":
            width = len(after_onset) if baseline.declared else min(len(after_onset), 2 * self.detector.confirm)
            windows = (after_onset[i : i + width] for i in range(len(after_onset) - width + 1))
            return max(baseline.stretch_score(window) for window in windows)
        if not all(s.finite for s in after_onset):
            return NON_FINITE_SCORE
        if kind in OF_ONE_STEP:
            return max(map(OF_ONE_STEP[kind], after_onset))
        return baseline.loss_score(replay.clean_after) if kind == "eval_gap" else self._of_losses(replay, after_onset)

    def _of_losses(self, replay: Replay, after_onset: list[StepSignals]) -> float:
        """Of finite steps, and of the damage to the weights where a healthy stretch came before."""
        baseline, window = self.symptom.baseline, self.window
        if self.symptom.kind == "instability":
            plain = [s.unmixed(baseline.mixing_cost).loss for s in after_onset]
            return erratic_score(plain[-self.detector.erratic_window :], baseline.chance)
        if self.symptom.kind in FROM_THE_START:
            return baseline.window_score(after_onset[-window:])
        starts = range(max(1, len(after_onset) - window + 1))
        batch = max(baseline.window_score(after_onset[i : i + window]) for i in starts)
        damage = (replay.clean_after - replay.clean_before) / baseline.noise
        return min(NON_FINITE_SCORE, max(batch, damage if math.isfinite(damage) else NON_FINITE_SCORE))

    @property
    def window(self) -> int:
        """Consecutive steps whose median loss counts: as many as the detector's rule looks at."""
        return self.detector.min_history if self.symptom.kind in LASTING else self.detector.confirm

    def settled(self, signals: Sequence[StepSignals]) -> bool:
        """Whether the last losses already make the event present, whatever comes after."""
        if self.symptom.kind in UNSETTLED:
            return False
        last = [s for s in signals[-self.window :] if s.step >= self.symptom.onset]
        if any(not s.finite for s in last):
            return True
        return len(last) == self.window and self.symptom.baseline.window_score(last) >= self.present


class Replayer:
    """Replays stretches of one run on its live state; the caller restores the state when it is done.

    Args:
        state: the live state; its storage is reused.
        stream: the run as it was, faults included.
        clean: ingredients of a fixed reference batch, trained on by no replay.
        loader_threads: threads that decode ahead.

    """

    def __init__(self, state: TrainState, stream: Stream, clean: Ingredients, loader_threads: int) -> None:
        self.state = state
        self.stream = stream
        self.clean = clean
        self.clean_batch = load_batch(clean, state.ranks)
        self.loader_threads = loader_threads
        self.steps = 0
        """Steps replayed so far."""

    def run(
        self,
        snapshot: Snapshot,
        stop: int,
        swaps: Sequence[Swap] = (),
        *,
        placebo: int | None = None,
        settled: Callable[[Sequence[StepSignals]], bool] = lambda signals: False,
    ) -> Replay:
        """Replay [snapshot.step, stop) with `swaps`, or until `settled`.

        A placebo changes what can't matter, keyed by its number: the order within each batch and 1e-6 of weight noise.
        """
        self.state.restore(snapshot)
        if placebo is not None:
            self.state.add_weight_noise(WEIGHT_NOISE, seed=placebo)
            swaps = [*swaps, shuffled_within_batch(placebo)]
        before = score_batch(self.state, self.clean, self.clean_batch)
        stream = with_swaps(self.stream, swaps)
        signals: list[StepSignals] = []
        for step_signals in run_steps(self.state, stream, snapshot.step, stop, loader_threads=self.loader_threads):
            signals.append(step_signals)
            if settled(signals):
                break
        self.steps += len(signals)
        return Replay(tuple(signals), before, score_batch(self.state, self.clean, self.clean_batch))

    def observe(
        self, snapshot: Snapshot, stop: int, swaps: Sequence[Swap] = (), *, placebo: int | None = None
    ) -> Replay:
        """Look at the inputs of [snapshot.step, stop) without training, for symptoms of the input alone."""
        swaps = [*swaps, shuffled_within_batch(placebo)] if placebo is not None else swaps
        signals = tuple(observe_inputs(self.state, with_swaps(self.stream, swaps), snapshot.step, stop))
        self.steps += len(signals)
        return Replay(signals, math.nan, math.nan)

    def as_recorded(self, recorded: dict[int, float], steps: range) -> Replay:
        """What a replay of `steps` would give whose bits are the run's own; the clean batch was not scored then."""
        shares = (self.stream(step).mixed_share for step in steps)
        signals = (StepSignals(k, recorded[k], mixed_share=share) for k, share in zip(steps, shares, strict=True))
        return Replay(tuple(signals), math.nan, math.nan)


def shuffled_within_batch(key: int) -> Swap:
    """The same samples in another order: nothing but rounding may change, so mixed neighbours stay together."""

    def apply(ingredients: Ingredients) -> Ingredients:
        together = 1 if ingredients.mix is None else 2
        groups = np.arange(len(ingredients.sample_ids)).reshape(-1, together)
        order = generator("placebo", key, ingredients.step).permutation(groups).ravel()
        return replace(ingredients, sample_ids=ingredients.sample_ids[order], epochs=ingredients.epochs[order])

    return Swap(f"order within the batch, draw {key}", apply)


def equal_bits(replay: Replay, recorded: dict[int, float]) -> bool:
    """Whether every replayed loss that was recorded came back with the same bits."""
    known = any(s.step in recorded for s in replay.signals)
    return known and first_other_bits(replay, recorded) is None


def first_other_bits(replay: Replay, recorded: dict[int, float]) -> int | None:
    """The first step whose replayed loss is not the recorded one, to the last bit."""
    pairs = ((s.step, s.loss, recorded[s.step]) for s in replay.signals if s.step in recorded)
    return next((step for step, a, b in pairs if np.float64(a).tobytes() != np.float64(b).tobytes()), None)
