"""Plain loops on the digits that the guard is tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.guard import Mixed, SpikeGuard

BATCH = 64
Batch = tuple[Tensor, Tensor]


@dataclass
class Loop:
    """One loop as a person would write it: model, optimizer, a step, and batches by number."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    images: Tensor
    labels: Tensor
    rate_at: Callable[[int], float] = lambda k: 0.1
    spoil: Callable[[int, Batch], Batch] = lambda k, batch: batch
    after: Callable[[], None] = lambda: None
    losses: list[float] = field(default_factory=list)
    mixup_alpha: float = 0.0
    """0: none, and a step returns its losses alone."""

    def batch(self, k: int) -> Batch:
        """The k-th batch."""
        rows = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(k))[:BATCH]
        return self.spoil(k, (self.images[rows], self.labels[rows]))

    def step(self, batch: Batch) -> Tensor:
        """One update; returns per-sample losses."""
        pixels, truth = batch
        return self.update(F.cross_entropy(self.model(pixels), truth, reduction="none"))

    def set_rate(self, k: int) -> None:
        """What a scheduler does."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate_at(k)

    def run(self, steps: int) -> None:
        """Train without a guard."""
        for k in range(steps):
            self.set_rate(k)
            self.losses.append(self.step(self.batch(k)).detach().mean().item())

    def run_guarded(self, guard: SpikeGuard, steps: int) -> None:
        """Train with one."""
        for k in range(steps):
            self.set_rate(k)
            guard.run(k)

    def mixed_step(self, batch: Batch) -> Mixed:
        """The same under mixup: the losses and the share."""
        share, (pixels, truth) = float(np.random.beta(self.mixup_alpha, self.mixup_alpha)), batch  # noqa: NPY002
        logits = self.model(torch.lerp(pixels, pixels.flip(0), share))
        own, other = (F.cross_entropy(logits, labels, reduction="none") for labels in (truth, truth.flip(0)))
        return Mixed(self.update(torch.lerp(own, other, share)), share)

    def update(self, losses: Tensor) -> Tensor:
        """Of the weights, by the mean of the losses, which come back."""
        self.optimizer.zero_grad()
        losses.mean().backward()
        self.optimizer.step()
        self.after()
        return losses

    def guard(self, **options: Any) -> SpikeGuard:
        """A guard of this loop."""
        step = self.mixed_step if self.mixup_alpha else self.step
        return SpikeGuard(self.model, self.optimizer, step, self.batch, **options)

    def tensors(self) -> list[Tensor]:
        """Copies of the weights, the buffers, and the optimizer's tensors."""
        moments = [v for state in self.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        return [t.detach().clone() for t in (*self.model.parameters(), *self.model.buffers(), *moments)]

    def has_bits_of(self, other: Loop) -> bool:
        """Whether both loops are in the same state, bit for bit."""
        mine, others = self.tensors(), other.tensors()
        return len(mine) == len(others) and all(map(torch.equal, mine, others))

    @torch.no_grad()
    def accuracy(self) -> float:
        """Share of all digits read right, in evaluation mode."""
        self.model.eval()
        return float((self.model(self.images).argmax(1) == self.labels).float().mean())


MakeLoop = Callable[..., Loop]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These networks are too small for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """The handwritten digits: images [1797, 1, 8, 8] in [0, 1], labels [1797]."""
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 16.0, torch.tensor(data.target)


@pytest.fixture
def make_loop(digits: tuple[Tensor, Tensor]) -> MakeLoop:
    """A factory of loops: `network` is "mlp" or "conv" (batch norm and dropout), `optimizer` makes one."""

    def make(
        network: str = "mlp", optimizer: Callable[[Any], torch.optim.Optimizer] | None = None, **options: Any
    ) -> Loop:
        torch.manual_seed(0)
        model = mlp() if network == "mlp" else conv()
        made = optimizer(model.parameters()) if optimizer else torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        return Loop(model, made, *digits, **options)

    return make


def mlp() -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def conv() -> nn.Module:
    """A small convolutional network with batch norm and dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
