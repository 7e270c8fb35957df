"""What each sample of a step costs, and whether it is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.data.mixing import Mix, partner_labels

Loss = Callable[[Tensor, Tensor, Mix | None], Tensor]
"""(logits [n, classes], labels int64 [n], mix) -> loss of each sample in nats, at least float32, [n]."""


def build_loss(kind: Literal["ce", "bce"], label_smoothing: float) -> Loss:
    """Cross-entropy, or binary cross-entropy of each class, over smoothed labels.

    Under mixup or CutMix a sample costs `lam` times its own label's loss and the rest its neighbour's.
    """
    plain = cross_entropy if kind == "ce" else binary_cross_entropy

    def loss(logits: Tensor, labels: Tensor, mix: Mix | None) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        own = plain(logits, labels, label_smoothing)
        if mix is None:
            return own
        return mix.lam * own + (1.0 - mix.lam) * plain(logits, partner_labels(labels), label_smoothing)

    return loss


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of each sample (Szegedy et al. 2016, section 7, for the smoothing)."""
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def binary_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean over the classes of each class's own yes or no (Wightman et al. 2021, section 2)."""
    classes = logits.shape[1]
    targets = torch.full_like(logits, smoothing / classes)
    targets.scatter_(1, labels[:, None], 1.0 - smoothing + smoothing / classes)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


def count_right(logits: Tensor, labels: Tensor) -> Tensor:
    """How many samples are right at first, and among the first five: float64 [2]."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack([best[:, 0].sum(), best.sum()]).double()
