"""One trial in one process (of a worker group, or alone): train, watch, and on a symptom find out why.

The trial knows neither Ray nor MLflow: it gets a `report` callable, and a process group where torch.distributed has
one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from trainables.config import TrialConfig
from trainables.data.index import open_index
from trainables.detectors import Detector, Symptom
from trainables.diagnosis.diagnose import diagnose
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.verdict import Diagnosis
from trainables.errors import ConfigError, complaint
from trainables.faults import build_faults
from trainables.ingredients import Stream, with_swaps
from trainables.loop import evaluate, run_steps
from trainables.model import SMALL_IMAGE, build_model
from trainables.optim import build_optimizer
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.signals import StepSignals
from trainables.state import TrainState

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended."""

    phase: str
    """finished, or stopped on a symptom."""
    steps: int
    best_val_top1: float
    symptom: Symptom | None
    diagnosis: Diagnosis | None


def run_trial(config: TrialConfig, report: Report) -> TrialResult:
    """Train `config` to its end or its first confirmed symptom, and diagnose that.

    `report` gets JSON-safe rows, on every rank: one each `report_every` steps while training, one for each replay while
    diagnosing, and a last one whose phase is finished or stopped. Raises ConfigError and DataError before work starts.
    """
    return Trial(config, report).run()


class Trial:
    """The wiring of one run: recipe, state, detector, snapshots, reports."""

    def __init__(self, config: TrialConfig, report: Report) -> None:
        torch.set_num_threads(config.threads)
        self.config = config
        self.ranks = Ranks.current()
        if config.global_batch_size % self.ranks.world_size:
            allowed = f"a multiple of the {self.ranks.world_size} workers"
            remedy = "change global_batch_size or resources.workers"
            raise ConfigError(complaint("global_batch_size", config.global_batch_size, allowed, remedy))
        check_statistics(config, self.ranks.world_size)
        index = open_index(config.data.path)
        self.recipe = Recipe.build(config, index)
        self.stream: Stream = with_swaps(self.recipe.ingredients, build_faults(config.faults, self.recipe))
        self.state = build_state(config, len(index.classes), self.ranks)
        self.detector = Detector(config.detector, len(index.classes), *self.recipe.expected_input_moments())
        self.snapshots = SnapshotRing(config.diagnosis.snapshot_every, config.diagnosis.snapshots)
        self.losses: dict[int, float] = {}
        self.reporter = Reporter(report, config, self.recipe)

    def run(self) -> TrialResult:
        """Train until the last step or a symptom."""
        symptom = None
        self.snapshots.offer(self.state, 0)
        for signals in run_steps(
            self.state, self.stream, 0, self.config.max_steps, loader_threads=self.config.data.loader_threads
        ):
            self.losses[signals.step] = signals.loss
            self.reporter.add(signals)
            symptom = self.detector.update(signals)
            if symptom is not None:
                break
            done = signals.step + 1
            if self.config.diagnosis.enabled:
                self.snapshots.offer(self.state, done)
            if done % self.config.eval_every == 0 or done == self.config.max_steps:
                self._evaluate()
            if done % self.config.report_every == 0 and done < self.config.max_steps:
                self.reporter.send("training")
        diagnosis = self._diagnose(symptom) if symptom is not None else None
        phase = "finished" if symptom is None else "stopped"
        self.reporter.send(phase, symptom=symptom, diagnosis=diagnosis)
        return TrialResult(phase, len(self.losses), self.reporter.best_top1, symptom, diagnosis)

    def _evaluate(self) -> None:
        top1, loss = evaluate(
            self.state, self.recipe.val, self.recipe.declared_normalization, self.config.precision.amp
        )
        self.reporter.add_evaluation(top1, loss)

    def _diagnose(self, symptom: Symptom) -> Diagnosis | None:
        log.warning("%s at step %d: %s", symptom.kind, symptom.onset, symptom.detail)
        self.reporter.send("diagnosing", symptom=symptom)
        if not self.config.diagnosis.enabled:
            return None

        def progress(label: str) -> None:
            self.reporter.send("diagnosing", symptom=symptom, replay=label)

        return diagnose(
            self.config, self.recipe, self.state, self.stream, symptom, self.snapshots, self.losses, progress
        )


class Reporter:
    """Collects the signals of each step and sends them on in rows, each step once."""

    def __init__(self, report: Report, config: TrialConfig, recipe: Recipe) -> None:
        self.report = report
        self.config = config
        self.recipe = recipe
        self.history: list[dict[str, float]] = []
        self.last: StepSignals | None = None
        self.top1 = 0.0
        self.best_top1 = 0.0
        self.started = time.monotonic()
        self.sent_step = 0

    def add(self, signals: StepSignals) -> None:
        """Take the signals of one step."""
        self.last = signals
        row = {
            "step": signals.step,
            "loss": signals.loss,
            "loss_noise": signals.loss_noise,
            "lr": signals.learning_rate,
            "grad_norm": signals.grad_norm,
            "update_ratio": signals.update_ratio,
            "train_top1": signals.top1,
        }
        row |= {f"input_mean_{c}": value for c, value in zip("rgb", signals.input_mean, strict=True)}
        row |= {f"input_std_{c}": value for c, value in zip("rgb", signals.input_std, strict=True)}
        self.history.append(row)

    def add_evaluation(self, top1: float, loss: float) -> None:
        """Take an evaluation after the last step."""
        self.top1, self.best_top1 = top1, max(self.best_top1, top1)
        self.history[-1] |= {"val_top1": top1, "val_loss": loss}

    def send(
        self, phase: str, *, symptom: Symptom | None = None, diagnosis: Diagnosis | None = None, replay: str = ""
    ) -> None:
        """Send one row and start the next."""
        assert self.last is not None
        done = self.last.step + 1
        elapsed = max(time.monotonic() - self.started, 1e-9)
        images = (done - self.sent_step) * self.config.global_batch_size
        self.report(
            {
                "step": done,
                "epoch": self.recipe.sampler.epoch(self.last.step),
                "phase": phase,
                "replay": replay,
                "loss": self.last.loss,
                "lr": self.last.learning_rate,
                "val_top1": self.top1,
                "best_val_top1": self.best_top1,
                "images_per_s": images / elapsed,
                "symptom": symptom.kind if symptom else "",
                "history": self.history,
                "diagnosis": diagnosis.to_dict() if diagnosis else None,
            }
        )
        self.history = []
        self.started, self.sent_step = time.monotonic(), done


def check_statistics(config: TrialConfig, world_size: int) -> None:
    """Raise ConfigError where batch norm would see a single value a channel: one sample whose last stage is a pixel."""
    stride = 16 if config.data.image_size < SMALL_IMAGE else 32
    last_side = -(-config.data.image_size // stride)
    alone = config.global_batch_size == world_size and last_side == 1
    if alone and config.model.norm in ("bn", "ghost_bn"):
        allowed = f"at least {2 * world_size} with model.norm {config.model.norm} at {config.data.image_size} px"
        raise ConfigError(
            complaint("global_batch_size", config.global_batch_size, allowed, "raise it, or set model.norm to gn")
        )


def build_state(config: TrialConfig, num_classes: int, ranks: Ranks) -> TrainState:
    """Model and optimizer of `config` on this process's device."""
    device = choose_device(config.device)
    layout = torch.channels_last if config.precision.channels_last else torch.contiguous_format
    model = build_model(config.model, num_classes=num_classes, image_size=config.data.image_size, seed=config.seed)
    model = model.to(device).to(memory_format=layout)
    return TrainState(model, build_optimizer(model, config.optim), device, ranks, layout)


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
