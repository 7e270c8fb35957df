"""The state of a loop, copied out and back in, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from trainables.guard.state import LoopState, RandomState, equal_states

if TYPE_CHECKING:
    from tests.trainables.guard.conftest import Loop, MakeLoop

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "plain_sgd": lambda p: torch.optim.SGD(p, 0.1),
    "amsgrad": lambda p: torch.optim.AdamW(p, 1e-3, amsgrad=True),
    "fused": lambda p: torch.optim.Adam(p, 1e-3, fused=True),
    "tensor_rate": lambda p: torch.optim.Adam(p, torch.tensor(1e-3), foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9, centered=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, 1e-2),
}


def train(loop: Loop, first: int, steps: int) -> list[torch.Tensor]:
    """Some steps, and the tensors after them."""
    for k in range(first, first + steps):
        loop.step(loop.batch(k))
    return loop.tensors()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("first", [0, 5])
def test_two_replays_of_one_snapshot_give_equal_bits(make_loop: MakeLoop, name: str, first: int) -> None:
    """From before the first step, where no moment is made yet, and from later, with dropout and batch norm."""
    loop = make_loop("conv", OPTIMIZERS[name])
    train(loop, 0, first)
    state = LoopState(loop.model, loop.optimizer)
    snapshot = state.capture(first)
    runs = [train(loop, first, 6)]
    for _ in range(2):
        state.restore(snapshot)
        runs.append(train(loop, first, 6))
    assert all(len(run) == len(runs[0]) and all(map(torch.equal, run, runs[0])) for run in runs[1:])


def test_restore_keeps_the_tensors(make_loop: MakeLoop) -> None:
    """Values go into the storage that is there: who holds a weight or a momentum still holds it."""
    loop = make_loop("conv")
    train(loop, 0, 3)
    state = LoopState(loop.model, loop.optimizer)
    snapshot = state.capture(3)

    def places() -> list[int]:
        moments = [s["momentum_buffer"].data_ptr() for s in loop.optimizer.state.values()]
        return [t.data_ptr() for t in (*loop.model.parameters(), *loop.model.buffers())] + moments

    before = places()
    train(loop, 3, 3)
    state.restore(snapshot)
    assert places() == before


def test_moments_made_since_are_dropped(make_loop: MakeLoop) -> None:
    """A snapshot from before the first step puts back an optimizer without state."""
    loop = make_loop()
    state = LoopState(loop.model, loop.optimizer)
    snapshot = state.capture(0)
    train(loop, 0, 2)
    assert len(loop.optimizer.state) == 4
    state.restore(snapshot)
    assert len(loop.optimizer.state) == 0
    assert all(p.grad is None for p in loop.model.parameters())


def test_gradients_that_add_up_over_steps_come_back(make_loop: MakeLoop) -> None:
    """A loop that accumulates gradients across its steps replays to equal bits."""
    loop = make_loop()

    def accumulate(first: int) -> list[torch.Tensor]:
        for k in range(first, first + 5):
            pixels, truth = loop.batch(k)
            nn.functional.cross_entropy(loop.model(pixels), truth).backward()
            if k % 4 == 3:
                loop.optimizer.step()
                loop.optimizer.zero_grad()
        return loop.tensors()

    accumulate(0)
    state = LoopState(loop.model, loop.optimizer)
    snapshot = state.capture(5)
    once = accumulate(5)
    state.restore(snapshot)
    assert all(map(torch.equal, once, accumulate(5)))


def test_extra_state_comes_back(make_loop: MakeLoop) -> None:
    """A moving average, a loss scale and a scheduler are put back, and a later change does not reach the snapshot."""
    loop = make_loop()
    average = AveragedModel(loop.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(loop.optimizer, 20)

    def scaled(first: int) -> list[Any]:
        for k in range(first, first + 5):
            pixels, truth = loop.batch(k)
            loss = nn.functional.cross_entropy(loop.model(pixels), truth)
            loop.optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(loop.optimizer)
            scaler.update()
            scheduler.step()
            average.update_parameters(loop.model)
        return [loop.tensors(), [t.clone() for t in average.parameters()], scaler.get_scale(), scheduler.get_last_lr()]

    scaled(0)
    state = LoopState(loop.model, loop.optimizer, [average, scaler, scheduler])
    snapshot = state.capture(5)
    first = scaled(5)
    for _ in range(2):
        state.restore(snapshot)
        assert equal_states(scaled(5), first)


def test_modes_and_generators_come_back(make_loop: MakeLoop) -> None:
    """Training mode is kept per module, and so are the global generators."""
    loop = make_loop("conv")
    loop.model[1].eval()  # type: ignore[index] # a Sequential
    state = LoopState(loop.model, loop.optimizer)
    snapshot = state.capture(0)
    loop.model.train()
    drawn = torch.rand(3)
    state.restore(snapshot)
    assert [m.training for m in loop.model.children()] == [True, False, True, True, True, True]
    assert torch.equal(torch.rand(3), drawn)


def test_parameters_beside_the_model_are_state(make_loop: MakeLoop) -> None:
    """What only the optimizer knows, a learned temperature say, is copied as well."""
    loop = make_loop()
    temperature = nn.Parameter(torch.tensor(1.0))
    loop.optimizer.add_param_group({"params": [temperature]})
    state = LoopState(loop.model, loop.optimizer)
    snapshot = state.capture(0)
    with torch.no_grad():
        temperature.fill_(7.0)
    state.restore(snapshot)
    assert temperature.item() == 1.0


def test_placebo_is_small_and_keyed(make_loop: MakeLoop) -> None:
    """The noise moves every weight matrix by about 1e-6 of itself, the same for equal keys."""
    loops = [make_loop(), make_loop(), make_loop()]
    for loop, key in zip(loops, (3, 3, 4), strict=True):
        LoopState(loop.model, loop.optimizer).add_weight_noise(1e-6, key)
    plain, (one, same, other) = make_loop().tensors(), [loop.tensors() for loop in loops]
    assert all(map(torch.equal, one, same))
    assert not any(map(torch.equal, one, other))
    assert all(0 < (a - b).norm() / b.norm() < 1e-5 for a, b in zip(one, plain, strict=True))


def test_zero_momentum_keeps_second_moments(make_loop: MakeLoop) -> None:
    """First moments go to zero; second moments and step counts stay, or Adam's next step would be a jump."""
    loop = make_loop(optimizer=torch.optim.AdamW)
    train(loop, 0, 3)
    LoopState(loop.model, loop.optimizer).zero_momentum()
    for moments in loop.optimizer.state.values():
        assert not moments["exp_avg"].any()
        assert moments["exp_avg_sq"].any()
        assert moments["step"] == 3


def test_equal_states_sees_each_difference() -> None:
    """Values, keys, lengths and bits of tensors all count."""
    state = {"scale": 2.0, "rates": [0.1, 0.2], "weights": {"a": torch.ones(2)}}
    assert equal_states(state, {"scale": 2.0, "rates": [0.1, 0.2], "weights": {"a": torch.ones(2)}})
    assert not equal_states(state, state | {"scale": 3.0})
    assert not equal_states(state, state | {"rates": [0.1]})
    assert not equal_states(state, state | {"weights": {"a": torch.zeros(2)}})
    assert not equal_states(state, state | {"more": 1})


def test_reading_the_generators_draws_nothing() -> None:
    """Between two reads, nothing has moved."""
    one = RandomState.read()
    assert torch.equal(one.torch, RandomState.read().torch)
    assert one.python == RandomState.read().python
