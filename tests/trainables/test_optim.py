"""The optimizer is torch's SGD, bit for bit, with the linear scaling rule in front."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.config import OptimConfig
from trainables.optim import build_optimizer, peak_learning_rate


def small_model(seed: int = 0) -> nn.Sequential:
    """A convolution with bias, batch norm and a linear layer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


def train(model: nn.Module, optimizer: torch.optim.SGD, steps: int) -> list[Tensor]:
    """A few steps on fixed noise; the weights afterwards."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.randn(4, 3, 8, 8, generator=draw)
        loss = nn.functional.cross_entropy(model(images), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize(
    "changes", [{}, {"nesterov": True}, {"momentum": 0.0}, {"weight_decay": 0.0}, {"weight_decay": 0.1}], ids=str
)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_zero_momentum_from_the_start_is_torchs_lazy_momentum(changes: dict[str, Any], steps: int) -> None:
    """Buffers made beforehand give the same bits as those that torch makes at the first step."""
    config = OptimConfig.parse({"lr": 0.1, "weight_decay": 0.01} | changes)
    ours = small_model()
    theirs = small_model()
    decayed = [p for p in theirs.parameters() if p.ndim > 1]
    plain = [p for p in theirs.parameters() if p.ndim <= 1]
    lazy = torch.optim.SGD(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )
    expected = train(theirs, lazy, steps)
    actual = train(ours, build_optimizer(ours, config), steps)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_norms_and_biases_are_not_decayed() -> None:
    """With zero gradients only weights of two dimensions and more shrink."""
    model = small_model()
    optimizer = build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5))
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.allclose(new, old * 0.95 if old.ndim > 1 else old, rtol=1e-6, atol=0)


def test_every_trained_parameter_is_in_one_group() -> None:
    """None is left out or twice in; what is frozen stays out."""
    model = small_model()
    model[0].weight.requires_grad_(False)  # noqa: FBT003 - torch's signature
    optimizer = build_optimizer(model, OptimConfig())
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_momentum_buffers_exist_before_the_first_step() -> None:
    """A snapshot has the same tensors at step 0 as later; without momentum there are none."""
    model = small_model()
    buffers = [build_optimizer(model, OptimConfig()).state[p]["momentum_buffer"] for p in model.parameters()]
    assert all(torch.count_nonzero(buffer) == 0 for buffer in buffers)
    assert all(b.shape == p.shape for b, p in zip(buffers, model.parameters(), strict=True))
    assert not build_optimizer(model, OptimConfig(momentum=0.0)).state


@pytest.mark.parametrize(("batch", "expected"), [(32, 0.02), (256, 0.16), (8, 0.005)])
def test_linear_scaling_rule(batch: int, expected: float) -> None:
    """The rate is proportional to the batch where the reference batch is given (Goyal et al. 2017)."""
    assert peak_learning_rate(OptimConfig(lr=0.02, lr_batch_size=32), batch) == pytest.approx(expected, rel=1e-12)


def test_without_a_reference_batch_the_rate_is_used_as_it_is() -> None:
    """`lr_batch_size` None: no scaling."""
    assert {peak_learning_rate(OptimConfig(lr=0.3), batch) for batch in (1, 32, 4096)} == {0.3}
