"""The process group as the step sees it: this rank's share of the batch, and sums over all ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """Which rank this process is, of how many; (0, 1) without a process group."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """The initialised torch.distributed group, or a world of one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def share(self, n: int) -> slice:
        """Contiguous share of this rank in `n` samples; `n` is a multiple of the world size."""
        size = n // self.world_size
        return slice(self.rank * size, (self.rank + 1) * size)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` over all ranks, the same bits on each; in place."""
        if self.world_size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.SUM)
        return values

    def total(self, value: float) -> float:
        """Sum of one number over all ranks, the same on each."""
        return float(self.sum(torch.tensor([value], dtype=torch.float64)).item())
