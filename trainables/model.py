"""torchvision's ResNets with any normalisation layer, timm's norm-free one, and a stem that fits small images."""

from __future__ import annotations

from typing import Any, cast

import timm
import torch
from timm.layers.std_conv import ScaledStdConv2d, StdConv2d
from timm.models.nfnet import NormFreeBlock
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from trainables.config import SMALL_IMAGE, ModelConfig
from trainables.norms import ACTIVATED, batch_norms, build_norm_layer


def build_model(config: ModelConfig, *, num_classes: int, image_size: int, seed: int) -> nn.Module:
    """A ResNet whose initial weights depend on `seed` alone; the global RNG is left as it was."""
    build = _build_norm_free if config.norm == "norm_free" else _build_resnet
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build(config, num_classes, small_stem=image_size < SMALL_IMAGE)
    for layer in batch_norms(model):
        layer.momentum, layer.eps = config.bn_momentum, config.bn_eps
    return model


def _build_resnet(config: ModelConfig, num_classes: int, *, small_stem: bool) -> nn.Module:
    activated = config.norm in ACTIVATED
    block, depths = _ACTIVATED_BLOCKS[config.name] if activated else _BLOCKS[config.name]
    model: nn.Module = ScaledResNet(
        config.width,
        block,
        list(depths),
        num_classes=num_classes,
        norm_layer=build_norm_layer(config.norm, config.ghost_batch_size),
        # A frozen scale of zero would shut its branch for good.
        zero_init_residual=config.zero_init_last_gamma and config.norm != "frozen_bn",
    )
    if small_stem:
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    if activated:
        model.relu = nn.Identity()
    if config.norm == "gn_ws":
        _standardize_weights(model)
    return model


def _build_norm_free(config: ModelConfig, num_classes: int, *, small_stem: bool) -> nn.Module:
    """The pre-activation ResNet-50 of Brock et al. 2021 (`Characterizing signal propagation`), as timm has it."""
    model: nn.Module = timm.create_model("nf_resnet50", num_classes=num_classes)
    if small_stem:
        large = cast("ScaledStdConv2d", model.get_submodule("stem.conv"))
        gamma = large.scale * large.weight[0].numel() ** 0.5
        small = ScaledStdConv2d(3, large.out_channels, kernel_size=3, stride=2, gamma=gamma, eps=large.eps)
        nn.init.kaiming_normal_(small.weight, mode="fan_in", nonlinearity="linear")
        nn.init.zeros_(cast("Tensor", small.bias))
        model.set_submodule("stem.conv", small)
        model.set_submodule("stem.pool", nn.Identity())
    if not config.zero_init_last_gamma:
        # timm always starts them at zero, which is its SkipInit (De and Smith 2020) for each channel.
        for block in model.modules():
            if isinstance(block, NormFreeBlock):
                nn.init.ones_(block.conv3.gain)
    return model


def _standardize_weights(model: nn.Module) -> None:
    """Standardise each filter before it is used (Qiao et al. 2019); the weights themselves stay."""
    for name, conv in list(model.named_modules()):
        if isinstance(conv, nn.Conv2d):
            standardized = StdConv2d(
                conv.in_channels,
                conv.out_channels,
                cast("tuple[int, int]", conv.kernel_size),
                stride=cast("tuple[int, int]", conv.stride),
                padding=cast("tuple[int, int]", conv.padding),
            )
            standardized.weight = conv.weight
            model.set_submodule(name, standardized)


class ScaledResNet(ResNet):  # type: ignore[misc] # torchvision has no annotations
    """torchvision's ResNet with `width` times the channels in every stage; the stem keeps its own."""

    def __init__(self, width: float, *args: Any, num_classes: int, **kwargs: Any) -> None:
        self.width = width
        super().__init__(*args, num_classes=num_classes, **kwargs)
        if width != 1.0:
            self.fc = nn.Linear(self.inplanes, num_classes)

    def _make_layer(self, block: type[nn.Module], planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        return cast("nn.Sequential", super()._make_layer(block, int(planes * self.width), *args, **kwargs))


class ActivatedBasicBlock(BasicBlock):  # type: ignore[misc] # torchvision has no annotations
    """BasicBlock whose first norm brings its own activation; the last and the shortcut's have none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _drop_activations(self, "bn2", "downsample.1")

    def forward(self, x: Tensor) -> Tensor:
        """[n, inplanes, height, width] -> [n, planes, height / stride, width / stride]."""
        identity = x if self.downsample is None else self.downsample(x)
        branch = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        return cast("Tensor", self.relu(branch + identity))


class ActivatedBottleneck(Bottleneck):  # type: ignore[misc] # torchvision has no annotations
    """Bottleneck whose inner norms bring their own activation; the last and the shortcut's have none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _drop_activations(self, "bn3", "downsample.1")

    def forward(self, x: Tensor) -> Tensor:
        """[n, inplanes, height, width] -> [n, 4 * planes, height / stride, width / stride]."""
        identity = x if self.downsample is None else self.downsample(x)
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        return cast("Tensor", self.relu(self.bn3(self.conv3(inner)) + identity))


def _drop_activations(block: nn.Module, *names: str) -> None:
    """Put norms without activation where a sum follows, as the layers' authors do."""
    for name, norm in list(block.named_modules()):
        if name in names:
            block.set_submodule(name, type(norm)(norm.get_parameter("weight").numel(), apply_act=False))


_BLOCKS = {"resnet18": (BasicBlock, (2, 2, 2, 2)), "resnet50": (Bottleneck, (3, 4, 6, 3))}
_ACTIVATED_BLOCKS = {"resnet18": (ActivatedBasicBlock, (2, 2, 2, 2)), "resnet50": (ActivatedBottleneck, (3, 4, 6, 3))}
