"""Negative controls: what training does on purpose, or survives by itself. None may raise an alarm."""

from __future__ import annotations

from dataclasses import replace

from tests.benchmarks.diagnosis.bases import Base, Values
from tests.benchmarks.diagnosis.below import in_steps
from tests.benchmarks.diagnosis.damage import truncated
from tests.benchmarks.diagnosis.variant import Variant
from trainables.config import TrialConfig
from trainables.data.mixing import draw_mix
from trainables.ingredients import Swap
from trainables.recipe import Recipe

TRUNCATED = 6
"""Files that don't decode, below what data.max_quarantined allows."""


def mixup_from(recipe: Recipe, onset: int) -> list[Swap]:
    """Mixup is switched on."""
    seed = recipe.config.seed
    return [Swap("mixup", lambda i: replace(i, mix=draw_mix(seed, i.step, 0.2, 0.0, recipe.side(i.step))), onset)]


def lower_rate(base: Base, _config: TrialConfig) -> Values:
    """A milestone at the onset, down to a tenth."""
    return {"schedule": {"kind": "multi_step", "milestones": [base.onset], "gamma": 0.1}}


def larger_images(base: Base, config: TrialConfig) -> Values:
    """From the onset on images are half as large again, in evaluation too; up to it, the base's run."""
    side = config.data.image_size
    growth = {"start_size": side, "image_size": side * 3 // 2, "eval_size": side * 3 // 2, "size_multiple": 8}
    return {"data": {**growth, "grow_steps": [base.onset, base.onset + 1]}}


def smoothed(_base: Base, _config: TrialConfig) -> Values:
    """Label smoothing, from step 0 on."""
    return {"optim": {"label_smoothing": 0.1}}


def longer_warmup(base: Base, config: TrialConfig) -> Values:
    """A warm-up to the onset, up to half as much again."""
    schedule = {"kind": "cosine_warmup", "warmup_steps": base.onset, "milestones": []}
    return {"schedule": schedule, "optim": {"lr": 1.5 * config.optim.lr}}


CONTROLS = (
    Variant("healthy", "control"),
    Variant("healthy-from-0", "control", from_start=True),
    Variant("rate-drop", "control", fits=in_steps, changes=lower_rate),
    Variant("warm-up", "control", from_start=True, changes=longer_warmup),
    Variant("mixup-on", "control", swaps=mixup_from),
    Variant("larger-images", "control", changes=larger_images),
    Variant("label-smoothing", "control", from_start=True, changes=smoothed),
    Variant("one-noisy-batch", "control", faults=(("noisy_labels", {"share": 0.8}),), last_steps=1),
    Variant("quarantined-files", "control", damage=truncated(TRUNCATED)),
)
"""A resume is in each fork: the state, the snapshots and, as JSON, the detector come from disk."""
