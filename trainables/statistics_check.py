"""Running statistics put to the test: the same samples of val/ by them, and by the statistics of their own batch.

The weights were trained by the latter. What they classify right, and the running statistics don't, is lost to these:
they lag behind the weights, follow single batches, or were damaged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from trainables.detectors.eval_gap import EvaluationSignals
from trainables.evaluation import Evaluation
from trainables.ingredients import EvaluationIngredients
from trainables.loop import to_input
from trainables.norms import batch_norms, norm_settings, whole_batch_statistics
from trainables.precision import autocast, matrix_precision
from trainables.rng import generator
from trainables.state import TrainState

SAMPLES = 128
"""Samples of val/ that are compared, the same ones each time."""
LEAST = 16
"""Samples of one rank below which their own statistics say nothing."""


@dataclass(frozen=True)
class StatisticsCheck:
    """Top-1 on the same samples of val/, over all ranks."""

    batch_top1: float
    """By the statistics of their batch."""
    lost: float
    """This less that by the running statistics."""
    noise: float
    """Standard error of `lost`, of paired samples (McNemar 1947)."""


@torch.no_grad()
def check_statistics(state: TrainState, ingredients: EvaluationIngredients) -> StatisticsCheck | None:
    """Compare the two, with averaged weights where there are any; None: no batch norm, or hardly a sample.

    Call it after `evaluate`, which gives all ranks the same running statistics.
    """
    layers, ids, ranks = batch_norms(state.model), ingredients.sample_ids, state.ranks
    if not layers or len(ids) < LEAST * ranks.world_size:
        return None
    # In the order of the classes a batch would hold few of them.
    drawn = ids[generator("statistics check", len(ids)).permutation(len(ids))[:SAMPLES]]
    images, kept = ingredients.decode(drawn[ranks.rank :: ranks.world_size])
    labels = torch.from_numpy(ingredients.label(kept)).to(state.device)
    inputs = to_input(images, ingredients.normalize, state)
    rights = []
    state.model.eval()
    with state.averaged_weights(), state.held_buffers(), matrix_precision(ingredients.amp, state.device):
        for by_batch in (False, True):
            for layer in layers:
                layer.train(by_batch)
            # Small groups of ghost batch norm are noise, which running statistics average out.
            whole, settings = whole_batch_statistics(state.model), norm_settings(state.model, ingredients.norm)
            with whole, settings, autocast(ingredients.amp, state.device):
                rights.append(state.model(inputs).argmax(dim=1) == labels)
    state.model.train()
    running, batch = rights
    pairs = torch.stack([batch, batch & ~running, running & ~batch, torch.ones_like(batch)])
    right, gained, missed, count = ranks.sum(pairs.sum(1, dtype=torch.float64)).tolist()
    return StatisticsCheck(right / count, (gained - missed) / count, math.sqrt(gained + missed + 1.0) / count)


def evaluation_signals(
    state: TrainState, ingredients: EvaluationIngredients, scores: Evaluation, *, final: bool
) -> EvaluationSignals:
    """What the detector wants to know of an evaluation of the live state, which gave `scores`."""
    check = check_statistics(state, ingredients)
    told = {} if check is None else {"batch_top1": check.batch_top1, "lost": check.lost, "lost_noise": check.noise}
    moments = scores.input_moments
    return EvaluationSignals(state.step, scores.loss, scores.top1, final=final, input_moments=moments, **told)
