"""A plain PyTorch loop with a guard in it: `python -m pipelines.examples.plain_loop`, some seconds on a CPU.

The schedule has a typo: where the rate should have fallen to a tenth, it rises to the thirtyfold. The guard finds that
by replay, does the steps again at the rate of before, and keeps to it.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.guard import GuardDiagnosis, SpikeGuard

STEPS, BATCH = 160, 64


def main() -> list[GuardDiagnosis]:
    """Train a small network on the handwritten digits; returns what the guard saw."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32) / 16.0
    labels = torch.tensor(digits.target)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[100], gamma=30.0)

    def make_batch(k: int) -> tuple[Tensor, Tensor]:
        rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(k))[:BATCH]
        return images[rows], labels[rows]

    def train_step(batch: tuple[Tensor, Tensor]) -> Tensor:
        pixels, truth = batch
        losses = F.cross_entropy(model(pixels), truth, reduction="none")
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        return losses

    guard = SpikeGuard(model, optimizer, train_step, make_batch, on_event="rollback")
    for k in range(STEPS):
        if event := guard.run(k):
            print(f"{event.summary}\nremedy: {event.remedy}\n{event.action}")  # noqa: T201 - an example prints
        scheduler.step()
    right = (model(images).argmax(1) == labels).float().mean()
    print(f"{right:.1%} of the digits are read right")  # noqa: T201 - as above
    return guard.events


if __name__ == "__main__":
    main()
