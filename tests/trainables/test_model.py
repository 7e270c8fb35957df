"""Models are torchvision's, with weights that depend on the seed alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from trainables.config import ModelConfig
from trainables.model import build_model


def build(seed: int = 0, image_size: int = 16, num_classes: int = 10, **changes: Any) -> nn.Module:
    """A ResNet-18, unless `name` says otherwise."""
    config = ModelConfig.parse({"name": "resnet18"} | changes)
    return build_model(config, num_classes=num_classes, image_size=image_size, seed=seed)


def last_gammas(model: nn.Module) -> list[torch.Tensor]:
    """Scale of the last normalisation layer of each residual branch."""
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock | Bottleneck)]
    return [(b.bn3 if isinstance(b, Bottleneck) else b.bn2).weight.detach() for b in blocks]


def test_weights_depend_on_the_seed_alone() -> None:
    """The same seed gives the same bits whatever was drawn before, another seed other weights."""
    torch.manual_seed(1)
    first = build(seed=3).state_dict()
    torch.manual_seed(2)
    torch.rand(100)
    second = build(seed=3).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], build(seed=4).state_dict()["conv1.weight"])


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_the_global_generator_is_left_as_it_was(seed: int) -> None:
    """Building a model draws nothing from the generator that others share."""
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    build(seed=seed)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("norm", ["bn", "ghost_bn", "gn"])
def test_last_gammas_are_zero_where_asked(name: str, norm: str) -> None:
    """Each residual branch starts at zero, under group norm and in both kinds of block too."""
    gammas = last_gammas(build(name=name, norm=norm, zero_init_last_gamma=True))
    assert len(gammas) == (8 if name == "resnet18" else 16)
    assert all(torch.count_nonzero(gamma) == 0 for gamma in gammas)


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_last_gammas_are_one_where_not_asked(norm: str) -> None:
    """Without it every scale starts at 1."""
    assert all(torch.all(gamma == 1) for gamma in last_gammas(build(norm=norm, zero_init_last_gamma=False)))


def test_norms_share_all_other_initial_weights() -> None:
    """Trials that differ in the norm only start from the same convolutions and the same head."""
    by_norm = [dict(build(norm=norm, zero_init_last_gamma=False).named_parameters()) for norm in ("bn", "gn")]
    for name, weight in by_norm[0].items():
        assert torch.equal(weight, by_norm[1][name]), name


def test_frozen_norm_has_no_trained_norms() -> None:
    """Frozen batch norm leaves convolutions and the head, and building it is no error with zeroed gammas asked for."""
    model = build(norm="frozen_bn", zero_init_last_gamma=True)
    assert {name.rsplit(".", 1)[0] for name, p in model.named_parameters() if p.ndim == 1} == {"fc"}


@pytest.mark.parametrize(("image_size", "side"), [(16, 1), (32, 2), (63, 4), (64, 2), (224, 7)])
def test_stem_fits_the_image(image_size: int, side: int) -> None:
    """Below 64 px a 3x3 stem without pooling keeps the last stage large; from 64 px on it is ImageNet's."""
    model = build(image_size=image_size).eval()
    stages: list[torch.Size] = []
    model.get_submodule("layer4").register_forward_hook(lambda _module, _inputs, out: stages.append(out.shape))
    assert model(torch.zeros(1, 3, image_size, image_size)).shape == (1, 10)
    assert stages == [(1, 512, side, side)]


def test_head_has_one_logit_a_class() -> None:
    """The classes of the data set, not ImageNet's thousand."""
    assert build(num_classes=37).get_submodule("fc").out_features == 37
