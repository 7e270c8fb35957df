"""Each optimizer is its library's own, bit for bit, but for a bad step; and what is decayed is what the config says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from timm.optim.lamb import Lamb
from timm.optim.lars import Lars
from torch import Tensor, nn

from trainables.config import ModelConfig, OptimConfig
from trainables.model import build_model
from trainables.optim import (
    Hyperparameters,
    build_optimizer,
    clip_unitwise,
    named_state,
    parameter_groups,
    peak_learning_rate,
    set_hyperparameters,
    step_unless,
)

KINDS: list[dict[str, Any]] = [
    {},
    {"nesterov": True},
    {"momentum": 0.0},
    {"fused": False},
    {"kind": "adamw"},
    {"kind": "adamw", "fused": False},
    {"kind": "lars"},
    {"kind": "lars", "nesterov": True},
    {"kind": "lamb"},
]


def small_model(seed: int = 0) -> nn.Sequential:
    """A convolution with bias, batch norm and a linear layer; in channels_last, as a run has it."""
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def gradients(model: nn.Module, seed: int) -> None:
    """Gradients of a loss on noise."""
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    nn.functional.cross_entropy(model(images), torch.arange(4)).backward()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[Tensor]:
    """A few steps; the weights afterwards."""
    for step in range(steps):
        gradients(model, step)
        optimizer.step()
    return copies(model.parameters())


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Values that stay."""
    return [tensor.detach().clone() for tensor in tensors]


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Weights and the optimizer's state."""
    return copies([*model.parameters(), *named_state(model, optimizer).values()])


def library_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """What `config` names, as its library makes it, state made lazily."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    momentum: dict[str, Any] = {"momentum": config.momentum, "nesterov": config.nesterov}
    moments: dict[str, Any] = {"betas": config.betas, "eps": config.eps}
    match config.kind:
        case "sgd":
            return torch.optim.SGD(groups, lr=config.lr, fused=config.fused, **momentum)
        case "adamw":
            return torch.optim.AdamW(groups, lr=config.lr, fused=config.fused, **moments)
        case "lars":
            return Lars(groups, lr=config.lr, trust_coeff=config.trust_coefficient, **momentum)
        case "lamb":
            return Lamb(groups, lr=config.lr, max_grad_norm=None, **moments)


@pytest.mark.parametrize("changes", KINDS, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_state_from_the_start_is_the_library_s_lazy_state(changes: dict[str, Any], steps: int) -> None:
    """State made beforehand gives the same bits as that which the library makes at the first step."""
    config = OptimConfig.parse({"lr": 0.1, "weight_decay": 0.01} | changes)
    ours, theirs = small_model(), small_model()
    expected = train(theirs, library_optimizer(theirs, config), steps)
    actual = train(ours, build_optimizer(ours, config), steps)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_fused_update_is_the_plain_one_but_for_rounding(kind: str) -> None:
    """Filters in channels_last and their gradients meet element by element.

    The bias before batch norm is left out: its gradient is rounding alone, which AdamW blows up to a full step.
    """
    fused, plain = small_model(), small_model()
    configs = [OptimConfig.parse({"kind": kind, "lr": 0.01, "fused": flag}) for flag in (True, False)]
    actual = train(fused, build_optimizer(fused, configs[0]), 4)
    expected = train(plain, build_optimizer(plain, configs[1]), 4)
    names = [name for name, _ in fused.named_parameters()]
    for name, one, other in zip(names, actual, expected, strict=True):
        assert name == "0.bias" or torch.allclose(one, other, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_a_bad_step_changes_nothing(changes: dict[str, Any]) -> None:
    """With a gradient of nan and `bad` set, weights and state keep their bits, and training goes on undisturbed."""
    config = OptimConfig.parse({"lr": 0.1} | changes)
    model, undisturbed = small_model(), small_model()
    optimizer, other = build_optimizer(model, config), build_optimizer(undisturbed, config)
    for step in range(4):
        if step == 2:
            gradients(model, 99)
            next(model.parameters()).grad.fill_(torch.nan)  # type: ignore[union-attr] # just made
            before = everything(model, optimizer)
            set_hyperparameters(optimizer, Hyperparameters.of(config, 0.1), step)
            step_unless(optimizer, torch.ones(()))
            assert all(torch.equal(a, b) for a, b in zip(everything(model, optimizer), before, strict=True))
        for one, its in ((model, optimizer), (undisturbed, other)):
            gradients(one, step)
            set_hyperparameters(its, Hyperparameters.of(config, 0.1), step)
            step_unless(its, torch.zeros(()))
    assert all(
        torch.equal(a, b) for a, b in zip(everything(model, optimizer), everything(undisturbed, other), strict=True)
    )


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_state_has_a_name_for_each_tensor(changes: dict[str, Any]) -> None:
    """The names are the same at step 0 as later, so that every snapshot has the same tensors."""
    model = small_model()
    config = OptimConfig.parse({"lr": 0.1} | changes)
    optimizer = build_optimizer(model, config)
    names = set(named_state(model, optimizer))
    keys = {"adamw": {"exp_avg", "exp_avg_sq", "step"}, "lamb": {"exp_avg", "exp_avg_sq"}}.get(
        config.kind, {"momentum_buffer"} if config.momentum else set()
    )
    assert names == {f"{key}/{name}" for key in keys for name, _ in model.named_parameters()}
    train(model, optimizer, 2)
    assert set(named_state(model, optimizer)) == names


def test_lamb_counts_by_the_step_that_it_is_told() -> None:
    """Its bias correction is a function of the step, so a resumed run has the right one."""
    config = OptimConfig.parse({"kind": "lamb", "lr": 0.1})
    straight, resumed = small_model(), small_model()
    optimizer = build_optimizer(straight, config)
    for step in range(2):
        gradients(straight, step)
        set_hyperparameters(optimizer, Hyperparameters.of(config, 0.1), step)
        step_unless(optimizer, torch.zeros(()))
    resumed.load_state_dict(straight.state_dict())
    fresh = build_optimizer(resumed, config)
    for name, value in named_state(resumed, fresh).items():
        value.copy_(named_state(straight, optimizer)[name])
    for model, its in ((straight, optimizer), (resumed, fresh)):
        gradients(model, 2)
        set_hyperparameters(its, Hyperparameters.of(config, 0.1), 2)
        step_unless(its, torch.zeros(()))
    pairs = zip(copies(straight.parameters()), copies(resumed.parameters()), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("changes", "decayed"),
    [
        ({}, ["0.weight", "5.weight"]),
        ({"decay_norms": True}, ["0.weight", "1.weight", "1.bias", "5.weight"]),
        ({"decay_biases": True}, ["0.weight", "0.bias", "5.weight", "5.bias"]),
        (
            {"decay_norms": True, "decay_biases": True},
            ["0.weight", "0.bias", "1.weight", "1.bias", "5.weight", "5.bias"],
        ),
    ],
    ids=str,
)
def test_what_is_decayed(changes: dict[str, bool], decayed: list[str]) -> None:
    """With zero gradients just these shrink."""
    model = small_model()
    nn.init.ones_(model.get_parameter("1.bias"))
    optimizer = build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5, **changes))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, new in model.named_parameters():
        expected = before[name] * 0.95 if name in decayed else before[name]
        assert torch.allclose(new, expected, rtol=1e-6, atol=0), name


def test_gains_of_a_norm_free_network_count_as_norms() -> None:
    """Its scaled standardised convolutions have a gain for each filter, which is not decayed."""
    model = build_model(ModelConfig(norm="norm_free"), num_classes=10, image_size=32, seed=0)
    decayed, plain = parameter_groups(model, OptimConfig())
    assert all(p.ndim > 1 for p in decayed["params"])
    plain_ids = {id(p) for p in plain["params"]}
    gains = [p for name, p in model.named_parameters() if name.endswith("gain")]
    assert gains
    assert all(id(gain) in plain_ids for gain in gains)


def test_every_trained_parameter_is_in_one_group() -> None:
    """None is left out or twice in; what is frozen stays out."""
    model = small_model()
    model[0].weight.requires_grad_(False)  # noqa: FBT003 - torch's signature
    optimizer = build_optimizer(model, OptimConfig())
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", ["lars", "lamb"])
def test_without_weight_decay_each_layer_still_has_its_own_rate(kind: str) -> None:
    """By the trust ratio the first update of filters is as long relative to them, whatever their gradient."""
    lengths = []
    for scale in (1.0, 100.0):
        model = small_model()
        optimizer = build_optimizer(model, OptimConfig.parse({"kind": kind, "lr": 0.1, "weight_decay": 0.0}))
        filters = model.get_parameter("0.weight")
        before = filters.detach().clone()
        gradients(model, 0)
        assert filters.grad is not None
        filters.grad.mul_(scale)
        optimizer.step()
        lengths.append(float((filters.detach() - before).norm() / before.norm()))
    share = 0.1 * (OptimConfig().trust_coefficient if kind == "lars" else 1.0)
    assert lengths == pytest.approx([share, share], rel=1e-3)


def test_adaptive_clipping_bounds_each_unit_but_the_classifier() -> None:
    """Afterwards a unit's gradient is at most the share of its weight; the classifier's is as it was."""
    model = small_model()
    gradients(model, 0)
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.mul_(100.0)
    filters, classifier = model.get_parameter("0.weight"), model.get_parameter("5.weight")
    assert filters.grad is not None
    assert classifier.grad is not None
    before = classifier.grad.clone()
    clip_unitwise(model, 0.01)
    norms, bounds = filters.grad.flatten(1).norm(dim=1), 0.01 * filters.flatten(1).norm(dim=1)
    assert bool((norms <= bounds * 1.001).all())
    assert torch.equal(classifier.grad, before)


@pytest.mark.parametrize(("batch", "expected"), [(32, 0.02), (256, 0.16), (8, 0.005)])
def test_linear_scaling_rule(batch: int, expected: float) -> None:
    """The rate is proportional to the batch where the reference batch is given (Goyal et al. 2017)."""
    assert peak_learning_rate(OptimConfig(lr=0.02, lr_batch_size=32), batch) == pytest.approx(expected, rel=1e-12)


def test_without_a_reference_batch_the_rate_is_used_as_it_is() -> None:
    """`lr_batch_size` None: no scaling."""
    assert {peak_learning_rate(OptimConfig(lr=0.3), batch) for batch in (1, 32, 4096)} == {0.3}
