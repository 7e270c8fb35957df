"""The process group as the step sees it: this rank's share of the batch, and sums over all ranks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

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
        """Contiguous share of this rank in `n` samples; the first ranks take one more each where `n` doesn't divide."""
        size, more = divmod(n, self.world_size)
        start = self.rank * size + min(self.rank, more)
        return slice(start, start + size + (self.rank < more))

    def largest_share(self, n: int) -> int:
        """Samples of the rank that has most of `n`."""
        return -(-n // self.world_size)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` over all ranks, the same bits on each; in place, on their device."""
        if self.world_size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.SUM)
        return values

    def broadcast(self, values: Tensor, source: int = 0) -> Tensor:
        """Rank `source`'s `values` on every rank; in place."""
        if self.world_size > 1:
            dist.broadcast(values, src=source)
        return values

    def broadcast_json(self, value: Any) -> Any:
        """Rank 0's JSON-safe `value` on every rank (nan as NaN)."""
        if self.world_size == 1:
            return value
        text = json.dumps(value).encode() if self.rank == 0 else b""
        size = self.broadcast(torch.tensor([len(text)]))
        data = torch.tensor(list(text.ljust(int(size))), dtype=torch.uint8)
        return json.loads(bytes(self.broadcast(data).tolist()))

    def gather(self, value: Any) -> list[Any]:
        """Each rank's `value`, in their order, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def total(self, value: float) -> float:
        """Sum of one number over all ranks, the same on each."""
        return float(self.sum(torch.tensor([value], dtype=torch.float64)).item())
