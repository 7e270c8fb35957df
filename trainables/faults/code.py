"""Faults of the code: of a step, of one rank, of the metric."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from trainables.faults.build import Fault, edit_state
from trainables.ingredients import Batch, Change, Ingredients
from trainables.loop import train_step
from trainables.losses import count_right
from trainables.optim import step_unless
from trainables.recipe import Recipe
from trainables.rng import generator
from trainables.signals import BAD, StepRecord
from trainables.state import TrainState


def missing_zero_grad(_recipe: Recipe) -> Change:
    """Gradients are never cleared: each step's is the sum of all before."""

    def code(state: TrainState, ingredients: Ingredients, batch: Batch, /, *, notice: bool = False) -> StepRecord:
        stale = [None if p.grad is None else p.grad.clone() for p in state.parameters]

        def add(state: TrainState) -> None:
            for parameter, gradient in zip(state.parameters, stale, strict=True):
                if gradient is not None and parameter.grad is not None:
                    parameter.grad.add_(gradient)

        return train_step(state, replace(ingredients, gradient_edits=(add,)), batch, notice=notice)

    return lambda ingredients: replace(ingredients, code=code)


def double_step(_recipe: Recipe) -> Change:
    """The optimizer steps twice on each gradient."""

    def code(state: TrainState, ingredients: Ingredients, batch: Batch, /, *, notice: bool = False) -> StepRecord:
        record = train_step(state, ingredients, batch, notice=notice)
        step_unless(state.optimizer, record.after[BAD].float())
        return record

    return lambda ingredients: replace(ingredients, code=code)


def accumulation_unscaled(_recipe: Recipe, *, parts: int) -> Change:
    """The gradients of `parts` micro-batches are added up and not divided by their number."""

    def scale(state: TrainState) -> None:
        for parameter in state.parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(parts)

    return lambda ingredients: replace(ingredients, gradient_edits=(*ingredients.gradient_edits, scale))


def rank_desync(_recipe: Recipe, *, rank: int = 1, relative: float = 0.3) -> Fault:
    """One rank's weights move away from the others', by noise of `relative` size."""

    @torch.no_grad()
    def move(state: TrainState) -> None:
        if state.ranks.rank == rank:
            state.add_weight_noise(relative, seed=rank)

    return edit_state(move)


def wrong_metric(recipe: Recipe) -> Fault:
    """The accuracy is counted against other samples' labels; the loss is right."""

    def metric(logits: Tensor, labels: Tensor) -> Tensor:
        order = generator(recipe.config.seed, "wrong_metric").permutation(len(labels))
        return count_right(logits, labels[torch.from_numpy(order).to(labels.device)])

    return Fault(evaluation=lambda ingredients: replace(ingredients, metric=metric))
