"""Exact scores over a split, by all ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.data.images import ImageSource
from trainables.data.prefetch import Prefetcher
from trainables.ingredients import Normalize
from trainables.loop import to_input
from trainables.precision import autocast, matrix_precision
from trainables.state import TrainState


@dataclass(frozen=True)
class Evaluation:
    """Exact scores over a split."""

    top1: float
    top5: float
    loss: float
    """Mean cross-entropy, in nats."""


@torch.no_grad()
def evaluate(
    state: TrainState,
    source: ImageSource,
    normalize: Normalize,
    amp: str,
    *,
    batch_size: int = 256,
    loader_threads: int = 0,
) -> Evaluation:
    """Score a split, with the averaged weights where there are any; ranks take disjoint shares, none padded.

    Images that don't decode are quarantined and in no score.
    """
    ids = np.arange(len(source.split))[state.ranks.rank :: state.ranks.world_size]
    parts = np.split(ids, range(batch_size, len(ids), batch_size))
    totals = torch.zeros(4, dtype=torch.float64, device=state.device)
    state.model.eval()
    decoded = Prefetcher(lambda i: source.fetch_sound(parts[i]), loader_threads, stop_step=len(parts))
    with state.averaged_weights(), matrix_precision(amp, state.device), decoded:
        for buffer in state.buffers:
            # Running statistics and their averages are each rank's own.
            state.ranks.broadcast(buffer)
        for i in range(len(parts)):
            images, kept = decoded.get(i)
            labels = torch.from_numpy(source.split.labels[kept]).to(state.device)
            with autocast(amp, state.device):
                logits: Tensor = state.model(to_input(images, normalize, state))
            totals += evaluation_sums(logits.float(), labels)
    state.model.train()
    top1, top5, loss, count = state.ranks.sum(totals).tolist()
    return Evaluation(top1 / count, top5 / count, loss / count)


def evaluation_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Right at first, right among five, summed loss, samples: float64 [4]."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum").double()
    right, among = best[:, 0].sum().double(), best.sum().double()
    return torch.stack([right, among, loss, torch.full_like(loss, float(len(labels)))])
