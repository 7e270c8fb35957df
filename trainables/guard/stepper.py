"""One step of the user's loop, as a plan says.

A plan is what a step is made of; a swap changes it. What a plan overrides is set within `optimizer.step` alone, by
torch's own hooks, so a scheduler never sees it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad_norm_, get_total_norm

from trainables.errors import ConfigError, DataError, complaint
from trainables.step_signals import StepSignals

HYPERPARAMETERS = ("lr", "momentum", "betas", "weight_decay")
"""What schedulers move in an optimizer's groups."""

StepFunction = Callable[[Any], Any]
BatchFunction = Callable[[int], Any]
Groups = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Mixed:
    """What a step under mixup or CutMix returns."""

    losses: Any
    """Of the samples, [n], or their mean."""
    share: Any
    """Of each image and label, what is another one's: a number from 0 to 1, or a tensor of one."""


@dataclass(frozen=True)
class StepPlan:
    """What one step is made of."""

    step: int
    batch: int | None
    """Number of its batch; None: the step is skipped."""
    groups: Groups | None = None
    """Hyperparameters of each group; None: as the loop has set them."""
    fp32: bool = False
    """Use the user's float32 step."""
    frozen_statistics: bool = False
    """Normalise with the running statistics."""
    zero_momentum: bool = False
    """Forget the first moments before it."""
    max_grad_norm: float | None = None
    """Clip the gradient to this norm; inf: only measure it; None: not even that."""


class Batches:
    """The k-th batch: from the user's function, or out of those seen, of which the last `keep` are remembered."""

    def __init__(self, function: BatchFunction | None, keep: int) -> None:
        self.function = function
        self.keep = keep
        self.seen: OrderedDict[int, Any] = OrderedDict()

    def remember(self, number: int, batch: Any) -> None:
        """Keep a reference to a batch that can't be asked for again."""
        self.seen[number] = batch
        while len(self.seen) > self.keep:
            self.seen.popitem(last=False)

    def __call__(self, number: int) -> Any:
        """Batch `number`; DataError where it is neither remembered nor made by a function."""
        if self.function is not None:
            return self.function(number)
        if number not in self.seen:
            known = f"batches {min(self.seen)} to {max(self.seen)}" if self.seen else "none yet"
            raise DataError(complaint("guard.run batch", number, known, "give it, or `batch=` to the guard"))
        return self.seen[number]

    def has(self, number: int) -> bool:
        """Whether it can be had again."""
        return self.function is not None or number in self.seen

    def reaches(self, number: int) -> bool:
        """Whether the data goes on to a batch that nobody has asked for yet."""
        if self.function is None:
            return False
        try:
            self.function(number)
        except (LookupError, StopIteration):
            return False
        return True


class Stepper:
    """Runs the user's step function under a plan, and notes what the optimizer really used."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        step: StepFunction,
        fp32_step: StepFunction | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.batches = batches
        self.step = step
        self.fp32_step = fp32_step
        self.norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        self.used: Groups | None = None
        """Hyperparameters of the last update; None: it made none."""
        self.grad_norm = math.nan
        self._plan: StepPlan | None = None
        self._set_by_loop: Groups | None = None
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_update),
            optimizer.register_step_post_hook(self._after_update),
        ]

    def run(self, plan: StepPlan) -> StepSignals | None:
        """One step; None where the plan skips it."""
        if plan.batch is None:
            self.used = None
            return None
        batch = self.batches(plan.batch)
        step = self.fp32_step if plan.fp32 and self.fp32_step is not None else self.step
        with self.under(plan):
            losses = step(batch)
        return self.read(plan.step, losses)

    def read(self, step: int, losses: Any) -> StepSignals:
        """The signals that a step's losses give."""
        return loss_signals(step, losses, self.hyperparameters()[0].get("lr", math.nan))

    def hyperparameters(self) -> Groups:
        """What the last update used; what the groups hold, where the step made none."""
        return self.used or read_hyperparameters(self.optimizer)

    @contextmanager
    def under(self, plan: StepPlan) -> Iterator[None]:
        """Let the updates within obey `plan`."""
        self._plan, self.used, self.grad_norm = plan, None, math.nan
        frozen = [hook for norm in self.norms for hook in freeze(norm)] if plan.frozen_statistics else []
        try:
            yield
        finally:
            self._plan = None
            for hook in frozen:
                hook.remove()

    def close(self) -> None:
        """Take the hooks out of the optimizer."""
        for hook in self._hooks:
            hook.remove()

    def _before_update(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if self._plan is None:
            return
        if self._plan.groups is not None:
            self._set_by_loop = read_hyperparameters(optimizer)
            write_hyperparameters(optimizer, self._plan.groups)
        if self.used is None:
            self.used = read_hyperparameters(optimizer)
        if self._plan.max_grad_norm is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.grad_norm = float(get_total_norm([p.grad for p in parameters if p.grad is not None]))
            # Clipping to inf multiplies by nan where the norm is inf.
            if math.isfinite(self._plan.max_grad_norm):
                clip_grad_norm_(parameters, self._plan.max_grad_norm)

    def _after_update(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if self._set_by_loop is not None:
            write_hyperparameters(optimizer, self._set_by_loop)
            self._set_by_loop = None


def read_hyperparameters(optimizer: torch.optim.Optimizer) -> Groups:
    """Rate, momentum and decay of each group, as numbers."""
    return tuple(
        {key: _number(group[key]) for key in HYPERPARAMETERS if key in group} for group in optimizer.param_groups
    )


@torch.no_grad()
def write_hyperparameters(optimizer: torch.optim.Optimizer, groups: Groups) -> None:
    """Set them; a rate that lies in a tensor is filled in."""
    for group, values in zip(optimizer.param_groups, groups, strict=True):
        for key, value in values.items():
            if isinstance(group[key], Tensor):
                group[key].fill_(value)
            else:
                group[key] = value


def loss_signals(step: int, returned: Any, learning_rate: float) -> StepSignals:
    """Signals of a step that returned per-sample losses [n], or their mean; or either as `Mixed`.

    Raises:
        ConfigError: it returned something else.

    """
    if not isinstance(returned, Mixed):
        return _of_losses(step, returned, learning_rate)
    share = returned.share
    if isinstance(share, Tensor) and share.numel() == 1:
        share = share.item()
    if not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
        allowed = "what mixup or CutMix took from other images, a number from 0 to 1"
        raise ConfigError(complaint("share of step's return value", share, allowed, "return Mixed(losses, share)"))
    return replace(_of_losses(step, returned.losses, learning_rate), mixed_share=min(share, 1.0 - share))


def _of_losses(step: int, losses: Any, learning_rate: float) -> StepSignals:
    if isinstance(losses, int | float):
        return StepSignals(step, float(losses), learning_rate=learning_rate)
    if not isinstance(losses, Tensor) or losses.numel() == 0:
        allowed = "per-sample losses as a tensor [n], their mean as a tensor, or a number"
        raise ConfigError(complaint("step's return value", losses, allowed, "return the loss"))
    values = losses.detach().double().flatten()
    if values.numel() == 1:
        return StepSignals(step, values.item(), learning_rate=learning_rate)
    mean, error = torch.stack([values.mean(), values.std() / math.sqrt(values.numel())]).tolist()
    return StepSignals(step, mean, loss_noise=error, learning_rate=learning_rate)


def freeze(norm: nn.Module) -> list[Any]:
    """Hooks that let a batch norm use its running statistics, whatever mode the step puts it in."""
    modes: list[bool] = []

    def before(module: nn.Module, _inputs: Any) -> None:
        modes.append(module.training)
        module.training = False

    def after(module: nn.Module, _inputs: Any, _output: Any) -> None:
        module.training = modes.pop()

    return [norm.register_forward_pre_hook(before), norm.register_forward_hook(after)]


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value
