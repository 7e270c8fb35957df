"""Models are torchvision's and timm's, with weights that depend on the seed alone, under every normalisation."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

import pytest
import torch
import torchvision
from timm.layers.norm_act import BatchNormAct2d
from timm.models.nfnet import NormFreeBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from trainables.config import ModelConfig, NormName
from trainables.model import ActivatedBasicBlock, ActivatedBottleneck, build_model
from trainables.norms import uses_batch_statistics

NORMS: tuple[NormName, ...] = get_args(NormName)
SCALED = tuple(norm for norm in NORMS if norm not in ("frozen_bn", "norm_free"))
"""Norms with a trained scale."""


def build(seed: int = 0, image_size: int = 16, num_classes: int = 10, **changes: Any) -> nn.Module:
    """A ResNet-18, a ResNet-50 where it is norm-free, unless `name` says otherwise."""
    name = "resnet50" if changes.get("norm") == "norm_free" else "resnet18"
    config = ModelConfig.parse({"name": name} | changes)
    return build_model(config, num_classes=num_classes, image_size=image_size, seed=seed)


@cache
def built(norm: NormName, seed: int = 0) -> dict[str, Tensor]:
    """Initial state with residual branches that count from the start."""
    return build(seed, norm=norm, zero_init_last_gamma=False).state_dict()


def images(n: int, side: int = 32, seed: int = 0) -> Tensor:
    """Noise [n, 3, side, side]."""
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def last_gammas(model: nn.Module) -> list[Tensor]:
    """Scale of the last normalisation layer, or of the last convolution, of each residual branch."""
    last = {BasicBlock: "bn2.weight", Bottleneck: "bn3.weight", NormFreeBlock: "conv3.gain"}
    names = [(block, name) for block in model.modules() for kind, name in last.items() if isinstance(block, kind)]
    return [block.get_parameter(name).detach() for block, name in names]


@pytest.mark.parametrize("norm", NORMS)
def test_weights_depend_on_the_seed_alone(norm: NormName) -> None:
    """The same seed gives the same bits whatever was drawn before, another seed other weights in every convolution."""
    torch.manual_seed(1)
    torch.rand(100)
    again = build(seed=0, norm=norm, zero_init_last_gamma=False).state_dict()
    assert again.keys() == built(norm).keys()
    assert all(torch.equal(again[name], values) for name, values in built(norm).items())
    other = built(norm, seed=4)
    drawn = [name for name, values in again.items() if "conv" in name and name.endswith("weight")]
    assert len(drawn) >= 17
    assert not any(torch.equal(again[name], other[name]) for name in drawn)


@pytest.mark.parametrize(("norm", "seed"), [*((norm, 0) for norm in NORMS), ("bn", 2**63 - 1)])
def test_the_global_generator_is_left_as_it_was(norm: NormName, seed: int) -> None:
    """Building a model draws nothing from the generator that others share."""
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    build(seed=seed, norm=norm)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_is_finite_and_the_state_is_parameters_and_buffers(norm: NormName) -> None:
    """Four small images give finite logits and gradients for every parameter, and named parameters and buffers make
    another model go on with the same bits.
    """
    model = build(norm=norm, zero_init_last_gamma=False).train()
    logits = model(images(4))
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert logits.shape == (4, 10)
    assert torch.isfinite(logits).all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    copy = build(seed=5, norm=norm).train()
    with torch.no_grad():
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            target = copy.get_parameter(name) if name in dict(copy.named_parameters()) else copy.get_buffer(name)
            target.copy_(values)
        assert torch.equal(copy(images(4, seed=1)), model(images(4, seed=1)))
        assert torch.equal(copy.eval()(images(4, seed=1)), model.eval()(images(4, seed=1)))


@pytest.mark.parametrize("norm", NORMS)
@torch.no_grad()
def test_samples_depend_on_each_other_where_it_is_said(norm: NormName) -> None:
    """A network uses batch statistics where its answer for a sample changes with the others, and nowhere else."""
    model = build(norm=norm, zero_init_last_gamma=False).train()
    one, other = model(images(4))[0], model(torch.cat([images(4)[:1], images(3, seed=1)]))[0]
    shared = not torch.allclose(one, other, rtol=1e-3, atol=1e-3)
    assert uses_batch_statistics(model) is shared
    assert shared is (norm in {"bn", "sync_bn", "ghost_bn", "batch_renorm"})


@pytest.mark.parametrize(
    ("name", "norm"),
    [*(("resnet18", norm) for norm in SCALED), *(("resnet50", norm) for norm in ("bn", "gn", "frn_tlu", "norm_free"))],
)
def test_last_gammas_are_zero_where_asked(name: str, norm: NormName) -> None:
    """Each residual branch starts at zero, under every norm that has a scale and in both kinds of block."""
    gammas = last_gammas(build(name=name, norm=norm, zero_init_last_gamma=True))
    assert len(gammas) == (8 if name == "resnet18" else 16)
    assert all(torch.count_nonzero(gamma) == 0 for gamma in gammas)


@pytest.mark.parametrize("norm", [*SCALED, "norm_free"])
def test_last_gammas_are_one_where_not_asked(norm: NormName) -> None:
    """Without it every scale starts at 1."""
    assert all(torch.all(gamma == 1) for gamma in last_gammas(build(norm=norm, zero_init_last_gamma=False)))


@pytest.mark.parametrize("norm", [norm for norm in SCALED if norm != "bn"])
def test_norms_share_all_other_initial_weights(norm: NormName) -> None:
    """Trials that differ in the norm only start from the same convolutions and the same head."""
    plain = {name: values for name, values in built("bn").items() if "running" not in name and "num_" not in name}
    for name, values in plain.items():
        assert torch.equal(values, built(norm)[name]), name


def test_frozen_norm_has_no_trained_norms() -> None:
    """Frozen batch norm leaves convolutions and the head, and zeroed gammas asked for don't shut its branches."""
    model = build(norm="frozen_bn", zero_init_last_gamma=True)
    assert {name.rsplit(".", 1)[0] for name, p in model.named_parameters() if p.ndim == 1} == {"fc"}
    assert all(torch.all(buffer == 1) for name, buffer in model.named_buffers() if name.endswith("weight"))


@pytest.mark.parametrize("norm", ["bn", "evonorm_s0", "norm_free"])
@pytest.mark.parametrize(("image_size", "side"), [(16, 1), (32, 2), (63, 4), (64, 2), (224, 7)])
def test_stem_fits_the_image(norm: NormName, image_size: int, side: int) -> None:
    """Below 64 px a 3x3 stem without pooling keeps the last stage large; from 64 px on it is ImageNet's."""
    model = build(image_size=image_size, norm=norm).eval()
    stages: list[torch.Size] = []
    last = model.get_submodule("stages.3" if norm == "norm_free" else "layer4")
    last.register_forward_hook(lambda _module, _inputs, out: stages.append(out.shape[2:]))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, image_size, image_size)).shape == (1, 10)
    assert stages == [(side, side)]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_width_one_is_torchvisions(name: str) -> None:
    """For images of ImageNet's size the network has the weights that torchvision draws from the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = getattr(torchvision.models, name)(num_classes=10).state_dict()
    found = build(name=name, image_size=224, zero_init_last_gamma=False).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("width", [0.5, 2.0])
@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "norm_free"])
def test_width_scales_every_stage(norm: NormName, width: float) -> None:
    """Each stage puts out that many times the channels, the stem its own; the head fits, and a step is finite."""
    model = build(norm=norm, width=width).train()
    channels: list[int] = []
    for name in ("bn1", "layer1", "layer2", "layer3", "layer4"):
        model.get_submodule(name).register_forward_hook(lambda _module, _inputs, out: channels.append(out.shape[1]))
    logits = model(images(4))
    assert channels == [64, *(int(width * planes) for planes in (64, 128, 256, 512))]
    assert logits.shape == (4, 10)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("norm", ["bn", "norm_free"])
def test_head_has_one_logit_a_class(norm: NormName) -> None:
    """The classes of the data set, not ImageNet's thousand."""
    head = build(num_classes=37, norm=norm).get_submodule("head.fc" if norm == "norm_free" else "fc")
    assert head.get_parameter("weight").shape[0] == 37


@pytest.mark.parametrize(
    ("block", "plain", "depths"),
    [(ActivatedBasicBlock, BasicBlock, [1, 2, 1, 1]), (ActivatedBottleneck, Bottleneck, [1, 2, 1, 1])],
)
def test_activated_blocks_are_torchvisions_with_relus_in_the_norms(
    block: type[nn.Module], plain: type[nn.Module], depths: list[int]
) -> None:
    """With batch norm and ReLU in one layer they compute what torchvision's blocks do: no ReLU is lost or doubled."""
    networks = []
    for kind, norm in ((block, BatchNormAct2d), (plain, nn.BatchNorm2d)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            networks.append(ResNet(kind, depths, num_classes=10, norm_layer=norm).train())
    torch.testing.assert_close(networks[0](images(4)), networks[1](images(4)))


@pytest.mark.parametrize("norm", ["evonorm_s0", "frn_tlu"])
@pytest.mark.parametrize(("name", "last"), [("resnet18", 2), ("resnet50", 3)])
def test_only_the_sum_goes_through_a_relu(norm: NormName, name: str, last: int) -> None:
    """Inside a block, and in the stem, the norm's own activation is all: what it puts out reaches the next convolution,
    below zero too; before the sum there is none.
    """
    model = build(name=name, norm=norm, zero_init_last_gamma=False).train()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("tau"):
                parameter.fill_(-1.0)
    outputs: dict[str, Tensor] = {}
    calls: list[nn.Module] = []
    for module_name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda relu, _inputs, _out: calls.append(relu))
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _module, inputs, key=module_name: outputs.update({key: inputs[0]}))
        if module_name.rsplit(".", 1)[-1].startswith("bn"):
            module.register_forward_hook(lambda _module, _inputs, out, key=module_name: outputs.update({key: out}))
    model(images(2))
    blocks = {key: block for key, block in model.named_modules() if isinstance(block, BasicBlock | Bottleneck)}
    assert calls == [block.relu for block in blocks.values()]
    assert outputs["layer1.0.conv1"] is outputs["bn1"]
    for key, block in blocks.items():
        for i in range(1, last):
            assert outputs[f"{key}.conv{i + 1}"] is outputs[f"{key}.bn{i}"]
            assert block.get_submodule(f"bn{i}").apply_act
            assert float(outputs[f"{key}.bn{i}"].detach().min()) < 0
        assert not block.get_submodule(f"bn{last}").apply_act
        assert block.downsample is None or not block.downsample[1].apply_act


def test_filters_are_standardised() -> None:
    """Under gn_ws each convolution uses its filters at mean 0 and variance 1, whatever the weights themselves are."""
    model = build(norm="gn_ws").train()
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 20
    for conv in convolutions:
        weight = conv.weight.detach()
        mean, variance = weight.mean((1, 2, 3), keepdim=True), weight.var((1, 2, 3), correction=0, keepdim=True)
        standardized = (weight - mean) / (variance + 1e-6).sqrt()
        batch = torch.randn(1, conv.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
        expected = F.conv2d(batch, standardized, None, conv.stride, conv.padding)
        torch.testing.assert_close(conv(batch), expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_norm_free_stem_keeps_the_signal() -> None:
    """The small stem has the gain of timm's large one: noise of variance 1 comes out with the same variance."""
    spreads = []
    for size in (32, 64):
        conv = build(norm="norm_free", image_size=size).get_submodule("stem.conv")
        inner = conv(images(8, 64))[..., 4:-4, 4:-4]
        spreads.append(float(inner.std()))
    assert spreads[0] == pytest.approx(spreads[1], rel=0.05)
