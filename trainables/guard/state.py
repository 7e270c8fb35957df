"""The state of a loop that the guard did not write, copied out and copied back in.

Nothing is aliased: a restore copies into the tensors that are there, so two replays of one snapshot give equal bits.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

MOMENTA = ("momentum_buffer", "exp_avg", "momentum")
"""Names under which optimizers keep their first moment: torch's and timm's."""


class Stateful(Protocol):
    """What can be put back: a scaler, a moving average, a scheduler that the step itself steps."""

    def state_dict(self) -> Any:
        """Everything that it remembers."""

    def load_state_dict(self, state_dict: Any, /) -> object:
        """Remember that again."""


@dataclass(frozen=True)
class RandomState:
    """The global generators of python, numpy, torch and its GPUs."""

    python: tuple[Any, ...]
    numpy: Any
    torch: Tensor
    gpus: tuple[Tensor, ...]

    @classmethod
    def read(cls) -> RandomState:
        """Where the generators stand now; a GPU that nobody has used yet stays asleep."""
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), tuple(gpus))  # noqa: NPY002 - the global one is the loop's

    def write(self) -> None:
        """Put them back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002 - as above
        torch.set_rng_state(self.torch)
        if self.gpus:
            torch.cuda.set_rng_state_all(self.gpus)


@dataclass(frozen=True)
class Stored:
    """A tensor in host memory, and the device that it came from."""

    values: Tensor
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Stored:
        """A copy of `tensor`."""
        return cls(tensor.detach().to("cpu", copy=True), tensor.device)

    def load(self) -> Tensor:
        """A fresh tensor where the first one was."""
        return self.values.to(self.device, copy=True)


@dataclass(frozen=True)
class LoopSnapshot:
    """The state before one step."""

    step: int
    tensors: dict[str, Stored]
    """Weights and buffers by name, then what the optimizer trains besides."""
    gradients: dict[str, Stored]
    moments: tuple[dict[str, Any] | None, ...]
    """The optimizer's state of each parameter, in its groups' order; None: not made yet."""
    groups: tuple[dict[str, Any], ...]
    """The optimizer's groups, but for their parameters."""
    extra: tuple[Any, ...]
    training: tuple[bool, ...]
    """Whether each module is in training mode."""
    randomness: RandomState


class LoopState:
    """Model, optimizer, what else the step changes, and the global generators: live."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Sequence[Stateful] = ()) -> None:
        self.model = model
        self.optimizer = optimizer
        self.extra = tuple(extra)

    def capture(self, step: int) -> LoopSnapshot:
        """Copy everything to host memory, the state before `step`."""
        parameters = self._parameters()
        named = {**parameters, **{f"buffer/{name}": buffer for name, buffer in self.model.named_buffers()}}
        return LoopSnapshot(
            step=step,
            tensors={name: Stored.of(tensor) for name, tensor in named.items()},
            gradients={n: Stored.of(p.grad) for n, p in parameters.items() if p.grad is not None},
            moments=tuple(
                {key: _copied(value) for key, value in self.optimizer.state[p].items()}
                if p in self.optimizer.state
                else None
                for p in self._trained()
            ),
            groups=self.read_groups(),
            extra=tuple(deepcopy(item.state_dict()) for item in self.extra),
            training=tuple(module.training for module in self.model.modules()),
            randomness=RandomState.read(),
        )

    @torch.no_grad()
    def restore(self, snapshot: LoopSnapshot) -> None:
        """Copy a snapshot back into the tensors that are there; state made since is dropped."""
        parameters = self._parameters()
        named = {**parameters, **{f"buffer/{name}": buffer for name, buffer in self.model.named_buffers()}}
        for name, tensor in named.items():
            tensor.copy_(snapshot.tensors[name].values)
        for name, parameter in parameters.items():
            _put_gradient(parameter, snapshot.gradients.get(name))
        for parameter, saved in zip(self._trained(), snapshot.moments, strict=True):
            self._put_moments(parameter, saved)
        self.write_groups(snapshot.groups)
        for item, state in zip(self.extra, snapshot.extra, strict=True):
            item.load_state_dict(deepcopy(state))
        for module, training in zip(self.model.modules(), snapshot.training, strict=True):
            module.training = training
        snapshot.randomness.write()

    def read_groups(self) -> tuple[dict[str, Any], ...]:
        """The optimizer's groups, but for their parameters."""
        return tuple(
            {key: deepcopy(value) for key, value in group.items() if key != "params"}
            for group in self.optimizer.param_groups
        )

    def write_groups(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Set them; a rate that lies in a tensor stays in that tensor."""
        for group, saved in zip(self.optimizer.param_groups, groups, strict=True):
            for key in group.keys() - saved.keys() - {"params"}:
                del group[key]
            for key, value in saved.items():
                if isinstance(value, Tensor) and isinstance(group.get(key), Tensor):
                    group[key].copy_(value)
                else:
                    group[key] = deepcopy(value)

    @torch.no_grad()
    def add_weight_noise(self, relative: float, seed: int) -> None:
        """Multiply each weight by 1 + relative * N(0, 1): a placebo."""
        noise = torch.Generator().manual_seed(seed)
        for parameter in self._trained():
            draw = torch.randn(parameter.shape, generator=noise, dtype=torch.float32)
            parameter.mul_(1.0 + relative * draw.to(parameter.device, parameter.dtype))

    @torch.no_grad()
    def zero_momentum(self) -> None:
        """Forget the first moments; the second ones stay, or an adaptive optimizer's next step would be a jump."""
        for parameter in self._trained():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if key in MOMENTA and isinstance(value, Tensor):
                    value.zero_()

    def _parameters(self) -> dict[str, nn.Parameter]:
        """The model's parameters by name, and those that only the optimizer has."""
        named = dict(self.model.named_parameters())
        known = set(map(id, named.values()))
        return named | {f"optimizer/{i}": p for i, p in enumerate(self._trained()) if id(p) not in known}

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _put_moments(self, parameter: nn.Parameter, saved: dict[str, Any] | None) -> None:
        if saved is None:
            self.optimizer.state.pop(parameter, None)
            return
        live = self.optimizer.state[parameter]
        for key in live.keys() - saved.keys():
            del live[key]
        for key, value in saved.items():
            if isinstance(value, Stored) and isinstance(live.get(key), Tensor):
                live[key].copy_(value.values)
            else:
                live[key] = value.load() if isinstance(value, Stored) else deepcopy(value)


def equal_states(one: Any, other: Any) -> bool:
    """Whether two state dicts hold the same values, tensors bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal_states(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal_states, one, other))
    return bool(one == other)


def _copied(value: Any) -> Any:
    return Stored.of(value) if isinstance(value, Tensor) else deepcopy(value)


def _put_gradient(parameter: nn.Parameter, saved: Stored | None) -> None:
    if saved is None:
        parameter.grad = None
    elif parameter.grad is None:
        parameter.grad = saved.load()
    else:
        parameter.grad.copy_(saved.values)
