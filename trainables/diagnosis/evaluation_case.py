"""One diagnosis of an eval gap under way: what its evaluations share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional as F

from trainables.config import TrialConfig
from trainables.detectors import Symptom
from trainables.diagnosis.case import Progress
from trainables.diagnosis.causes import Ingredient
from trainables.diagnosis.evaluation_severity import GapSeverity, Score
from trainables.diagnosis.evaluation_statistics import Statistics, set_statistics
from trainables.diagnosis.swap_table import ABSENT_SHARE, Thresholds
from trainables.evaluation import evaluate
from trainables.ingredients import EvaluationIngredients, Ingredients, Stream, Swap, load_batch
from trainables.loop import forward, to_input
from trainables.precision import matrix_precision
from trainables.recipe import Recipe
from trainables.rng import generator
from trainables.state import Snapshot, TrainState

log = logging.getLogger(__name__)

SAMPLES = 2048
"""Samples of val/ that are scored; all of a smaller split."""
TRAIN_SAMPLES = 512
"""Samples of the latest steps that stand for the training data."""
STEPS = 64
"""Steps at most that these are taken from."""


@dataclass(frozen=True)
class Reference:
    """The reference value of one ingredient of an evaluation."""

    ingredient: Ingredient
    """running_statistics, evaluation_pixels, pixels, evaluation_norm, metric or labels."""
    swap: Swap
    statistics: Statistics | None = None
    """Instead of the run's own; None: these stay."""


@dataclass
class EvaluationCase:
    """Everything that the evaluations of one diagnosis share."""

    config: TrialConfig
    recipe: Recipe
    state: TrainState
    stream: Stream
    as_run: EvaluationIngredients
    """The evaluation after the state's last step, faults included, over the samples that are scored."""
    symptom: Symptom
    severity: GapSeverity
    thresholds: Thresholds
    progress: Progress
    own: Statistics
    before: Snapshot
    replayed_steps: int = 0
    exact: float = 0.0
    """Severity of the gap as it was, once it is known."""

    @property
    def table_thresholds(self) -> Thresholds:
        """What is absent beside so severe a gap; a remedy is judged by `thresholds`."""
        return replace(self.thresholds, absent=self.thresholds.beside(self.exact, ABSENT_SHARE, rest=True).absent)

    @property
    def last_step(self) -> int:
        """The last step before the evaluation."""
        return self.before.step - 1

    @cached_property
    def trained(self) -> Ingredients:
        """The last step, as the run had it."""
        return self.stream(self.last_step)

    @cached_property
    def train_ids(self) -> np.ndarray:
        """Samples of the latest steps, sorted, each once."""
        return np.unique(np.concatenate([i.sample_ids for i in self._latest_steps()]))

    def score(
        self,
        label: str,
        references: Sequence[Reference],
        *,
        ids: np.ndarray | None = None,
        training: bool = False,
        batch_size: int = 256,
    ) -> Score:
        """Evaluate with `references` in place of the run's own values.

        ids: of val/; None: all that are scored. training: instead, samples that the run has trained on, not augmented,
        against the labels that it trained on.
        """
        self.progress(label)
        ingredients, statistics = self.as_run, self.own
        for reference in references:
            ingredients = reference.swap.of_evaluation(ingredients)
            statistics = reference.statistics or statistics
        if training:
            ingredients = self.on_training_data(ingredients)
        elif ids is not None:
            ingredients = replace(ingredients, sample_ids=ids)
        set_statistics(self.state, statistics)
        threads = self.config.data.loader_threads
        scores = evaluate(self.state, ingredients, batch_size=batch_size, loader_threads=threads)
        set_statistics(self.state, self.own)
        log.info("evaluation, %s: top-1 %.4f, loss %.4g", label, scores.top1, scores.loss)
        return Score(scores.top1, scores.loss, len(ingredients.sample_ids), scores.input_moments)

    def on_training_data(self, ingredients: EvaluationIngredients) -> EvaluationIngredients:
        """The same of training samples."""
        source = replace(self.recipe.val, split=self.recipe.index.train, quarantine=self.recipe.train.quarantine)
        return replace(ingredients, sample_ids=self.train_ids, decode=source.fetch_sound, label=self.trained_label)

    def trained_label(self, ids: np.ndarray) -> np.ndarray:
        """Labels that the run trained on, of training samples."""
        return self.trained.label(ids, np.full(len(ids), self.trained.epochs[0]))

    @torch.no_grad()
    def score_training_mode(self) -> Score:
        """The latest steps' batches in training mode: what training shows, but for mixed images."""
        self.progress("training mode")
        state, totals = self.state, torch.zeros(3, dtype=torch.float64, device=self.state.device)
        state.model.train()
        for ingredients in self._latest_steps():
            batch = load_batch(ingredients, state.ranks)
            with state.held_buffers(), matrix_precision(ingredients.amp, state.device):
                images = to_input(batch.images, ingredients.normalize, state)
                logits = forward(state, state.model, ingredients, images, batch.companions).float()
            labels = batch.labels.to(state.device)
            losses, right = F.cross_entropy(logits, labels, reduction="sum"), (logits.argmax(1) == labels).sum()
            totals += torch.stack([right.double(), losses.double(), torch.full_like(losses.double(), len(labels))])
        right, losses, count = state.ranks.sum(totals).tolist()
        return Score(right / count, losses / count, int(count))

    def _latest_steps(self) -> list[Ingredients]:
        batch = self.config.global_batch_size
        done = self.before.step
        steps = max(1, min(done, STEPS, -(-TRAIN_SAMPLES // batch)))
        return [replace(self.stream(k), mix=None) for k in range(done - steps, done)]


def scored_ids(recipe: Recipe, ids: np.ndarray) -> np.ndarray:
    """Which samples of a split stand for all of it, in their order."""
    if len(ids) <= SAMPLES:
        return ids
    drawn = generator(recipe.config.seed, "evaluation_gap").choice(len(ids), size=SAMPLES, replace=False)
    return np.asarray(ids[np.sort(drawn)])
