"""From a run to a checkpoint and back: what must be there besides the tensors, and whether it fits the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from trainables.checkpoint import Checkpoint
from trainables.config import TrialConfig
from trainables.course import Course
from trainables.data.index import ImageIndex
from trainables.detectors import Detector
from trainables.errors import ConfigError, DataError, complaint
from trainables.identity import what_is_trained
from trainables.reporter import Reporter
from trainables.step_signals import StepSignals


def run_meta(
    course: Course, step: int, detector: Detector, reporter: Reporter, losses: Mapping[int, float]
) -> dict[str, Any]:
    """Everything of a run after `step` steps but its tensors, JSON-safe.

    `losses` by step are what a diagnosis compares replays with.
    """
    assert reporter.last is not None
    return {
        "config": course.config.model_dump(mode="json"),
        "data": course.recipe.index.fingerprint(),
        "step": step,
        "events": course.state_dict(),
        "detector": _without_notices(detector.state_dict()),
        "last": asdict(replace(reporter.last, notice=False)),
        "top1": reporter.top1,
        "best_top1": reporter.best_top1,
        "told": reporter.told,
        "losses": list(losses.items()),
    }


def check_same_run(checkpoint: Checkpoint, config: TrialConfig, data: ImageIndex) -> None:
    """Raise ConfigError where the checkpoint is another run's, DataError where it is of other images."""
    written, wanted = what_is_trained(checkpoint.meta["config"]), what_is_trained(config.model_dump(mode="json"))
    for key in sorted(written.keys() | wanted.keys()):
        if written.get(key) != wanted.get(key):
            allowed = f"{written.get(key)!r}, as in the checkpoint {checkpoint.uri}"
            raise ConfigError(complaint(key, wanted.get(key), allowed, "keep it, or choose another storage"))
    if checkpoint.meta["data"] != data.fingerprint():
        allowed = f"the images by name that the checkpoint {checkpoint.uri} was trained on; some came, went or moved"
        raise DataError(complaint("data.path", config.data.path, allowed, "restore them, or choose another storage"))


def restore_run(
    meta: Mapping[str, Any], course: Course, detector: Detector, reporter: Reporter
) -> tuple[int, dict[int, float]]:
    """Put `run_meta` back into a fresh course, detector and reporter; returns the steps done and the losses by step.

    A checkpoint of before there were rollbacks has no events, and told all of its steps.
    """
    last = StepSignals.from_dict(meta["last"])
    course.load_state_dict(meta.get("events", ()))
    detector.load_state_dict(meta["detector"])
    reporter.resume(last, meta["top1"], meta["best_top1"], meta.get("told", last.step + 1))
    reporter.interventions = [intervention.describe() for intervention in course.interventions]
    return meta.get("step", last.step + 1), {int(step): float(loss) for step, loss in meta["losses"]}


def _without_notices(detector: dict[str, Any]) -> dict[str, Any]:
    """A notice is the process's affair: a run that got one goes on with the state of one that didn't."""
    quiet = {key: [{**row, "notice": False} for row in detector[key]] for key in ("accepted", "recent")}
    return {**detector, **quiet}
