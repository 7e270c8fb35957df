"""Normalisation layers take their statistics over what they say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from trainables.norms import (
    GROUPS,
    GhostBatchNorm2d,
    build_norm_layer,
    uses_batch_statistics,
    whole_batch_statistics,
)

CHANNELS = 6


def images(n: int, seed: int = 0) -> Tensor:
    """Noise whose level differs from sample to sample, so that statistics depend on who shares them."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, CHANNELS, 4, 4, generator=draw) + 3.0 * torch.randn(n, 1, 1, 1, generator=draw)


def batch_norm() -> nn.BatchNorm2d:
    """Plain batch norm in training mode."""
    return nn.BatchNorm2d(CHANNELS).train()


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


def test_ghost_batch_norm_evaluates_like_batch_norm() -> None:
    """In evaluation mode the running statistics count, and the batch's composition does not."""
    layer = GhostBatchNorm2d(CHANNELS, 4).train()
    layer(images(8))
    layer.eval()
    plain = nn.BatchNorm2d(CHANNELS)
    plain.load_state_dict(layer.state_dict())
    plain.eval()
    assert torch.equal(layer(images(8, seed=2)), plain(images(8, seed=2)))


def test_whole_batch_statistics_hold_inside_the_block_only() -> None:
    """Inside it ghost batch norm is batch norm; afterwards, an error notwithstanding, each layer has its own size."""
    model = nn.Sequential(GhostBatchNorm2d(CHANNELS, 4), GhostBatchNorm2d(CHANNELS, 2)).train()
    expected = nn.Sequential(batch_norm(), batch_norm())(images(8))

    def fail_inside() -> None:
        with whole_batch_statistics(model):
            assert torch.equal(model(images(8)), expected)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert [layer.ghost_batch_size for layer in model] == [4, 2]


def test_build_norm_layer_gives_what_the_name_says() -> None:
    """The four names of the config, with the channels they are asked for."""
    ghost = build_norm_layer("ghost_bn", 4)(64)
    group = build_norm_layer("gn", 4)(64)
    assert type(build_norm_layer("bn", 4)(64)) is nn.BatchNorm2d
    assert isinstance(ghost, GhostBatchNorm2d)
    assert ghost.ghost_batch_size == 4
    assert isinstance(group, nn.GroupNorm)
    assert group.num_groups == GROUPS
    assert isinstance(build_norm_layer("frozen_bn", 4)(64), FrozenBatchNorm2d)


@pytest.mark.parametrize(("name", "shared"), [("bn", True), ("ghost_bn", True), ("gn", False), ("frozen_bn", False)])
def test_batch_statistics_are_known(name: str, *, shared: bool) -> None:
    """`uses_batch_statistics` says whether a sample's output changes with its neighbours, as a forward shows."""
    model = nn.Sequential(build_norm_layer(name, 4)(64)).train()  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(0)
    batch = torch.randn(4, 64, 2, 2, generator=draw)
    other = torch.cat([batch[:1], torch.randn(3, 64, 2, 2, generator=draw)])
    assert uses_batch_statistics(model) is shared
    assert torch.equal(model(batch)[0], model(other)[0]) is not shared
