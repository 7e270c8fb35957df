"""A norm's name gives its layer, and it is known which of them take statistics over a batch."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from timm.layers.evo_norm import EvoNorm2dS0
from timm.layers.filter_response_norm import FilterResponseNormTlu2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from trainables.config import NormName
from trainables.norm_layers import BatchRenorm2d, GhostBatchNorm2d, SyncBatchNorm2d
from trainables.norms import GROUPS, build_norm_layer, uses_batch_statistics, whole_batch_statistics

LAYERS: dict[NormName, type[nn.Module]] = {
    "bn": nn.BatchNorm2d,
    "sync_bn": SyncBatchNorm2d,
    "ghost_bn": GhostBatchNorm2d,
    "frozen_bn": FrozenBatchNorm2d,
    "gn": nn.GroupNorm,
    "gn_ws": nn.GroupNorm,
    "evonorm_s0": EvoNorm2dS0,
    "frn_tlu": FilterResponseNormTlu2d,
    "batch_renorm": BatchRenorm2d,
    "norm_free": nn.Identity,
}
SHARED = {"bn", "sync_bn", "ghost_bn", "batch_renorm"}
"""Norms whose output for a sample depends on its batch."""


def images(n: int, seed: int = 0) -> Tensor:
    """Noise [n, 64, 4, 4] whose level differs from sample to sample, so that statistics depend on who shares them."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, 64, 4, 4, generator=draw) + 3.0 * torch.randn(n, 1, 1, 1, generator=draw)


@pytest.mark.parametrize("name", get_args(NormName))
def test_a_name_gives_the_layer_that_it_says(name: NormName) -> None:
    """Each name of the config, with the channels that it is asked for."""
    layer = build_norm_layer(name, 4)(64)
    assert type(layer) is LAYERS[name]
    assert layer(images(4)).shape == (4, 64, 4, 4)


def test_layers_get_their_sizes() -> None:
    """Ghost batches have the config's size, group norm its 32 groups."""
    ghost, group = build_norm_layer("ghost_bn", 4)(64), build_norm_layer("gn", 4)(64)
    assert isinstance(ghost, GhostBatchNorm2d)
    assert ghost.ghost_batch_size == 4
    assert isinstance(group, nn.GroupNorm)
    assert group.num_groups == GROUPS


@pytest.mark.parametrize("name", get_args(NormName))
def test_batch_statistics_are_known(name: NormName) -> None:
    """`uses_batch_statistics` says whether a sample's output changes with its neighbours, as a forward shows."""
    model = nn.Sequential(build_norm_layer(name, 4)(64)).train()
    other = torch.cat([images(4)[:1], images(3, seed=1)])
    assert uses_batch_statistics(model) is (name in SHARED)
    assert torch.equal(model(images(4))[0], model(other)[0]) is (name not in SHARED)


def test_whole_batch_statistics_hold_inside_the_block_only() -> None:
    """Inside it ghost batch norm is batch norm; afterwards, an error notwithstanding, each layer has its own size."""
    model = nn.Sequential(GhostBatchNorm2d(64, 4), GhostBatchNorm2d(64, 2)).train()
    expected = nn.Sequential(nn.BatchNorm2d(64), nn.BatchNorm2d(64)).train()(images(8))

    def fail_inside() -> None:
        with whole_batch_statistics(model):
            assert torch.equal(model(images(8)), expected)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert [layer.ghost_batch_size for layer in model] == [4, 2]
