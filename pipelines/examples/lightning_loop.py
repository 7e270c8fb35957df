"""A guard in PyTorch Lightning: `python -m pipelines.examples.lightning_loop` (`pip install pytorch-lightning`).

Lightning makes the steps, so the callback uses the two halves of the guard's `run`; `replay_step` is the same step by
hand. Five batches of the second epoch have labels of random classes: the guard names them and stops the run.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from trainables.guard import GuardDiagnosis, SpikeGuard

BATCH = 32
POISONED = range(80, 85)
"""Steps whose batches have wrong labels."""


class GuardCallback(pl.Callback):
    """Watches a run with one optimizer under automatic optimization; stops it at the first event."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Build the guard, once the optimizer is there."""
        optimizer = trainer.optimizers[0]

        def replay_step(batch: Any) -> Tensor:
            loss = pl_module.training_step(batch, 0)
            assert isinstance(loss, Tensor)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        self.guard = SpikeGuard(pl_module, optimizer, replay_step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the batch, and the state where it is due."""
        del pl_module, batch_idx
        self.guard.before_step(trainer.global_step, batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss."""
        del pl_module, batch, batch_idx
        if self.guard.after_step(outputs["loss"]):
            trainer.should_stop = True


class Digits(pl.LightningModule):
    """A small network on the handwritten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean cross-entropy of the batch."""
        del batch_idx
        pixels, truth = batch
        return F.cross_entropy(self.network(pixels), truth)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def poisoned_digits() -> DataLoader[tuple[Tensor, ...]]:
    """Two epochs' worth of the digits in a fixed order, some batches of them with labels of random classes."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).repeat(2, 1, 1) / 16.0
    labels = torch.tensor(digits.target).repeat(2)
    rows = slice(POISONED.start * BATCH, POISONED.stop * BATCH)
    labels[rows] = torch.randint(0, 10, labels[rows].shape, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, labels), batch_size=BATCH)


def main() -> list[GuardDiagnosis]:
    """Train until the guard stops the run; returns what it saw."""
    pl.seed_everything(0)
    watch = GuardCallback()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(), poisoned_digits())
    for event in watch.guard.events:
        print(f"{event.summary}\nremedy: {event.remedy}\nstopped after step {trainer.global_step}")  # noqa: T201 - an example prints
    return watch.guard.events


if __name__ == "__main__":
    main()
