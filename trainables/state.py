"""The state that a step reads and writes, and copies of it.

A snapshot copies every tensor out; restoring copies back into the existing storage, so nothing is aliased and two
replays of one snapshot give equal bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables.optim import named_state
from trainables.precision import LossScale
from trainables.ranks import Ranks


@dataclass(frozen=True)
class Snapshot:
    """The state before global step `step`: every tensor of it by name, in host memory."""

    step: int
    tensors: dict[str, Tensor]


class TrainState:
    """Model, optimizer and what else a step changes, on one device; wrapped for DDP where there are several ranks.

    Args:
        model: on its device, in its memory format.
        optimizer: with all of its state made.
        device: where the model lies.
        ranks: the process group.
        memory_format: of images.
        ema_decay: decay of the weights' moving average; None: none is kept.
        scale_loss: True: keep an fp16 loss scale.
        micro_batch_size: most samples that go through the network at once; None: a rank's whole share.

    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        ranks: Ranks,
        memory_format: torch.memory_format = torch.channels_last,
        *,
        ema_decay: float | None = None,
        scale_loss: bool = False,
        micro_batch_size: int | None = None,
    ) -> None:
        self.step = 0
        """Next step to run."""
        self.model = model
        self.optimizer = optimizer
        self.device = device
        self.ranks = ranks
        self.memory_format = memory_format
        self.micro_batch_size = micro_batch_size
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.buffers = gather_buffers(model)
        self.loss_scale = LossScale(device) if scale_loss else None
        self.ema_decay = ema_decay
        self.averages = {n: t.detach().clone() for n, t in self._averaged().items()} if ema_decay is not None else {}
        self.network: nn.Module = model
        if ranks.world_size > 1:
            self.network = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, live, not copied."""
        named: dict[str, Tensor] = {f"parameter/{name}": p.data for name, p in self.model.named_parameters()}
        named |= {f"buffer/{name}": b for name, b in self.model.named_buffers()}
        named |= {f"optimizer/{name}": t for name, t in named_state(self.model, self.optimizer).items()}
        named |= {f"average/{name}": t for name, t in self.averages.items()}
        if self.loss_scale is not None:
            named |= {f"loss_scale/{name}": t for name, t in self.loss_scale.tensors().items()}
        return named

    def snapshot(self, *, gradients: bool = False) -> Snapshot:
        """Copy the state to host memory; with the last step's `gradients`, where the code of a step looks at them."""
        named = self.tensors()
        if gradients:
            named |= {f"gradient/{n}": p.grad for n, p in self.model.named_parameters() if p.grad is not None}
        return Snapshot(self.step, {name: t.detach().to("cpu", copy=True) for name, t in named.items()})

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Copy a snapshot back into the existing storage; gradients that it doesn't have are cleared."""
        for name, tensor in self.tensors().items():
            tensor.copy_(snapshot.tensors[name])
        self.step = snapshot.step
        for name, parameter in self.model.named_parameters():
            gradient = snapshot.tensors.get(f"gradient/{name}")
            parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True).view_as(parameter)

    @contextmanager
    def held_buffers(self) -> Iterator[list[Tensor]]:
        """Put the buffers back afterwards; yields their values of before."""
        before = self.copy_buffers()
        yield before
        for buffer, held in zip(self.buffers, before, strict=True):
            buffer.copy_(held)

    def copy_buffers(self) -> list[Tensor]:
        """The values of the buffers, one tensor a dtype."""
        return [buffer.clone() for buffer in self.buffers]

    @torch.no_grad()
    def undo_buffers(self, before: list[Tensor], bad: Tensor) -> None:
        """Put the buffers back where `bad` (0-dim) is set, without asking the device."""
        for buffer, held in zip(self.buffers, before, strict=True):
            buffer.copy_(torch.where(bad > 0, held, buffer))

    @torch.no_grad()
    def update_averages(self, bad: Tensor, step: int) -> None:
        """Move the averages towards the weights after `step`, unless `bad` is set.

        The decay grows to `ema_decay` as (1 + step) / (10 + step), or the first, random weights would stay in the
        average for a multiple of 1 / (1 - ema_decay) steps. Source: TensorFlow's ExponentialMovingAverage.
        """
        if self.ema_decay is None:
            return
        decay = min(self.ema_decay, (1.0 + step) / (10.0 + step))
        weight = (1.0 - decay) * (1.0 - bad)
        averages, live = list(self.averages.values()), list(self._averaged().values())
        # Torch's own averages are built on these, underscore and all.
        torch._foreach_mul_(averages, 1.0 - weight)
        torch._foreach_add_(averages, torch._foreach_mul(live, weight))  # noqa: SLF001 - same

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Let the model have the averages for the time being; its own weights where none are kept."""
        live = {name: tensor.clone() for name, tensor in self._averaged().items()} if self.averages else {}
        self._set_averaged(self.averages)
        try:
            yield
        finally:
            self._set_averaged(live)

    @torch.no_grad()
    def add_weight_noise(self, relative: float, seed: int) -> None:
        """Multiply each weight by 1 + relative * N(0, 1): a placebo, the same on every rank."""
        noise = torch.Generator().manual_seed(seed)
        for parameter in self.parameters:
            draw = torch.randn(parameter.shape, generator=noise, dtype=torch.float32).to(parameter.device)
            parameter.mul_(1.0 + relative * draw)

    def _averaged(self) -> dict[str, Tensor]:
        """What has a moving average: weights, and running statistics with them."""
        named = {name: p.data for name, p in self.model.named_parameters()}
        return named | {name: b for name, b in self.model.named_buffers() if b.is_floating_point()}

    @torch.no_grad()
    def _set_averaged(self, values: dict[str, Tensor]) -> None:
        live = self._averaged()
        for name, value in values.items():
            live[name].copy_(value)


def gather_buffers(model: nn.Module) -> list[Tensor]:
    """Make the buffers of each dtype views of one tensor, so that a copy of all is one copy; returns these tensors."""
    owned = [(module, name, b) for module in model.modules() for name, b in module.named_buffers(recurse=False)]
    owned.sort(key=lambda item: str(item[2].dtype))
    gathered = []
    for _, group in groupby(owned, key=lambda item: str(item[2].dtype)):
        members = list(group)
        flat = torch.cat([buffer.reshape(-1) for *_, buffer in members])
        parts = flat.split([buffer.numel() for *_, buffer in members])
        for (module, name, buffer), part in zip(members, parts, strict=True):
            module.register_buffer(name, part.view(buffer.shape))
        gathered.append(flat)
    return gathered
