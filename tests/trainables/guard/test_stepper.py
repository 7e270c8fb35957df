"""One step under a plan: what is overridden is so within the update alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from trainables.errors import ConfigError, DataError
from trainables.guard.stepper import Batches, Mixed, Stepper, StepPlan, freeze, loss_signals, read_hyperparameters

if TYPE_CHECKING:
    from tests.trainables.guard.conftest import Loop, MakeLoop


def stepper_of(loop: Loop) -> Stepper:
    """A stepper of the loop."""
    return Stepper(loop.model, loop.optimizer, Batches(loop.batch, keep=0), loop.step)


def test_plan_without_overrides_is_the_plain_step(make_loop: MakeLoop) -> None:
    """Measured or not, a step under an empty plan has the bits of the loop's own."""
    plain, planned = make_loop("conv"), make_loop("conv")
    stepper = stepper_of(planned)
    torch.manual_seed(1)
    for k in range(3):
        plain.step(plain.batch(k))
    torch.manual_seed(1)
    for k in range(3):
        stepper.run(StepPlan(k, k, max_grad_norm=float("inf")))
    assert planned.has_bits_of(plain)
    assert stepper.grad_norm > 0


def test_overridden_rate_is_used_and_put_back(make_loop: MakeLoop) -> None:
    """The update uses the plan's rate; before and after it the loop's own stands in the groups."""
    slow, planned = make_loop(rate_at=lambda k: 0.01), make_loop()
    slow.run(1)
    stepper = stepper_of(planned)
    groups = tuple({**group, "lr": 0.01} for group in read_hyperparameters(planned.optimizer))
    stepper.run(StepPlan(0, 0, groups))
    assert planned.has_bits_of(slow)
    assert planned.optimizer.param_groups[0]["lr"] == 0.1
    assert stepper.hyperparameters()[0]["lr"] == 0.01


def test_rate_set_within_the_step_is_what_is_recorded(make_loop: MakeLoop) -> None:
    """A step that sets its own rate just before its update is recorded with that rate."""
    loop = make_loop()

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        loop.optimizer.param_groups[0]["lr"] = 0.03
        losses = loop.step(batch)
        loop.optimizer.param_groups[0]["lr"] = 0.5
        return losses

    stepper = Stepper(loop.model, loop.optimizer, Batches(loop.batch, keep=0), step)
    stepper.run(StepPlan(0, 0))
    assert stepper.hyperparameters()[0]["lr"] == 0.03


def test_rate_in_a_tensor_is_overridden_in_place(make_loop: MakeLoop) -> None:
    """A capturable rate keeps its tensor."""
    rate = torch.tensor(0.1)
    loop = make_loop(optimizer=lambda p: torch.optim.SGD(p, rate, foreach=False))
    stepper_of(loop).run(StepPlan(0, 0, ({"lr": 0.01},)))
    assert loop.optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.1)


def test_clipping_bounds_the_update(make_loop: MakeLoop) -> None:
    """Clipped to a tenth of its norm, the gradient moves the weights by a tenth."""
    whole, tenth = make_loop(), make_loop()
    before = whole.tensors()[0]
    stepper = stepper_of(whole)
    stepper.run(StepPlan(0, 0, max_grad_norm=float("inf")))
    stepper_of(tenth).run(StepPlan(0, 0, max_grad_norm=stepper.grad_norm / 10))
    moved = (whole.tensors()[0] - before).norm() / (tenth.tensors()[0] - before).norm()
    assert moved.item() == pytest.approx(10.0, rel=1e-3)


def test_skipped_step_changes_nothing(make_loop: MakeLoop) -> None:
    """A plan without a batch makes no update."""
    loop, same = make_loop(), make_loop()
    assert stepper_of(loop).run(StepPlan(0, None)) is None
    assert loop.has_bits_of(same)


def test_frozen_statistics_are_the_running_ones(make_loop: MakeLoop) -> None:
    """Under the hooks a batch norm in training mode gives what it gives in evaluation mode, and stays in its mode."""
    norm = make_loop("conv").model[1]  # type: ignore[index] # a Sequential
    inputs = torch.randn(4, 8, 8, 8)
    norm(inputs)
    wanted = norm.eval()(inputs)
    norm.train()
    mean = norm.running_mean.clone()
    hooks = freeze(norm)
    assert torch.equal(norm(inputs), wanted)
    assert norm.training
    assert torch.equal(norm.running_mean, mean)
    for hook in hooks:
        hook.remove()
    assert not torch.equal(norm(inputs), wanted)


def test_frozen_plan_leaves_no_hook(make_loop: MakeLoop) -> None:
    """A step after a frozen one uses batch statistics again."""
    loop = make_loop("conv")
    stepper = stepper_of(loop)
    plan = StepPlan(0, 0)
    mean = loop.model.get_buffer("1.running_mean")
    stepper.run(replace(plan, frozen_statistics=True))
    assert not mean.any()
    stepper.run(plan)
    assert mean.any()


def test_only_the_last_batches_are_remembered() -> None:
    """The memory is bounded, and a batch that has left it is named."""
    batches = Batches(None, keep=3)
    for k in range(5):
        batches.remember(k, f"batch {k}")
    assert batches(4) == "batch 4"
    assert not batches.has(1)
    with pytest.raises(DataError, match="batch: 1 is not allowed; allowed: batches 2 to 4"):
        batches(1)


def test_losses_of_samples_give_the_standard_error() -> None:
    """The noise of the mean is the samples' deviation over the root of their number."""
    signals = loss_signals(3, torch.tensor([1.0, 2.0, 3.0, 4.0]), 0.1)
    assert (signals.step, signals.loss, signals.learning_rate) == (3, 2.5, 0.1)
    assert signals.loss_noise == pytest.approx((5 / 3) ** 0.5 / 2)


@pytest.mark.parametrize(("share", "folded"), [(0.25, 0.25), (0.75, 0.25), (torch.tensor(1.0), 0.0), (0, 0.0)])
def test_a_step_tells_what_was_mixed(share: Any, folded: float) -> None:
    """Whichever of the two images is called its own."""
    signals = loss_signals(3, Mixed(torch.tensor([1.0, 3.0]), share), 0.1)
    assert (signals.loss, signals.mixed_share) == (2.0, folded)


@pytest.mark.parametrize("share", [1.5, -0.1, "half", math.nan, torch.ones(2)])
def test_a_share_that_is_none_is_refused(share: Any) -> None:
    """By name, with what is allowed."""
    with pytest.raises(ConfigError, match="share of step's return value"):
        loss_signals(3, Mixed(1.0, share), 0.1)


@pytest.mark.parametrize("returned", [(torch.tensor([1.0, 3.0]), 0.5), None, torch.ones(0)])
def test_what_is_no_loss_is_refused(returned: Any) -> None:
    """A pair may be a loss and an accuracy: only `Mixed` tells a share."""
    with pytest.raises(ConfigError, match=r"step's return value: .* is not allowed; allowed: per-sample losses"):
        loss_signals(3, returned, 0.1)
