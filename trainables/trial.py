"""One trial in one process (of a worker group, or alone): train, watch, on a symptom find out why, and act on it.

The trial knows neither Ray nor MLflow: it gets a `report` callable, and a process group where torch.distributed has
one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from trainables.build import build_state, choose_device, with_loader
from trainables.checkpoint import CheckpointStore
from trainables.config import TrialConfig
from trainables.course import Action, Course, Event
from trainables.data.index import open_index
from trainables.data.quarantine import check_quarantined
from trainables.detectors import Symptom
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.verdict import Diagnosis
from trainables.evaluation import evaluate
from trainables.examination import FindCause, find_cause
from trainables.faults import build_faults
from trainables.ingredients import Stream
from trainables.loop import Reading, run_steps, train_step
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.reporter import Report, Reporter
from trainables.resume import check_same_run, restore_run, run_meta
from trainables.shares import check_shares
from trainables.speed import Speedometer
from trainables.state import Snapshot
from trainables.statistics_check import evaluation_signals
from trainables.step_signals import StepSignals
from trainables.watch import build_detector

log = logging.getLogger(__name__)

RECORDED = 1024
"""Losses kept for a diagnosis to compare its exact replay with."""


@dataclass(frozen=True)
class Finding:
    """A symptom, what is known of its cause, and what is to be done."""

    symptom: Symptom
    diagnosis: Diagnosis | None
    action: Action


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended."""

    phase: str
    """finished; stopped on a symptom; interrupted, with a checkpoint to go on from where there is a store."""
    steps: int
    """Steps done, those before a resume included."""
    best_val_top1: float
    symptom: Symptom | None
    """The one that it stopped on."""
    diagnosis: Diagnosis | None
    events: tuple[Event, ...] = ()
    """Those that it went on after."""


def run_trial(
    config: TrialConfig,
    report: Report,
    *,
    checkpoints: str | None = None,
    notice: Callable[[], bool] = lambda: False,
    stop_after: int | None = None,
) -> TrialResult:
    """Train `config` to its end, or to the symptom that diagnosis.on_event stops it at; diagnose every symptom.

    Args:
        config: the run.
        report: gets JSON-safe rows, on every rank: one each `report_every` steps while training, one for each replay
            while diagnosing, and a last one whose phase is finished, stopped or interrupted.
        checkpoints: folder or URI that rank 0 writes to and reads from; the run goes on from the latest one there, on
            any number of ranks, and with the bits of a run that was never interrupted on as many. None: it starts anew
            and keeps none.
        notice: whether this process was told to stop; asked before each step. The run then ends at the next step that
            all ranks can end at, with a checkpoint.
        stop_after: steps after which the run is interrupted; None: it goes to its end.

    Raises ConfigError, DataError and CheckpointError before work starts.

    """
    mine = checkpoints is not None and Ranks.current().rank == 0
    with CheckpointStore(str(checkpoints), keep=config.checkpoint.keep) if mine else nullcontext() as store:
        return Trial(config, report, store=store, notice=notice, stop_after=stop_after).run()


class Trial:
    """The wiring of one run: recipe, state, detector, snapshots, checkpoints, reports."""

    def __init__(
        self,
        config: TrialConfig,
        report: Report,
        *,
        store: CheckpointStore | None = None,
        notice: Callable[[], bool] = lambda: False,
        stop_after: int | None = None,
        find: FindCause = find_cause,
    ) -> None:
        torch.set_num_threads(config.threads)
        self.config = config
        self.ranks = Ranks.current()
        check_shares(config, self.ranks.world_size)
        index = open_index(config.data.path)
        device = choose_device(config.device)
        self.recipe, self.loader = with_loader(Recipe.build(config, index), device)
        self.course = Course(config, self.recipe, build_faults(config.faults, self.recipe))
        self.state = build_state(config, len(index.classes), self.ranks)
        self.detector = build_detector(self.recipe)
        self.detectors: dict[int, dict[str, Any]] = {}
        """What the detector remembered at the snapshots' steps, where a rollback may go back to one."""
        self.over = True
        """False: the last event was recorded, and lasts until a step is finite again."""
        self.snapshots = SnapshotRing(config.diagnosis.snapshot_every, config.diagnosis.snapshots)
        self.losses: dict[int, float] = {}
        speed = Speedometer(config.global_batch_size, config.data.loader_threads)
        self.reporter = Reporter(report, speed, self.recipe.sampler.epoch)
        self.store = store
        self.notice = notice
        self.stop = min(config.max_steps, stop_after or config.max_steps)
        self.noticed = False
        self.find = find

    @property
    def stream(self) -> Stream:
        """The run as it goes on: its recipe, the faults that the config injects, the interventions so far."""
        return self.course.stream

    def run(self) -> TrialResult:
        """Train until the last step, a symptom or a notice."""
        with self.loader or nullcontext():
            return self._run()

    def _run(self) -> TrialResult:
        if self.config.diagnosis.enabled:
            self._keep_snapshot()
        self._resume()
        found = self._train()
        while found is not None and found.action is Action.ROLLBACK:
            self._roll_back(found)
            found = self._train()
        symptom, diagnosis = (found.symptom, found.diagnosis) if found is not None else (None, None)
        phase = "stopped" if found else "finished" if self.state.step == self.config.max_steps else "interrupted"
        self._gather_quarantined()
        self.reporter.send(phase, symptom=symptom, diagnosis=diagnosis)
        events = tuple(self.course.events)
        return TrialResult(phase, self.state.step, self.reporter.best_top1, symptom, diagnosis, events)

    def _train(self) -> Finding | None:
        """Up to the end, a notice (None), or a symptom that the run doesn't simply go on after."""
        steps = run_steps(
            self.state,
            self.course.stream,
            self.state.step,
            self.stop,
            loader_threads=self.config.data.loader_threads,
            reading=Reading(1 if self.state.device.type == "cpu" else self.config.read_every, self._is_due),
            notice=self.notice,
            times=self.reporter.speed.loader,
        )
        # Closed here, not by the garbage collector: after a rollback no thread may decode for steps that are gone.
        with closing(steps):
            for signals in steps:
                self._record(signals)
                symptom = self._watch(signals)
                found = self._examine(symptom) if symptom is not None else None
                if found is not None:
                    return found
                self.noticed |= signals.notice
                if self.state.step == signals.step + 1:
                    found = self._after(self.state.step)
                    if found is not None or self.noticed:
                        return found
        return None

    def _watch(self, signals: StepSignals) -> Symptom | None:
        """The detector's word, but for what belongs to an event that was recorded, or comes after the last one."""
        self.over |= signals.finite
        if not self.over or self.course.is_full:
            return None
        symptom = self.detector.update(signals)
        if symptom is not None and self.course.goes_on(symptom):
            self._arm_anew()
            return None
        return symptom

    def _examine(self, symptom: Symptom) -> Finding | None:
        """Diagnose, and decide; None where the event is on record and the run simply goes on."""
        diagnosis = self._diagnose(symptom)
        decision = self.course.decide(diagnosis)
        log.warning("%s at step %d: %s (%s)", symptom.kind, symptom.onset, decision.action, decision.reason)
        if decision.action is not Action.RECORD:
            return Finding(symptom, diagnosis, decision.action)
        self._go_on_after(Event.of(Action.RECORD, symptom, diagnosis, self.state.step), diagnosis)
        self._arm_anew()
        return None

    def _arm_anew(self) -> None:
        """Watch from here on as if the run began: on the level that it has now."""
        self.detector, self.over = build_detector(self.recipe), False

    def _go_on_after(self, event: Event, diagnosis: Diagnosis | None) -> None:
        self.course.add(event)
        self.reporter.interventions = [intervention.describe() for intervention in self.course.interventions]
        told = diagnosis.to_dict() if diagnosis is not None else None
        number = {"number": len(self.course.events), "rollbacks": self.course.rollbacks}
        self.reporter.send("training", event={**event.to_dict(), **number, "diagnosis": told})

    def _roll_back(self, found: Finding) -> None:
        """Go back to the snapshot that the cure was proved from, state, detector and records, and on with the cure."""
        event = Event.of(Action.ROLLBACK, found.symptom, found.diagnosis, self.state.step)
        assert event.back_to is not None
        self._go_on_after(event, found.diagnosis)
        self.state.restore(self.snapshots.rewind(event.back_to))
        self.detectors = {step: kept for step, kept in self.detectors.items() if step <= event.back_to}
        self.detector = build_detector(self.recipe)
        self.detector.load_state_dict(self.detectors[event.back_to])
        self.losses = {step: loss for step, loss in self.losses.items() if step < event.back_to}
        # The newest checkpoint may hold the event: whoever resumes must find the run that goes on.
        self._save(math.nan)

    def _record(self, signals: StepSignals) -> None:
        self.losses[signals.step] = signals.loss
        self.losses.pop(signals.step - RECORDED, None)
        self.reporter.add(signals)

    def _is_due(self, done: int) -> bool:
        """Whether something looks at the state after `done` steps."""
        config = self.config
        every = (config.eval_every, config.report_every, config.checkpoint.every or config.max_steps)
        return any(done % length == 0 for length in every) or self.snapshots.is_due(done)

    def _after(self, done: int) -> Finding | None:
        """What is due after `done` steps, with the state just there; what the evaluation found, if it stops the run."""
        config = self.config
        if config.diagnosis.enabled:
            self._keep_snapshot()
        evaluated = done % config.eval_every == 0 or done == config.max_steps
        symptom = self._evaluate(done) if evaluated else None
        keep = self._is_kept(done)
        if keep or (done < config.max_steps and done % config.report_every == 0):
            # Before the checkpoint: what it holds is never sent again.
            self._gather_quarantined()
            if done > self.reporter.told:
                self.reporter.send("training")
        if keep:
            # A state that was not evaluated is nobody's best.
            self._save(self.reporter.top1 if evaluated else math.nan)
        return self._examine(symptom) if symptom is not None else None

    def _keep_snapshot(self) -> None:
        """Where one is due; with what the detector remembers, where a rollback may want it."""
        if not self.snapshots.is_due(self.state.step):
            return
        # Only code other than the reference step's looks at gradients that are left.
        looked_at = self.state.step > 0 and self.course.stream(self.state.step).code is not train_step
        self.snapshots.offer(self.state, looks_at_gradients=looked_at)
        self._remember_detector()

    def _remember_detector(self) -> None:
        if self.config.diagnosis.on_event == "rollback":
            self.detectors[self.state.step] = self.detector.state_dict()
            first, *recent = self.detectors
            kept = [first, *recent[-self.config.diagnosis.snapshots :]]
            self.detectors = {step: self.detectors[step] for step in kept}

    def _evaluate(self, done: int) -> Symptom | None:
        """Score val/ with the state after `done` steps, and ask the detector what that shows."""
        with self.reporter.speed.paused():
            ingredients, final = self.course.evaluations(done), done == self.config.max_steps
            scores = evaluate(self.state, ingredients, loader_threads=self.config.data.loader_threads)
            signals = evaluation_signals(self.state, ingredients, scores, final=final)
        self.reporter.add_evaluation(scores, signals.lost)
        if not self.over or self.course.is_full:
            return None
        symptom = self.detector.update_evaluation(signals)
        return None if symptom is None or self.course.goes_on(symptom) else symptom

    def _gather_quarantined(self) -> None:
        """What all ranks found not to decode; raises DataError where it is too much."""
        found = sorted(set().union(*self.ranks.gather(self.recipe.quarantined())))
        check_quarantined(found, self.config.data.max_quarantined)
        self.reporter.quarantined = found

    def _is_kept(self, done: int) -> bool:
        """Whether a checkpoint is due: each `every` steps, at a long run's end, and before an interruption."""
        every = self.config.checkpoint.every
        if self.noticed or done == self.stop < self.config.max_steps:
            return True
        return bool(every) and (done % every == 0 or (done == self.stop and done > every))

    def _save(self, score: float) -> None:
        if self.store is None:
            return
        meta = run_meta(self.course, self.state.step, self.detector, self.reporter, self.losses)
        snapshot = self.state.snapshot()
        self.store.save(snapshot.step, snapshot.tensors, meta, score=score)

    def _resume(self) -> None:
        """Go on from the latest checkpoint, if there is one; rank 0 reads it and tells the others."""
        checkpoint = self.store.latest() if self.store is not None else None
        if checkpoint is not None:
            check_same_run(checkpoint, self.config, self.recipe.index)
            log.info("going on at step %d from %s", checkpoint.step, checkpoint.uri)
            self.state.restore(Snapshot(checkpoint.step, checkpoint.tensors))
        meta = self.ranks.broadcast_json(checkpoint.meta if checkpoint is not None else None)
        if meta is None:
            return
        for tensor in self.state.tensors().values():
            self.ranks.broadcast(tensor)
        self.state.step, self.losses = restore_run(meta, self.course, self.detector, self.reporter)
        self.snapshots.add(self.state.snapshot())
        self._remember_detector()

    def _diagnose(self, symptom: Symptom) -> Diagnosis | None:
        log.warning("%s at step %d: %s", symptom.kind, symptom.onset, symptom.detail)
        self.reporter.send("diagnosing", symptom=symptom)
        if not self.config.diagnosis.enabled:
            return None

        def progress(label: str) -> None:
            self.reporter.send("diagnosing", symptom=symptom, replay=label)

        return self.find(self.course, self.state, symptom, self.snapshots, self.losses, progress)
