"""Faults of the learning rate, the optimizer's settings and its state."""

from __future__ import annotations

from dataclasses import replace

from trainables.faults.build import Fault, edit_state
from trainables.ingredients import Change
from trainables.optim import peak_learning_rate
from trainables.recipe import Recipe
from trainables.schedules import build_schedule
from trainables.state import TrainState


def learning_rate_factor(_recipe: Recipe, *, factor: float) -> Change:
    """The rate is multiplied by `factor`, as by a wrong milestone."""
    return lambda ingredients: ingredients.at_rate(ingredients.learning_rate * factor)


def learning_rate_of_another_step(recipe: Recipe, *, offset: int) -> Change:
    """The rate is that of `offset` steps later (negative: earlier), as after a resume at the wrong step."""
    return lambda ingredients: ingredients.at_rate(recipe.rate_at(max(0, ingredients.step + offset)))


def no_warmup(recipe: Recipe) -> Change:
    """The rate is at its peak from the first step on, until the schedule has risen to it."""
    rates = [recipe.rate_at(step) for step in range(recipe.config.max_steps)]
    top = rates.index(max(rates))
    return lambda ingredients: ingredients.at_rate(rates[top]) if ingredients.step < top else ingredients


def wrong_t_max(recipe: Recipe, *, t_max: int) -> Change:
    """A cosine that was made for `t_max` steps: trained past it, the rate climbs again."""
    schedule = recipe.config.schedule.model_copy(update={"t_max": t_max})
    peak = peak_learning_rate(recipe.config.optim, recipe.config.global_batch_size)
    rate_at = build_schedule(schedule, peak, recipe.config.max_steps)
    return lambda ingredients: ingredients.at_rate(rate_at(ingredients.step))


def weight_decay(_recipe: Recipe, *, value: float) -> Change:
    """The decay of the weights is `value`."""
    return lambda i: replace(i, optim=replace(i.optim, weight_decay=value))


def moment_decay(_recipe: Recipe, *, beta2: float, eps: float = 1e-8) -> Change:
    """The second moment of adamw or lamb is kept with a poor decay, or divided by with a poor eps."""
    return lambda i: replace(i, optim=replace(i.optim, betas=(i.optim.betas[0], beta2), eps=eps))


def optimizer_state_lost(_recipe: Recipe) -> Fault:
    """Momentum and second moments are zero again, as after a resume that left them out."""

    def lose(state: TrainState) -> None:
        for name, tensor in state.tensors().items():
            if name.startswith("optimizer/"):
                tensor.zero_()

    return edit_state(lose)
