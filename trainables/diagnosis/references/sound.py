"""References for what lies below the seam: an optimizer that was tampered with, moments that were counted wrongly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trainables.config import OptimConfig
from trainables.data.normalize import Normalization
from trainables.ingredients import Batch, Ingredients, Stream, Swap, load_batch, with_swaps
from trainables.loop import train_step
from trainables.optim import build_optimizer
from trainables.recipe import Recipe
from trainables.rng import generator
from trainables.signals import StepRecord
from trainables.state import Snapshot, TrainState

OTHER_UPDATE = 0.05
"""Relative difference of one update from that of an optimizer built anew, from which the run's own is another."""
COUNTED = 256
"""Images that the channel moments are counted over."""
OFF = 0.25
"""Distance of the index's moments from the counted ones, in units of a channel's std or of log-std, that is a
discrepancy."""


def sound_optimizer(state: TrainState, config: OptimConfig, stream: Stream, snapshot: Snapshot) -> Swap | None:
    """The reference step with an optimizer built anew on the same weights and moments; None: it makes no difference.

    Two steps of both are compared, and of the run's own once more where they differ: a step that does not repeat itself
    says nothing of the optimizer. The state is the snapshot's afterwards.
    """
    fresh = build_optimizer(state.model, config)
    for parameter, moments in state.optimizer.state.items():
        fresh.state[parameter] = moments

    def code(state: TrainState, ingredients: Ingredients, batch: Batch, /, *, notice: bool = False) -> StepRecord:
        own, state.optimizer = state.optimizer, fresh
        try:
            return train_step(state, ingredients, batch, notice=notice)
        finally:
            state.optimizer = own

    swap = Swap("the reference step with an optimizer built anew", lambda i: replace(i, code=code))
    # Half precision need not repeat itself, and what an optimizer does with a gradient is the same in float32.
    plain = Swap("float32", lambda i: replace(i, amp="fp32", loss_scale=1.0))
    own, other = (update_of(state, with_swaps(stream, swaps), snapshot) for swaps in ([plain], [swap, plain]))
    tampered = state.ranks.total(are_far(own, other)) > 0
    if tampered:
        again = update_of(state, with_swaps(stream, [plain]), snapshot)
        tampered = not state.ranks.total(are_far(own, again))
    state.restore(snapshot)
    return swap if tampered else None


def update_of(state: TrainState, stream: Stream, snapshot: Snapshot) -> Tensor:
    """What the second step from a snapshot does to the weights, flat; the first one leaves its gradients behind."""
    state.restore(snapshot)
    state.model.train()
    for step in (snapshot.step, snapshot.step + 1):
        before = torch.cat([p.detach().flatten().double() for p in state.parameters])
        ingredients = stream(step)
        ingredients.code(state, ingredients, load_batch(ingredients, state.ranks))
    return torch.cat([p.detach().flatten().double() for p in state.parameters]) - before


def are_far(one: Tensor, other: Tensor) -> bool:
    """Whether two updates differ by more than rounding does."""
    finite = torch.isfinite(one)
    if not torch.equal(finite, torch.isfinite(other)):
        return True
    one, other = one[finite], other[finite]
    return float((one - other).norm()) > OTHER_UPDATE * float(other.norm())


def counted_normalization(recipe: Recipe, pool: np.ndarray) -> Normalization | None:
    """Normalisation by moments counted anew over some samples; None where the index's are right."""
    ids = generator("counted", recipe.config.seed).permutation(pool)[:COUNTED]
    pixels = recipe.train.fetch(ids, None).double() / 255
    mean, std = pixels.mean(dim=(0, 1, 2)).tolist(), pixels.std(dim=(0, 1, 2)).tolist()
    pairs = zip(mean, std, recipe.index.channel_mean, recipe.index.channel_std, strict=True)
    off = max(max(abs(m - m0) / max(s, 1e-6), abs(math.log(max(s, 1e-6) / s0))) for m, s, m0, s0 in pairs)
    if off < OFF:
        return None
    return Normalization("counted", tuple(mean), tuple(std), 1 / 255, reverse_channels=False)


def trusted_subset(recipe: Recipe) -> Swap:
    """Samples and labels of val/ in the place of train/'s, through the reference path: another draw at each step."""

    def apply(ingredients: Ingredients) -> Ingredients:
        rng, size = generator(recipe.config.seed, "trusted", ingredients.step), len(ingredients.sample_ids)
        return on_val(recipe, ingredients, rng.integers(0, len(recipe.index.val), size))

    return Swap("samples and labels of val/", apply)


def on_val(recipe: Recipe, ingredients: Ingredients, ids: np.ndarray) -> Ingredients:
    """The step on samples `ids` of val/, int64 [n], with their labels and through the reference path."""
    return replace(
        ingredients,
        sample_ids=ids,
        epochs=np.zeros_like(ids),
        decode=lambda ids, _epochs: recipe.val.fetch(ids, None),
        normalize=recipe.reference_normalization,
        label=lambda ids, _epochs: recipe.index.val.labels[ids],
    )
