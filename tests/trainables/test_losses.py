"""Each sample's loss is the formula's, and mixing is linear in the labels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.data.mixing import Mix
from trainables.losses import build_loss

CLASSES = 5


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Logits [8, 5] and labels [8]."""
    logits = torch.randn(8, CLASSES, generator=torch.Generator().manual_seed(0))
    return logits, torch.arange(8) % CLASSES


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_over_soft_targets(batch: tuple[Tensor, Tensor], smoothing: float) -> None:
    """It is the cross-entropy of torch over the smoothed one-hot labels."""
    logits, labels = batch
    targets = F.one_hot(labels, CLASSES) * (1 - smoothing) + smoothing / CLASSES
    expected = F.cross_entropy(logits, targets, reduction="none")
    assert torch.allclose(build_loss("ce", smoothing)(logits, labels, None), expected, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_over_soft_targets(batch: tuple[Tensor, Tensor], smoothing: float) -> None:
    """It is the mean over the classes of torch's binary cross-entropy."""
    logits, labels = batch
    targets = F.one_hot(labels, CLASSES) * (1 - smoothing) + smoothing / CLASSES
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
    assert torch.allclose(build_loss("bce", smoothing)(logits, labels, None), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_a_mixed_sample_has_two_labels(batch: tuple[Tensor, Tensor], kind: str) -> None:
    """The loss is that over the mixture of both one-hot labels; a share of 1 is the plain loss."""
    logits, labels = batch
    loss = build_loss(kind, 0.0)  # type: ignore[arg-type] # one of the two
    pairs = labels.reshape(-1, 2).flip(1).flatten()
    targets = 0.3 * F.one_hot(labels, CLASSES) + 0.7 * F.one_hot(pairs, CLASSES)
    if kind == "ce":
        expected = F.cross_entropy(logits, targets, reduction="none")
    else:
        expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
    assert torch.allclose(loss(logits, labels, Mix(0.3, None)), expected, atol=1e-6)
    assert torch.allclose(loss(logits, labels, Mix(1.0, None)), loss(logits, labels, None))
