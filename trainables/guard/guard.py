"""The guard itself: one call a step, in a loop that is someone else's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from trainables.config import DetectorConfig
from trainables.detectors import Detector, Symptom
from trainables.diagnosis.causes import UNEXPLAINED
from trainables.diagnosis.swap_table import Thresholds
from trainables.diagnosis_config import DiagnosisConfig
from trainables.errors import ConfigError, Epoch14Error, complaint
from trainables.guard.examine import GuardCase, examine
from trainables.guard.history import History, StepRecord
from trainables.guard.replay import GuardSwap, LoopReplayer, LoopSeverity
from trainables.guard.state import LoopSnapshot, LoopState, RandomState, Stateful, equal_states
from trainables.guard.stepper import Batches, BatchFunction, StepFunction, Stepper, StepPlan, read_hyperparameters
from trainables.guard.verdict import GuardDiagnosis

log = logging.getLogger(__name__)

OnEvent = Literal["record", "stop", "rollback"]


class SpikeError(Epoch14Error):
    """A guarded loop went wrong, and `on_event="stop"` was asked for; `diagnosis` says why."""

    exit_code = 1

    def __init__(self, diagnosis: GuardDiagnosis) -> None:
        super().__init__(diagnosis)
        self.diagnosis = diagnosis

    def __str__(self) -> str:
        return self.diagnosis.summary


@dataclass(frozen=True)
class GuardSettings:
    """What the guard watches for, what it keeps, and how often it acts."""

    num_classes: int | None = None
    """Tells the detector what guessing costs; None: it sees only what leaves the loss's own past."""
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    diagnosis: DiagnosisConfig = field(default_factory=DiagnosisConfig)
    """`snapshot_every` and `snapshots` bound the memory: weights, gradients and moments, so many times, on the host."""
    max_events: int = 4
    """Diagnoses after which the guard rests."""
    max_rollbacks: int = 3
    """Rollbacks after which an event is only recorded."""
    kept_batches: int = 64
    """Batches remembered where there is no batch function."""


class SpikeGuard:
    """Watches a loop's loss; when it blows up, replays the steps before to find out why.

    A healthy run pays the read of one loss a step, which waits for the device, and a copy of the state to the host
    each `snapshot_every` steps; its weights have the bits that they would have without a guard. One process only.

    Args:
        model: on its device.
        optimizer: of torch's kind; its hyperparameters are recorded as each update uses them.
        step: takes a batch, updates the model, and returns per-sample losses [n], or their mean; under mixup or CutMix
            `Mixed(losses, share)`, so that a loss that the share explains is no spike. In a replay it is called again,
            and `replaying` is True: log nothing then.
        batch: the k-th batch, the same whenever it is asked for. None: give each batch to `run`, and the last
            `kept_batches` are remembered by reference.
        extra_state: what else `step` changes: a GradScaler, a moving average, a scheduler that it steps by itself, a
            sampler. A scheduler that the loop steps need not be here.
        fp32_step: `step` without autocast; None: the number format is not tested.
        on_event: "record" returns the diagnosis and goes on as if nothing had been looked at; "stop" raises
            SpikeError; "rollback" does the steps since the snapshot again under the verified remedy and keeps to it.
        settings: thresholds and limits.

    Raises:
        ConfigError: `on_event` is none of these, or the process is one of several.

    >>> guard = SpikeGuard(model, optimizer, train_step, batches.__getitem__)  # doctest: +SKIP
    >>> for k in range(steps):  # doctest: +SKIP
    ...     if event := guard.run(k):
    ...         print(event.summary)

    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: StepFunction,
        batch: BatchFunction | None = None,
        *,
        extra_state: Sequence[Stateful] = (),
        fp32_step: StepFunction | None = None,
        on_event: OnEvent = "record",
        settings: GuardSettings | None = None,
    ) -> None:
        if on_event not in ("record", "stop", "rollback"):
            raise ConfigError(complaint("on_event", on_event, "record, stop, rollback", "choose one of them"))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            world_size = torch.distributed.get_world_size()
            if world_size > 1:
                raise ConfigError(complaint("world size", world_size, "1", "guard a run of one process"))
        self.settings = settings or GuardSettings()
        self.on_event = on_event
        self.state = LoopState(model, optimizer, extra_state)
        self.stepper = Stepper(model, optimizer, Batches(batch, self.settings.kept_batches), step, fp32_step)
        self.history = History(self.settings.diagnosis.snapshot_every, self.settings.diagnosis.snapshots)
        self.detector = self._fresh_detector()
        self.events: list[GuardDiagnosis] = []
        self.remedies: list[GuardSwap] = []
        """Cures that rollbacks have left on."""
        self.replaying = False
        """True while `step` is called by a replay."""
        self._next: int | None = None
        self._open: tuple[StepPlan, RandomState] | None = None
        self._under = ExitStack()

    def run(self, step: int, batch: Any = None) -> GuardDiagnosis | None:
        """Run step number `step`; a diagnosis where the loss has blown up, else None.

        Steps are consecutive numbers. `batch` is for a guard without a batch function.

        Raises:
            SpikeError: the loss has blown up, under "stop".
            ConfigError: the step is not the next one, or its loss can't be read.

        """
        if not self.before_step(step, batch):
            return None
        return self.after_step(self.stepper.step(self.stepper.batches(step)))

    def before_step(self, step: int, batch: Any = None) -> bool:
        """The first half of `run`, for a framework that makes the step itself; False: a remedy skips this step."""
        if self._next is not None and step != self._next:
            raise ConfigError(complaint("step", step, str(self._next), "run every step in order, or make a new guard"))
        self._next = step + 1
        self._under.close()
        if batch is not None:
            self.stepper.batches.remember(step, batch)
        if self._is_watching and self.history.is_due(step):
            self.history.snapshots.append(self.state.capture(step))
        plan = self._live_plan(step)
        if plan.batch is None:
            self.stepper.used = None
            self._record(plan, None, RandomState.read())
            return False
        self._open = (plan, RandomState.read())
        self._under.enter_context(self.stepper.under(plan))
        return True

    def after_step(self, losses: Any) -> GuardDiagnosis | None:
        """The second half: the step was made, and these were its losses."""
        if self._open is None:
            raise ConfigError(complaint("after_step", losses, "a call after before_step", "call before_step first"))
        (plan, randomness), self._open = self._open, None
        self._under.close()
        signals = self.stepper.read(plan.step, losses)
        self._record(plan, signals, randomness)
        if not self._is_watching:
            return None
        symptom = self.detector.update(signals)
        return self._handle(symptom) if symptom else None

    def close(self) -> None:
        """Leave the optimizer as it was found."""
        self._under.close()
        self.stepper.close()

    @property
    def _is_watching(self) -> bool:
        return len(self.events) < self.settings.max_events

    def _live_plan(self, step: int) -> StepPlan:
        if not self.remedies:
            return StepPlan(step, step)
        plan = StepPlan(step, step, read_hyperparameters(self.state.optimizer))
        for remedy in self.remedies:
            plan = remedy.change(plan)
        return plan

    def _record(self, plan: StepPlan, signals: Any, randomness: RandomState) -> None:
        used = replace(plan, groups=self.stepper.hyperparameters())
        self.history.records.append(StepRecord(used, signals, randomness))

    def _handle(self, symptom: Symptom) -> GuardDiagnosis:
        """Diagnose, put everything back, and act."""
        live = self.state.capture(symptom.step + 1)
        self.replaying = True
        try:
            diagnosis, cure, snapshot = self._diagnose(symptom)
            self.state.restore(live)
            if self.on_event == "rollback" and cure and snapshot and self._rollbacks < self.settings.max_rollbacks:
                self._roll_back(snapshot, cure, live)
                diagnosis = replace(diagnosis, action="rolled_back")
        finally:
            self.replaying = False
        if diagnosis.action != "rolled_back":
            # What comes is measured against itself; else each further step would be an event of its own.
            self.detector = self._fresh_detector()
            self.history.forget_states()
        self.events.append(diagnosis)
        log.info("%s", diagnosis.summary)
        if self.on_event == "stop":
            self.events[-1] = diagnosis = replace(diagnosis, action="stopped")
            raise SpikeError(diagnosis)
        return diagnosis

    def _diagnose(self, symptom: Symptom) -> tuple[GuardDiagnosis, GuardSwap | None, LoopSnapshot | None]:
        config, detector = self.settings.diagnosis, self.settings.detector
        replayer = LoopReplayer(self.state, self.stepper, self.history, symptom.onset)
        case = GuardCase(
            symptom,
            self.history,
            self.stepper,
            replayer,
            LoopSeverity(symptom, detector, config.present_score),
            Thresholds(config.present_score, config.absent_score),
            config,
            stop=max(symptom.onset + config.horizon, symptom.step + 1),
        )
        try:
            diagnosis, cure = examine(case)
        except Exception as error:  # noqa: BLE001 - the user's functions may raise anything, and training must survive
            reason = f"a replay raised {type(error).__name__}: {error}"
            summary = f"{symptom.kind} at step {symptom.onset}: {reason}."
            return GuardDiagnosis(symptom, UNEXPLAINED, 0.0, summary, replayed_steps=replayer.steps), None, None
        return replace(diagnosis, replayed_steps=replayer.steps), cure, case.snapshot

    @property
    def _rollbacks(self) -> int:
        return sum(event.action == "rolled_back" for event in self.events)

    def _roll_back(self, snapshot: LoopSnapshot, cure: GuardSwap, live: LoopSnapshot) -> None:
        """Do the steps since the snapshot again under the cure, which stays on; the loop goes on with its next step."""
        records = self.history.by_step()
        self.state.restore(snapshot)
        self.history.rewind(snapshot)
        self.remedies.append(cure)
        self.detector = self._fresh_detector()
        for record in self.history.records:
            self._remember(record.signals)
        for step in range(snapshot.step, live.step):
            if step > snapshot.step and self.history.is_due(step):
                self.history.snapshots.append(self.state.capture(step))
            plan = cure.change(records[step].plan)
            records[step].randomness.write()
            signals = self.stepper.run(plan)
            self._record(plan, signals, records[step].randomness)
            self._remember(signals)
        # What the loop changes between its steps is where the loop left it.
        self.state.write_groups(live.groups)
        for item, then, now in zip(self.state.extra, snapshot.extra, live.extra, strict=True):
            if equal_states(item.state_dict(), then):
                item.load_state_dict(deepcopy(now))
        live.randomness.write()

    def _remember(self, signals: Any) -> None:
        if signals is not None:
            self.detector.update(signals)

    def _fresh_detector(self) -> Detector:
        return Detector(self.settings.detector, self.settings.num_classes)
