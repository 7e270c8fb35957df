"""What a whole step did to the weights, beside what its optimizer's rule says.

A step's code may be anyone's, so it is looked at from outside: a second step, another rate or an edit of the weights
shows whatever it does to the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from timm.optim.lamb import Lamb
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from trainables.fingerprints import checksum_spread, of_every_rank, update_ratio, weight_checksum, weight_norm
from trainables.optim import Hyperparameters
from trainables.signals import StepRecord
from trainables.state import TrainState

LEAST_RATIO = 1e-5
"""Update ratio below which an error is measured against it: there the weights' own rounding is much of an update."""
Group = dict[str, Any]
"""Of an optimizer's parameters."""


class Update:
    """The change of the weights over one step.

    Made before the step; `add_to` after it, on all ranks. Nothing is changed, and nothing waits for the device.

    Args:
        state: that the step starts from.

    """

    def __init__(self, state: TrainState) -> None:
        self.state = state
        self.before = {p: p.detach().clone() for p in state.parameters}

    @torch.no_grad()
    def add_to(self, record: StepRecord, optim: Hyperparameters) -> StepRecord:
        """The record with the values that `OF_WEIGHTS` names, float64 on the device.

        `optim`: what the optimizer was to use. Ratio and norm are rank 0's, the error is that of the worst rank.
        """
        weights, groups = [p.detach() for p in self.before], self.state.optimizer.param_groups
        rules = [rule_of(self.state.optimizer, group, self.before, optim, record.step) for group in groups]
        norm = weight_norm(weights)
        ratio = update_ratio(weights, list(self.before.values()), norm)
        # That has left the change in `before`; what remains of it without the rule's is the error.
        rest: list[Tensor] = []
        for group, rule in zip(groups, rules, strict=True):
            own = [self.before[p] for p in touched(group)]
            if rule:
                torch._foreach_sub_(own, rule, alpha=optim.learning_rate)
            rest += own
        known = bool(rest) and None not in rules
        error = get_total_norm(rest) / norm / ratio.clamp_min(LEAST_RATIO) if known else norm.new_tensor(torch.nan)
        return replace(record, of_weights=self._of_all_ranks(ratio, norm, error))

    def _of_all_ranks(self, ratio: Tensor, norm: Tensor, error: Tensor) -> Tensor:
        """The same on every rank."""
        ranks, mine = self.state.ranks, [value.double() for value in (ratio, norm, error)]
        if ranks.world_size == 1:
            return torch.stack([*mine, torch.full_like(mine[0], torch.nan)])
        rows = of_every_rank(torch.stack([*mine, weight_checksum([p.detach() for p in self.before])]), ranks)
        return torch.stack([rows[0, 0], rows[0, 1], rows[:, 2].max(), checksum_spread(rows[:, 3])])


def touched(group: Group) -> list[nn.Parameter]:
    """Parameters that a step changes: those with a gradient."""
    return [parameter for parameter in group["params"] if parameter.grad is not None]


def rule_of(
    optimizer: torch.optim.Optimizer,
    group: Group,
    before: dict[nn.Parameter, Tensor],
    optim: Hyperparameters,
    step: int,
) -> list[Tensor] | None:
    """What one step takes from each touched weight, over the learning rate, by the optimizer's state after the step.

    None: it can't be told, as of timm's LARS without momentum or with Nesterov's, whose scaled gradients are not kept.
    Sources: Sutskever et al. 2013, Loshchilov and Hutter 2019, You et al. 2020, as torch and timm have them.
    """
    parameters = touched(group)
    weights, states = [before[p] for p in parameters], [optimizer.state[p] for p in parameters]
    decay = optim.weight_decay if group["decayed"] else 0.0
    if not weights:
        return []
    if "betas" in group:
        rule = adaptive_rule(states, weights, optim, decay, step)
        return layerwise(rule, weights) if isinstance(optimizer, Lamb) and (decay or group["always_adapt"]) else rule
    averages = [state["momentum_buffer"] for state in states if "momentum_buffer" in state]
    if averages and not group["nesterov"]:
        return averages
    if isinstance(optimizer, Lars):
        return None
    gradients = [p.grad for p in parameters if p.grad is not None]
    rule = list(torch._foreach_add(gradients, weights, alpha=decay))  # noqa: SLF001 - as torch's optimizers do
    if averages:
        torch._foreach_add_(rule, averages, alpha=optim.momentum)
    return rule


def adaptive_rule(
    states: Sequence[dict[str, Tensor]], weights: Sequence[Tensor], optim: Hyperparameters, decay: float, step: int
) -> list[Tensor]:
    """Adam's, with a decoupled decay; `step` counts for an optimizer that keeps no count of its own."""
    count = states[0].get("step", torch.tensor(step + 1.0)).double().to(weights[0].device)
    first, second = (1.0 - beta**count for beta in optim.betas)
    pairs = zip(states, weights, strict=True)
    return [
        (s["exp_avg"] / first).div_((s["exp_avg_sq"].sqrt() / second.sqrt()).add_(optim.eps)).add_(w, alpha=decay)
        for s, w in pairs
    ]


def layerwise(rule: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """LAMB's: each tensor's update as long as its weights, where neither is 0."""
    lengths = [(w.norm(), r.norm()) for w, r in zip(weights, rule, strict=True)]
    ratios = [torch.where((w > 0) & (r > 0), w / r, 1.0) for w, r in lengths]
    return [r * ratio for r, ratio in zip(rule, ratios, strict=True)]
