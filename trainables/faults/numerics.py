"""Faults of the number format and of the hardware."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from trainables.data.mixing import Mix
from trainables.errors import ConfigError, complaint
from trainables.faults.build import Fault, edit_state
from trainables.ingredients import Change
from trainables.model import build_model
from trainables.recipe import Recipe
from trainables.state import TrainState


def half_precision(_recipe: Recipe, *, loss_scale: float) -> Change:
    """float16 under a fixed loss scale: too large a one overflows, too small a one loses small gradients."""
    return lambda ingredients: replace(ingredients, amp="fp16", loss_scale=loss_scale)


def unstable_loss(_recipe: Recipe) -> Change:
    """The logarithm of a softmax: infinite, and its gradient NaN, where a probability underflows."""

    def loss(logits: Tensor, labels: Tensor, _mix: Mix | None) -> Tensor:
        return -torch.log(torch.softmax(logits.float(), 1).gather(1, labels[:, None])).squeeze(1)

    return lambda ingredients: replace(ingredients, loss=loss)


def bit_flip(recipe: Recipe, *, parameter: str, bit: int = 30, rank: int = 0) -> Fault:
    """One bit of a parameter's first value flips on one rank, as in faulty memory; no replay brings it back."""
    if not 0 <= bit <= 31:
        raise ConfigError(complaint("faults.params.bit", bit, "0 to 31 of a float32", "choose one of these"))

    if parameter not in parameter_names(recipe):
        allowed = f"a parameter of {recipe.config.model.name}, for example fc.weight"
        raise ConfigError(complaint("faults.params.parameter", parameter, allowed, "correct it"))

    @torch.no_grad()
    def flip(state: TrainState) -> None:
        if state.ranks.rank == rank:
            values = state.model.get_parameter(parameter).view(-1).view(torch.int32)
            values[:1] ^= torch.tensor([1 << bit if bit < 31 else -(1 << 31)], dtype=torch.int32, device=values.device)

    return edit_state(flip, live=True)


def parameter_names(recipe: Recipe) -> set[str]:
    """Names of the network's parameters, without making them."""
    config = recipe.config
    with torch.device("meta"):
        classes, side = len(recipe.index.classes), config.data.image_size
        model = build_model(config.model, num_classes=classes, image_size=side, seed=config.seed)
    return {name for name, _ in model.named_parameters()}
