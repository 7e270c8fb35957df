"""Optimizers by name: what is decayed, the linear scaling rule, and a step that a bad gradient does not take.

All state exists from the start, so that a snapshot always has the same tensors; nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim.lamb import Lamb
from timm.optim.lars import Lars
from timm.utils.agc import adaptive_clip_grad
from torch import Tensor, nn

from trainables.config import OptimConfig


@dataclass(frozen=True)
class Hyperparameters:
    """What the optimizer of one step uses; of `momentum`, `betas` and `eps` it takes those that its kind has."""

    learning_rate: float
    momentum: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    """Of the parameters that are decayed at all."""

    @classmethod
    def of(cls, config: OptimConfig, learning_rate: float) -> Hyperparameters:
        """Those of `config` at a learning rate."""
        return cls(learning_rate, config.momentum, config.betas, config.eps, config.weight_decay)


def peak_learning_rate(config: OptimConfig, global_batch_size: int) -> float:
    """`lr`, scaled linearly with the batch where `lr_batch_size` is set (Goyal et al. 2017, section 2.1)."""
    if config.lr_batch_size is None:
        return config.lr
    return config.lr * global_batch_size / config.lr_batch_size


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer that `config` names over the trained parameters of `model`, its state as zeros."""
    groups = parameter_groups(model, config)
    momentum: dict[str, Any] = {"momentum": config.momentum, "nesterov": config.nesterov}
    moments: dict[str, Any] = {"betas": config.betas, "eps": config.eps}
    match config.kind:
        case "sgd":
            sgd = torch.optim.SGD(groups, lr=config.lr, fused=config.fused, **momentum)
            return _with_zeros(sgd, "momentum_buffer") if config.momentum > 0 else sgd
        case "lars":
            lars = Lars(groups, lr=config.lr, trust_coeff=config.trust_coefficient, **momentum)
            return _with_zeros(lars, "momentum_buffer") if config.momentum > 0 else lars
        case "adamw":
            adamw = _with_zeros(
                torch.optim.AdamW(groups, lr=config.lr, fused=config.fused, **moments), "exp_avg", "exp_avg_sq"
            )
            for parameter, state in adamw.state.items():
                state["step"] = torch.zeros((), device=parameter.device if config.fused else None)
            return adamw
        case "lamb":
            # It would clip by itself; clipping is the step's business.
            return _with_zeros(Lamb(groups, lr=config.lr, max_grad_norm=None, **moments), "exp_avg", "exp_avg_sq")


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Trained parameters in two groups: decayed, and not."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module, name, parameter in _trained(model):
        if not isinstance(module, nn.Conv2d | nn.Linear):
            decays = config.decay_norms
        elif name == "bias":
            decays = config.decay_biases
        else:
            # The gain of a scaled standardised convolution is the scale of a norm.
            decays = name == "weight" or config.decay_norms
        (decayed if decays else plain).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay, "decayed": True},
        {"params": plain, "weight_decay": 0.0, "decayed": False},
    ]
    if config.kind in ("lars", "lamb"):
        # timm's leave the trust ratio out where the decay is 0, which is meant for the second group alone.
        groups[0]["always_adapt"] = True
    return [group for group in groups if group["params"]]


def _trained(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """(owner, name within it, parameter) of all that is trained."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                yield module, name, parameter


def _with_zeros(optimizer: torch.optim.Optimizer, *names: str) -> torch.optim.Optimizer:
    """Make the state that each parameter will have; the first step then does what it does with lazily made state."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter].update({name: torch.zeros_like(parameter) for name in names})
    return optimizer


def named_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor of the optimizer's state, live, as `momentum_buffer/layer1.0.conv1.weight`."""
    return {
        f"{key}/{name}": value
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
    }


def set_hyperparameters(optimizer: torch.optim.Optimizer, values: Hyperparameters, applied_steps: int) -> None:
    """What the next step uses; `applied_steps` is where an optimizer that counts for itself (lamb) stands."""
    for group in optimizer.param_groups:
        group["lr"] = values.learning_rate
        group["weight_decay"] = values.weight_decay if group["decayed"] else 0.0
        if "momentum" in group:
            group["momentum"] = values.momentum
        else:
            group["betas"], group["eps"] = values.betas, values.eps
        if isinstance(optimizer, Lamb):
            group["step"] = torch.tensor(float(applied_steps))


@torch.no_grad()
def step_unless(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """One step, unless `bad` (float32, 0-dim, on the device) is 1: then no weight and no state changes."""
    if any(group.get("fused") for group in optimizer.param_groups):
        # Torch's own hook for gradients that overflowed; its kernels read it on the device.
        optimizer.found_inf = bad  # type: ignore[attr-defined] # set by torch's GradScaler in the same way
        optimizer.step()
        return
    touched = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    touched += [value for state in optimizer.state.values() for value in state.values()]
    held = [tensor.clone() for tensor in touched]
    optimizer.step()
    for tensor, before in zip(touched, held, strict=True):
        tensor.copy_(torch.where(bad.to(tensor.device) > 0, before, tensor))


def clip_unitwise(model: nn.Module, largest: float) -> None:
    """Adaptive gradient clipping of all but the classifier (Brock et al. 2021, section 4.1).

    `largest`: a unit's gradient norm over the norm of its weights.
    """
    adaptive_clip_grad(
        [parameter for module, _, parameter in _trained(model) if not isinstance(module, nn.Linear)], largest
    )
