"""Kinds of batch norm take their statistics over what they say, and correct them as their paper says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainables.norm_layers import (
    D_MAX,
    D_RAMP_END,
    PURE_STEPS,
    R_MAX,
    R_RAMP_END,
    BatchRenorm2d,
    GhostBatchNorm2d,
    SyncBatchNorm2d,
)

CHANNELS = 6


def images(n: int, seed: int = 0) -> Tensor:
    """Noise whose level differs from sample to sample, so that statistics depend on who shares them."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, CHANNELS, 4, 4, generator=draw) + 3.0 * torch.randn(n, 1, 1, 1, generator=draw)


def batch_norm() -> nn.BatchNorm2d:
    """Plain batch norm in training mode."""
    return nn.BatchNorm2d(CHANNELS).train()


def trained(layer: nn.BatchNorm2d) -> dict[str, Tensor]:
    """What two training steps on `layer` leave: outputs, gradients, buffers."""
    found: dict[str, Tensor] = {}
    for step in range(2):
        batch = images(8, seed=step).requires_grad_()
        out = layer(batch)
        (out * images(8, seed=9)).sum().backward()
        assert batch.grad is not None
        found |= {f"out{step}": out.detach(), f"grad{step}": batch.grad}
    gradients = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return found | gradients | dict(layer.named_buffers())


@pytest.mark.parametrize(("n", "ghost"), [(8, 4), (32, 16), (12, 3), (8, 2)])
def test_ghost_batch_norm_is_batch_norm_of_each_ghost_batch(n: int, ghost: int) -> None:
    """Output and gradient of each ghost batch are what batch norm gives it alone, to the last bit."""
    batch = images(n).requires_grad_()
    alone = images(n).requires_grad_()
    weights = images(n, seed=1)
    layer, plain = GhostBatchNorm2d(CHANNELS, ghost).train(), batch_norm()
    parts = torch.cat([plain(part) for part in alone.split(ghost)])
    out = layer(batch)
    assert torch.equal(out, parts)
    (out * weights).sum().backward()
    (parts * weights).sum().backward()
    assert batch.grad is not None
    assert torch.equal(batch.grad, alone.grad)  # type: ignore[arg-type]


def test_ghost_batch_norm_updates_running_statistics_once_a_ghost_batch() -> None:
    """The running statistics are those of batch norm that saw the ghost batches one after the other."""
    layer, plain = GhostBatchNorm2d(CHANNELS, 4).train(), batch_norm()
    layer(images(12))
    for part in images(12).split(4):
        plain(part)
    for name, buffer in layer.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name)), name


def test_ghost_batch_norm_of_a_small_batch_is_batch_norm() -> None:
    """A batch up to the ghost batch's size is one ghost batch."""
    for n in (2, 7, 8):
        assert torch.equal(GhostBatchNorm2d(CHANNELS, 8).train()(images(n)), batch_norm()(images(n)))


@pytest.mark.parametrize("n", [9, 10, 15, 17, 20, 31])
def test_no_ghost_batch_is_smaller_than_asked(n: int) -> None:
    """A batch that is no multiple is cut into parts of at least the size, so none is noisier; all samples come out."""
    seen: list[int] = []

    class Spy(GhostBatchNorm2d):
        def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
            seen.append(len(input))

    assert Spy(CHANNELS, 8).train()(images(n)).shape == images(n).shape
    assert sum(seen) == n
    assert all(8 <= size < 16 for size in seen)


@pytest.mark.parametrize(
    "layer",
    [GhostBatchNorm2d(CHANNELS, 4), SyncBatchNorm2d(CHANNELS), BatchRenorm2d(CHANNELS)],
    ids=lambda layer: type(layer).__name__,
)
def test_all_kinds_evaluate_like_batch_norm(layer: nn.BatchNorm2d) -> None:
    """In evaluation mode the running statistics count, and the batch's composition does not."""
    layer.train()(images(8))
    plain = nn.BatchNorm2d(CHANNELS)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(images(8, seed=2)), plain.eval()(images(8, seed=2)))


@pytest.mark.parametrize("layer", [SyncBatchNorm2d(CHANNELS), BatchRenorm2d(CHANNELS)], ids=["sync_bn", "batch_renorm"])
def test_at_first_and_alone_it_is_batch_norm(layer: nn.BatchNorm2d) -> None:
    """Sync batch norm of one rank, and batch renorm at its start, are batch norm to the last bit."""
    found, expected = trained(layer.train()), trained(batch_norm())
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], values), name


def renorm(steps: int, mean: float = 0.5, variance: float = 4.0) -> BatchRenorm2d:
    """Batch renorm after `steps` steps, with given running statistics, and scale and shift that are not neutral."""
    layer = BatchRenorm2d(CHANNELS).train()
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2.0, CHANNELS))
        layer.bias.copy_(torch.linspace(-1.0, 1.0, CHANNELS))
        layer.get_buffer("num_batches_tracked").fill_(steps)
        layer.get_buffer("running_mean").fill_(mean)
        layer.get_buffer("running_var").fill_(variance)
    return layer


def by_the_paper(layer: BatchRenorm2d, batch: Tensor, r_max: float, d_max: float) -> Tensor:
    """Algorithm 1 of Ioffe 2017, line by line, with torch's epsilon inside the root."""
    mean, std = batch.mean((0, 2, 3), keepdim=True), (batch.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    running_mean = layer.get_buffer("running_mean").view(1, -1, 1, 1)
    running_std = (layer.get_buffer("running_var") + 1e-5).sqrt().view(1, -1, 1, 1)
    r = (std / running_std).clamp(1 / r_max, r_max).detach()
    d = ((mean - running_mean) / running_std).clamp(-d_max, d_max).detach()
    normalized = (batch - mean) / std * r + d
    return layer.weight.view(1, -1, 1, 1) * normalized + layer.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize(
    ("steps", "r_max", "d_max"),
    [
        (0, 1.0, 0.0),
        (PURE_STEPS, 1.0, 0.0),
        ((PURE_STEPS + D_RAMP_END) // 2, 1.0 + (R_MAX - 1.0) * 200 / 700, D_MAX / 2),
        (D_RAMP_END, 1.0 + (R_MAX - 1.0) * 400 / 700, D_MAX),
        (10 * R_RAMP_END, R_MAX, D_MAX),
    ],
)
@pytest.mark.parametrize(("mean", "variance"), [(0.5, 4.0), (100.0, 1e4), (-100.0, 1e-4)])
def test_batch_renorm_is_the_papers(steps: int, r_max: float, d_max: float, mean: float, variance: float) -> None:
    """Output and gradient are the paper's algorithm's, inside the limits and at both of them, all along the ramp."""
    layer = renorm(steps, mean, variance)
    batch, same = images(8).requires_grad_(), images(8).requires_grad_()
    expected = by_the_paper(layer, same, r_max, d_max)
    out = layer(batch)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    wanted = torch.autograd.grad((expected * images(8, seed=1)).sum(), [same, layer.weight, layer.bias])
    found = torch.autograd.grad((out * images(8, seed=1)).sum(), [batch, layer.weight, layer.bias])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


def test_batch_renorm_treats_a_sample_in_training_as_in_evaluation_later() -> None:
    """Past the ramp, and within the limits, the neighbours no longer count; under batch norm they do."""
    layer = renorm(R_RAMP_END)
    expected = renorm(R_RAMP_END).eval()(images(8))
    torch.testing.assert_close(layer(images(8)), expected, rtol=1e-5, atol=1e-5)
    plain = batch_norm()
    plain.load_state_dict(renorm(R_RAMP_END).state_dict())
    assert float((plain(images(8)) - expected).detach().abs().max()) > 0.1


def test_batch_renorm_moves_its_running_statistics_as_batch_norm_does() -> None:
    """The statistics of the batch, unbiased, at momentum 0.1, whatever the correction was."""
    layer, plain = renorm(R_RAMP_END), batch_norm()
    plain.load_state_dict(layer.state_dict())
    layer(images(8))
    plain(images(8))
    for name, buffer in layer.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name)), name


def test_batch_renorm_goes_on_from_its_state() -> None:
    """The ramp is part of the state: a copy of parameters and buffers gives the same bits."""
    layer, copy = renorm(300), BatchRenorm2d(CHANNELS).train()
    copy.load_state_dict(layer.state_dict())
    assert torch.equal(layer(images(8)), copy(images(8)))


def test_batch_renorm_reads_nothing_back_from_the_device() -> None:
    """It runs on the meta device, where there are no values to read, so a GPU never waits."""
    layer = BatchRenorm2d(CHANNELS).train().to("meta")
    assert layer(images(4).to("meta")).shape == (4, CHANNELS, 4, 4)
