"""The state that a step reads and writes, and copies of it.

A snapshot copies every tensor out; restoring copies back into the existing storage, so nothing is aliased and two
replays of one snapshot give equal bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables.ranks import Ranks


@dataclass(frozen=True)
class Snapshot:
    """The state before global step `step`: weights, buffers and momentum, by name."""

    step: int
    tensors: dict[str, Tensor]


class TrainState:
    """Model and optimizer on one device; wrapped for DDP where there are several ranks."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.SGD,
        device: torch.device,
        ranks: Ranks,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.device = device
        self.ranks = ranks
        self.memory_format = memory_format
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.buffers = list(model.buffers())
        self.network: nn.Module = model
        if ranks.world_size > 1:
            self.network = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, live, not copied."""
        named: dict[str, Tensor] = {f"parameter/{name}": p.data for name, p in self.model.named_parameters()}
        named |= {f"buffer/{name}": b for name, b in self.model.named_buffers()}
        for name, parameter in self.model.named_parameters():
            momentum = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                named[f"momentum/{name}"] = momentum
        return named

    def snapshot(self, step: int) -> Snapshot:
        """Copy the state to host memory; `step` is the next step to run."""
        return Snapshot(step, {name: t.detach().to("cpu", copy=True) for name, t in self.tensors().items()})

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Copy a snapshot back into the existing storage; gradients are cleared."""
        for name, tensor in self.tensors().items():
            tensor.copy_(snapshot.tensors[name])
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def add_weight_noise(self, relative: float, seed: int) -> None:
        """Multiply each weight by 1 + relative * N(0, 1): a placebo, the same on every rank."""
        noise = torch.Generator().manual_seed(seed)
        for parameter in self.parameters:
            draw = torch.randn(parameter.shape, generator=noise, dtype=torch.float32).to(parameter.device)
            parameter.mul_(1.0 + relative * draw)
