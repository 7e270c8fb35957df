"""One trial in one process (of a worker group, or alone): train, watch, and on a symptom find out why.

The trial knows neither Ray nor MLflow: it gets a `report` callable, and a process group where torch.distributed has
one.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from trainables.checkpoint import CheckpointStore
from trainables.config import TrialConfig
from trainables.data.index import open_index
from trainables.data.loader_process import LoaderProcess
from trainables.data.quarantine import check_quarantined
from trainables.detectors import Detector, Symptom
from trainables.diagnosis.diagnose import diagnose
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.verdict import Diagnosis
from trainables.errors import ConfigError, complaint
from trainables.evaluation import evaluate
from trainables.faults import build_faults
from trainables.ingredients import Stream, with_evaluation_swaps, with_swaps
from trainables.loop import Reading, run_steps, train_step, warm_up
from trainables.model import build_model
from trainables.optim import build_optimizer
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.reporter import Report, Reporter
from trainables.resume import check_same_run, restore_run, run_meta
from trainables.shares import check_shares
from trainables.signals import StepSignals
from trainables.speed import Speedometer
from trainables.state import Snapshot, TrainState

log = logging.getLogger(__name__)

MOST_SHAPES = 64
"""Input shapes that a network is compiled for: sides of growing images, shares, last batches, training or not."""
RECORDED = 1024
"""Losses kept for a diagnosis to compare its exact replay with."""


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended."""

    phase: str
    """finished; stopped on a symptom; interrupted, with a checkpoint to go on from where there is a store."""
    steps: int
    """Steps done, those before a resume included."""
    best_val_top1: float
    symptom: Symptom | None
    diagnosis: Diagnosis | None


def run_trial(
    config: TrialConfig,
    report: Report,
    *,
    checkpoints: str | None = None,
    notice: Callable[[], bool] = lambda: False,
    stop_after: int | None = None,
) -> TrialResult:
    """Train `config` to its end or its first confirmed symptom, and diagnose that.

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
    ) -> None:
        torch.set_num_threads(config.threads)
        self.config = config
        self.ranks = Ranks.current()
        check_shares(config, self.ranks.world_size)
        index = open_index(config.data.path)
        device = choose_device(config.device)
        self.recipe, self.loader = with_loader(Recipe.build(config, index), device)
        faults = build_faults(config.faults, self.recipe)
        self.stream: Stream = with_swaps(self.recipe.ingredients, faults)
        self.replayed: Stream = with_swaps(self.recipe.ingredients, [swap for swap in faults if not swap.live])
        self.evaluations = with_evaluation_swaps(self.recipe.evaluation, faults)
        self.state = build_state(config, len(index.classes), self.ranks)
        # Chance level is that of cross-entropy.
        classes = len(index.classes) if config.optim.loss == "ce" else None
        self.detector = Detector(config.detector, classes, *self.recipe.expected_input_moments())
        self.snapshots = SnapshotRing(config.diagnosis.snapshot_every, config.diagnosis.snapshots)
        self.losses: dict[int, float] = {}
        speed = Speedometer(config.global_batch_size, config.data.loader_threads)
        self.reporter = Reporter(report, speed, self.recipe.sampler.epoch)
        self.store = store
        self.notice = notice
        self.stop = min(config.max_steps, stop_after or config.max_steps)
        self.noticed = False

    def run(self) -> TrialResult:
        """Train until the last step, a symptom or a notice."""
        with self.loader or nullcontext():
            return self._run()

    def _run(self) -> TrialResult:
        if self.config.diagnosis.enabled:
            self.snapshots.offer(self.state)
        self._resume()
        symptom = self._train()
        diagnosis = self._diagnose(symptom) if symptom is not None else None
        phase = "stopped" if symptom else "finished" if self.state.step == self.config.max_steps else "interrupted"
        self._gather_quarantined()
        self.reporter.send(phase, symptom=symptom, diagnosis=diagnosis)
        return TrialResult(phase, self.state.step, self.reporter.best_top1, symptom, diagnosis)

    def _train(self) -> Symptom | None:
        steps = run_steps(
            self.state,
            self.stream,
            self.state.step,
            self.stop,
            loader_threads=self.config.data.loader_threads,
            reading=Reading(1 if self.state.device.type == "cpu" else self.config.read_every, self._is_due),
            notice=self.notice,
            times=self.reporter.speed.loader,
        )
        for signals in steps:
            self._record(signals)
            symptom = self.detector.update(signals)
            if symptom is not None:
                return symptom
            self.noticed |= signals.notice
            if self.state.step == signals.step + 1:
                self._after(self.state.step)
                if self.noticed:
                    break
        return None

    def _record(self, signals: StepSignals) -> None:
        self.losses[signals.step] = signals.loss
        self.losses.pop(signals.step - RECORDED, None)
        self.reporter.add(signals)

    def _is_due(self, done: int) -> bool:
        """Whether something looks at the state after `done` steps."""
        config = self.config
        every = (config.eval_every, config.report_every, config.checkpoint.every or config.max_steps)
        return any(done % length == 0 for length in every) or self.snapshots.is_due(done)

    def _after(self, done: int) -> None:
        """What is due after `done` steps, with the state just there."""
        config = self.config
        if config.diagnosis.enabled:
            # Only code other than the reference step's looks at gradients that are left.
            self.snapshots.offer(self.state, gradients=self.stream(done).code is not train_step)
        evaluated = done % config.eval_every == 0 or done == config.max_steps
        if evaluated:
            with self.reporter.speed.paused():
                scores = evaluate(self.state, self.evaluations(done), loader_threads=config.data.loader_threads)
            self.reporter.add_evaluation(scores)
        keep = self._is_kept(done)
        if keep or (done < config.max_steps and done % config.report_every == 0):
            # Before the checkpoint: what it holds is never sent again.
            self._gather_quarantined()
            self.reporter.send("training")
        if keep:
            # A state that was not evaluated is nobody's best.
            self._save(self.reporter.top1 if evaluated else math.nan)

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
        meta = run_meta(self.config, self.recipe.index, self.detector, self.reporter, self.losses)
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
        self.losses = restore_run(meta, self.detector, self.reporter)
        self.state.step = self.reporter.sent_step
        self.snapshots.add(self.state.snapshot())

    def _diagnose(self, symptom: Symptom) -> Diagnosis | None:
        log.warning("%s at step %d: %s", symptom.kind, symptom.onset, symptom.detail)
        self.reporter.send("diagnosing", symptom=symptom)
        if not self.config.diagnosis.enabled:
            return None

        def progress(label: str) -> None:
            self.reporter.send("diagnosing", symptom=symptom, replay=label)

        return diagnose(
            self.config, self.recipe, self.state, self.replayed, symptom, self.snapshots, self.losses, progress
        )


def with_loader(recipe: Recipe, device: torch.device) -> tuple[Recipe, LoaderProcess | None]:
    """The recipe, and the process that makes its images, where data.loader has one beside a training on `device`."""
    data = recipe.config.data
    beside_gpu = device.type == "cuda" and data.loader_threads > 0 and sys.platform == "linux"
    if data.loader == "threads" or (data.loader == "auto" and not beside_gpu):
        return recipe, None
    sources = {"train": recipe.train, "val": recipe.val}
    loader = LoaderProcess(sources, data.loader_threads, pinned=device.type == "cuda")
    return recipe.helped_by(loader), loader


def build_state(config: TrialConfig, num_classes: int, ranks: Ranks) -> TrainState:
    """Model and optimizer of `config` on this process's device."""
    device = choose_device(config.device)
    layout = torch.channels_last if config.precision.channels_last else torch.contiguous_format
    model = build_model(config.model, num_classes=num_classes, image_size=config.data.image_size, seed=config.seed)
    model = model.to(device).to(memory_format=layout)
    if config.precision.compile:
        compile_each_shape(model)
    state = TrainState(
        model,
        build_optimizer(model, config.optim),
        device,
        ranks,
        layout,
        ema_decay=config.optim.ema_decay,
        scale_loss=config.precision.amp == "fp16",
        micro_batch_size=config.optim.micro_batch_size,
    )
    if ranks.world_size > 1:
        warm_up(state, config.data.image_size)
    return state


def compile_each_shape(model: nn.Module) -> None:
    """Compile `model` anew for each shape of its input, so that a step's bits don't depend on the shapes before it.

    Left to itself dynamo turns to dynamic sizes at the second shape it sees, and to eager at the ninth: a run with
    growing images would end with other bits after a resume.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SHAPES)  # noqa: SLF001
    model.compile(dynamic=False)


def choose_device(name: str) -> torch.device:
    """CUDA device of this rank, or the CPU. Raises ConfigError where CUDA is asked for and absent."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            complaint("device", name, "cpu or auto on this machine, which has no GPU", "set device to auto")
        )
    if name == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
