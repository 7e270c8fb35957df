"""References of common practice, for what a config declares that is not practice, and for a state that is not."""

from __future__ import annotations

from dataclasses import replace

import torch

from trainables.config import ModelConfig, OptimConfig, TrialConfig
from trainables.diagnosis.causes import Ingredient
from trainables.ingredients import Edit, Swap
from trainables.norms import NormSettings, batch_norms
from trainables.ranks import Ranks
from trainables.state import Snapshot, TrainState

NOTICEABLE_DECAY = 1e-4
"""Share of the weights that decays away in one step, from which decay is a suspect: half of them in 7,000 steps."""
LARGE_SCALE = 4.0
"""Mean size of a batch norm's gammas that no initialisation gives: they start at 1, or at 0."""


def usual_references(config: TrialConfig, learning_rate: float) -> dict[Ingredient, Swap]:
    """Practice's values of what the config declares otherwise."""
    references: dict[Ingredient, Swap] = {}
    optim, model = config.optim, config.model
    if optim.weight_decay * learning_rate >= NOTICEABLE_DECAY:
        references["weight_decay"] = Swap(
            "no weight decay", lambda i: replace(i, optim=replace(i.optim, weight_decay=0.0))
        )
    plain = OptimConfig()
    if optim.kind in ("adamw", "lamb") and (optim.betas, optim.eps) != (plain.betas, plain.eps):
        references["moments"] = Swap(
            "betas and eps of torch", lambda i: replace(i, optim=replace(i.optim, betas=plain.betas, eps=plain.eps))
        )
    elif optim.kind in ("sgd", "lars") and optim.momentum > plain.momentum:
        references["moments"] = Swap(
            f"momentum {plain.momentum:g}", lambda i: replace(i, optim=replace(i.optim, momentum=plain.momentum))
        )
    defaults = ModelConfig()
    if (model.bn_momentum, model.bn_eps) != (defaults.bn_momentum, defaults.bn_eps):
        settings = NormSettings(defaults.bn_momentum, defaults.bn_eps)
        references["norm_settings"] = Swap("batch norm settings of torch", lambda i: replace(i, norm=settings))
    if config.precision.amp != "fp32":
        scale = 1.0 if config.precision.amp == "fp16" else None
        references["number_format"] = Swap("float32 throughout", lambda i: replace(i, amp="fp32", loss_scale=scale))
    return references


def norm_references(state: TrainState, config: ModelConfig) -> dict[Ingredient, Swap]:
    """The config's settings, where a layer has others: someone set its attributes."""
    declared = (config.bn_momentum, config.bn_eps)
    if all((layer.momentum, layer.eps) == declared for layer in batch_norms(state.model)):
        return {}
    settings = NormSettings(*declared)
    return {
        "norm_settings": Swap("batch norm settings of the config, not the layers'", lambda i: replace(i, norm=settings))
    }


def state_references(state: TrainState, snapshot: Snapshot, *, drifted: bool) -> dict[Ingredient, Swap]:
    """What a snapshot itself has that no sound run has: huge gammas, weights that differ between ranks (`drifted`)."""
    references: dict[Ingredient, Swap] = {}
    scales = {
        layer: f"parameter/{name}.weight"
        for name, layer in state.model.named_modules()
        if layer in set(batch_norms(state.model))
    }
    large = [name for name in scales.values() if float(snapshot.tensors[name].abs().mean()) > LARGE_SCALE]
    if large:
        references["scales"] = _edit_at(snapshot.step, "gammas of mean size 1", _shrink(large))
    if drifted:
        references["rank_state"] = _edit_at(snapshot.step, "the weights of rank 0 on every rank", share_weights)
    return references


def odd_rank(ranks: Ranks, snapshot: Snapshot) -> int | None:
    """A rank whose snapshot holds other weights than most; None where all hold the same."""
    names = sorted(name for name in snapshot.tensors if name.startswith("parameter/"))
    sums = ranks.gather([float(snapshot.tensors[name].double().sum()) for name in names])
    most = max(sums, key=sums.count)
    return next((rank for rank, mine in reversed(list(enumerate(sums))) if mine != most), None)


@torch.no_grad()
def share_weights(state: TrainState) -> None:
    """Give every rank the weights of rank 0."""
    for parameter in state.parameters:
        state.ranks.broadcast(parameter.data)


def _edit_at(step: int, name: str, edit: Edit) -> Swap:
    return Swap(name, lambda i: replace(i, edits=(edit, *i.edits)), step, step + 1)


def _shrink(names: list[str]) -> Edit:
    @torch.no_grad()
    def shrink(state: TrainState) -> None:
        tensors = state.tensors()
        for name in names:
            tensors[name].div_(tensors[name].abs().mean())

    return shrink
