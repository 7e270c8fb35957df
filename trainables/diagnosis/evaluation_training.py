"""An eval gap that the evaluation does not explain: what was trained on since the last good one is swapped in replays.

The same plan as for any symptom of training, with another measure: the loss of a fixed batch of val/ on the reference
path, in training mode, after each replay.
"""

from __future__ import annotations

from dataclasses import replace

from trainables.baseline import Baseline
from trainables.config import TrialConfig
from trainables.detectors import Symptom
from trainables.diagnosis.case import Progress
from trainables.diagnosis.causes import UNEXPLAINED
from trainables.diagnosis.diagnose import MARGIN, diagnose
from trainables.diagnosis.evaluation_gap import diagnose_evaluation
from trainables.diagnosis.references.sound import on_val
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.verdict import Diagnosis
from trainables.ingredients import EvaluationStream, Ingredients, Stream, load_batch
from trainables.loop import score_batch
from trainables.recipe import Recipe
from trainables.rng import generator
from trainables.state import TrainState

SAMPLES = 256
"""Samples of val/ that are scored after each replay."""
UNITS = 12.0
"""Noise units of the rise of the loss, or of one by as much as guessing costs: at the default thresholds half of it is
the event, and a quarter is none."""
LEAST_RISE = 0.1
"""Rise, as a share of chance, that replays can be compared by: a model that has learned little has little to lose."""


def diagnose_gap(
    recipe: Recipe,
    state: TrainState,
    evaluations: EvaluationStream,
    stream: Stream,
    symptom: Symptom,
    snapshots: SnapshotRing,
    recorded: dict[int, float],
    progress: Progress = lambda label: None,
) -> Diagnosis:
    """Find the cause of an eval gap in the evaluation, and where it is not there, in the training since the last good.

    All ranks together, as `diagnose_evaluation` and `diagnose`, whose parameters these are.
    """
    found = diagnose_evaluation(recipe, state, evaluations, stream, symptom, snapshots, progress)
    if found.cause != UNEXPLAINED:
        return found
    clean = val_ingredients(recipe, state)
    in_training = training_symptom(recipe.config, state, symptom, snapshots, clean)
    if in_training is None:
        return found
    second = diagnose(recipe, state, stream, in_training, snapshots, recorded, progress, clean=clean)
    if second.cause == UNEXPLAINED:
        steps, seconds = (getattr(found, name) + getattr(second, name) for name in ("replayed_steps", "seconds"))
        return replace(found, replayed_steps=steps, seconds=seconds)
    return second


def val_ingredients(recipe: Recipe, state: TrainState) -> Ingredients:
    """A fixed batch of val/ on the reference path."""
    world_size, num_samples = state.ranks.world_size, len(recipe.index.val)
    size = min(SAMPLES, num_samples) // world_size * world_size
    ids = generator(recipe.config.seed, "val_batch").choice(num_samples, size=size, replace=False)
    return replace(on_val(recipe, recipe.ingredients(0), ids), mix=None)


def training_symptom(
    config: TrialConfig, state: TrainState, symptom: Symptom, snapshots: SnapshotRing, clean: Ingredients
) -> Symptom | None:
    """The gap as a rise of the clean batch's loss since the last good evaluation; None where it did not rise.

    The live state is put back, gradients included.
    """
    onset = max(0, symptom.onset - config.eval_every)
    good, live = snapshots.before(onset, margin=MARGIN)[0], state.snapshot(gradients=True)
    batch = load_batch(clean, state.ranks)
    now = score_batch(state, clean, batch)
    state.restore(good)
    before = score_batch(state, clean, batch)
    state.restore(live)
    rise, chance = now - before, symptom.baseline.chance
    if not rise > LEAST_RISE * chance:
        return None
    # Beyond guessing every loss is as bad.
    noise = min(rise, chance) / UNITS
    baseline = Baseline(before, noise, chance)
    return replace(symptom, onset=onset, step=live.step - 1, severity=baseline.loss_score(now), baseline=baseline)
