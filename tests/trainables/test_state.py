"""A snapshot is a copy, and restoring it twice gives equal bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from trainables.loop import run_steps
from trainables.state import Snapshot, TrainState
from trainables.step_signals import StepSignals

if TYPE_CHECKING:
    from tests.trainables.conftest import Bench, Build, Tiny


def train(bench: Bench, start: int, stop: int) -> list[StepSignals]:
    """Run [start, stop) on the bench's state."""
    return list(run_steps(bench.state, bench.stream, start, stop, loader_threads=0))


def copy_of(state: TrainState) -> dict[str, Tensor]:
    """Every tensor of the state."""
    return {name: tensor.clone() for name, tensor in state.tensors().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Same names, same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def bench(build: Build, tiny: Tiny) -> Bench:
    """A run that is some steps old."""
    bench = build(tiny())
    train(bench, 0, 3)
    return bench


@pytest.fixture(scope="module")
def snapshot(bench: Bench) -> Snapshot:
    """The state before step 3; tests put it back."""
    return bench.state.snapshot()


def test_a_snapshot_holds_weights_buffers_and_momentum(bench: Bench, snapshot: Snapshot) -> None:
    """Everything that a step reads and writes is in it, each under its own name."""
    model = bench.state.model
    weights = {f"parameter/{name}" for name, _ in model.named_parameters()}
    momentum = {f"optimizer/momentum_buffer/{name}" for name, _ in model.named_parameters()}
    buffers = {f"buffer/{name}" for name, _ in model.named_buffers()}
    assert set(snapshot.tensors) == weights | momentum | buffers
    assert any(name.endswith("num_batches_tracked") for name in buffers)
    assert snapshot.step == 3


def test_a_snapshot_is_no_alias(bench: Bench, snapshot: Snapshot) -> None:
    """Training on leaves a snapshot as it was, and a snapshot shares no storage with the live state."""
    bench.state.restore(snapshot)
    before = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    train(bench, 3, 5)
    assert equal(snapshot.tensors, before)
    live = {tensor.data_ptr() for tensor in bench.state.tensors().values()}
    assert live.isdisjoint(tensor.data_ptr() for tensor in snapshot.tensors.values())


def test_restoring_copies_into_the_existing_storage(bench: Bench, snapshot: Snapshot) -> None:
    """Addresses stay, so that nothing that holds a tensor of the state goes stale; gradients are cleared."""
    train(bench, 3, 4)
    before = {name: tensor.data_ptr() for name, tensor in bench.state.tensors().items()}
    bench.state.restore(snapshot)
    assert {name: tensor.data_ptr() for name, tensor in bench.state.tensors().items()} == before
    assert all(parameter.grad is None for parameter in bench.state.parameters)
    assert equal(copy_of(bench.state), snapshot.tensors)


def test_two_replays_of_one_snapshot_give_equal_bits(bench: Bench, snapshot: Snapshot) -> None:
    """Losses, gradients and the state after them, whatever ran in between."""
    bench.state.restore(snapshot)
    first, state_after = train(bench, 3, 6), copy_of(bench.state)
    train(bench, 6, 7)
    bench.state.restore(snapshot)
    assert train(bench, 3, 6) == first
    assert equal(copy_of(bench.state), state_after)


def test_a_snapshot_restores_into_another_process_s_state(
    bench: Bench, snapshot: Snapshot, build: Build, tiny: Tiny
) -> None:
    """A state built anew goes on from a snapshot with the bits of the one that it was taken from."""
    bench.state.restore(snapshot)
    expected = train(bench, 3, 5)
    fresh = build(tiny())
    fresh.state.restore(snapshot)
    assert train(fresh, 3, 5) == expected


def test_without_momentum_there_is_none_to_restore(build: Build, tiny: Tiny) -> None:
    """Plain SGD snapshots and restores too, after steps as before them."""
    bench = build(tiny(optim={"momentum": 0.0}))
    first = bench.state.snapshot()
    losses = train(bench, 0, 2)
    assert not any(name.startswith("optimizer/") for name in bench.state.tensors())
    bench.state.restore(first)
    assert train(bench, 0, 2) == losses


def test_weight_noise_is_relative_and_keyed(bench: Bench, snapshot: Snapshot) -> None:
    """Each weight moves by about the share asked for; the same seed gives the same noise, zeros and buffers stay."""

    def noisy(seed: int) -> dict[str, Tensor]:
        bench.state.restore(snapshot)
        bench.state.add_weight_noise(1e-3, seed)
        return copy_of(bench.state)

    once, again, other = noisy(1), noisy(1), noisy(2)
    assert equal(once, again)
    assert not equal(once, other)
    before, after = snapshot.tensors["parameter/conv1.weight"], once["parameter/conv1.weight"]
    assert float((after / before - 1).std()) == pytest.approx(1e-3, rel=0.1)
    assert all(torch.equal(once[n], t) for n, t in snapshot.tensors.items() if not n.startswith("parameter/"))


def test_weight_noise_leaves_the_global_generator_alone(bench: Bench, snapshot: Snapshot) -> None:
    """A placebo draws nothing from the generator that others share."""
    before = torch.random.get_rng_state()
    bench.state.add_weight_noise(1e-6, 3)
    bench.state.restore(snapshot)
    assert torch.equal(torch.random.get_rng_state(), before)
