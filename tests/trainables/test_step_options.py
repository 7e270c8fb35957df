"""Accumulation, averages, loss scale and mixing: each does what its name says, and nothing to the rest of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from trainables.config import ModelConfig
from trainables.data.mixing import mix_images
from trainables.evaluation import evaluate
from trainables.ingredients import load_batch
from trainables.loop import Reading, run_steps, to_input, train_step
from trainables.signals import read_signals
from trainables.step_signals import StepSignals

if TYPE_CHECKING:
    from tests.trainables.conftest import Bench, Build, Tiny

GROUP_NORM = {"norm": "gn"}
LOW_SCALE = 2.0**8
"""A loss scale at which the first steps of the tiny network don't overflow."""


def run(bench: Bench, stop: int, **options: Any) -> list[StepSignals]:
    """Train the bench from its start."""
    return list(run_steps(bench.state, bench.stream, 0, stop, loader_threads=0, **options))


@pytest.mark.parametrize("micro_batch_size", [1, 3, 4, 8, 100])
def test_accumulation_is_the_whole_batch(build: Build, tiny: Tiny, micro_batch_size: int) -> None:
    """Under group norm a batch in micro-batches, equal or not, takes the step of the batch at once."""
    sizes = (None, micro_batch_size)
    whole, cut = (build(tiny(model=GROUP_NORM, optim={"micro_batch_size": n, "lr": 0.002})) for n in sizes)
    expected, actual = run(whole, 3), run(cut, 3)
    for one, other in zip(expected, actual, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.top1 == one.top1
        assert other.input_mean == pytest.approx(one.input_mean, abs=1e-9)
    assert float((whole.weights - cut.weights).norm() / whole.weights.norm()) < 1e-5


def test_signals_read_late_are_the_same(build: Build, tiny: Tiny) -> None:
    """Whether each step is read at once, four at a time or where something is due: equal signals, equal weights."""
    benches = [build(tiny()) for _ in range(3)]
    readings = [Reading(), Reading(4), Reading(100, lambda done: done == 2)]
    runs = [run(bench, 6, reading=reading) for bench, reading in zip(benches, readings, strict=True)]
    assert runs[0] == runs[1] == runs[2]
    assert torch.equal(benches[0].weights, benches[1].weights)


def test_state_is_where_its_last_signals_are_due(build: Build, tiny: Tiny) -> None:
    """When something is due after a step, its signals come while the state is just there."""
    bench = build(tiny())
    seen = [
        (signals.step, bench.state.step)
        for signals in run_steps(
            bench.state, bench.stream, 0, 5, loader_threads=0, reading=Reading(9, lambda n: n == 3)
        )
    ]
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 5), (4, 5)]


def test_notice_reaches_the_signals(build: Build, tiny: Tiny) -> None:
    """A rank that is told to stop says so in the step after, and the step itself is unchanged."""
    told, plain = build(tiny()), build(tiny())
    steps = run(told, 3, notice=lambda: told.state.step >= 1)
    assert [signals.notice for signals in steps] == [False, True, True]
    assert [signals.loss for signals in steps] == [signals.loss for signals in run(plain, 3)]


def test_averages_follow_the_weights(build: Build, tiny: Tiny) -> None:
    """Each step: average = decay * average + (1 - decay) * weights, buffers included; training is as without.

    The decay is (1 + step) / (10 + step) up to `ema_decay`.
    """
    bench, plain = build(tiny(optim={"ema_decay": 0.15})), build(tiny())
    names = [name for name, tensor in bench.state.tensors().items() if name.startswith("average/")]
    expected = {name: bench.state.tensors()[name].clone() for name in names}
    for step in range(3):
        ingredients = bench.stream(step)
        train_step(bench.state, ingredients, load_batch(ingredients, bench.state.ranks))
        tensors = bench.state.tensors()
        for name in names:
            plain_name = name.removeprefix("average/")
            live = tensors.get(f"parameter/{plain_name}", tensors.get(f"buffer/{plain_name}"))
            assert live is not None
            decay = (0.1, 0.15, 0.15)[step]
            expected[name] = decay * expected[name] + (1 - decay) * live
    assert "average/bn1.running_mean" in names
    assert all(torch.allclose(bench.state.tensors()[name], expected[name], atol=1e-6) for name in names)
    run(plain, 3)
    assert torch.equal(plain.weights, bench.weights)


def test_evaluation_uses_the_averages(build: Build, tiny: Tiny) -> None:
    """The scores are those of a network with the averages for weights, and the weights are as before."""
    bench, other = build(tiny(optim={"ema_decay": 0.9, "lr": 0.5})), build(tiny())
    run(bench, 4)
    before = bench.weights
    scores = evaluate(bench.state, bench.recipe.evaluation(4))
    assert torch.equal(bench.weights, before)
    live = other.state.tensors()
    for name, average in bench.state.averages.items():
        live.get(f"parameter/{name}", live.get(f"buffer/{name}")).copy_(average)  # type: ignore[union-attr] # one of two
    assert evaluate(other.state, other.recipe.evaluation(4)) == scores
    other.state.restore(bench.state.snapshot())
    assert evaluate(other.state, other.recipe.evaluation(4)) != scores


def test_a_bad_step_leaves_averages_and_scale(build: Build, tiny: Tiny) -> None:
    """A step that is not finite changes nothing, averages included."""
    fault = {"use": "trainables.faults:non_finite_input", "start_step": 1, "stop_step": 2}
    bench = build(tiny(faults=[fault], optim={"ema_decay": 0.5}))
    run(bench, 1)
    before = {name: tensor.clone() for name, tensor in bench.state.tensors().items()}
    assert not run_one(bench, 1).finite
    assert all(torch.equal(tensor, before[name]) for name, tensor in bench.state.tensors().items())


def run_one(bench: Bench, step: int) -> StepSignals:
    """One step, whatever the state's own."""
    ingredients = bench.stream(step)
    return read_signals([train_step(bench.state, ingredients, load_batch(ingredients, bench.state.ranks))])[0]


def test_fp16_backs_off_and_goes_on(build: Build, tiny: Tiny) -> None:
    """An overflow of the loss scale halves it, changes nothing else and is no symptom; then training goes on."""
    bench = build(tiny(precision={"amp": "fp16"}))
    assert bench.state.loss_scale is not None
    bench.state.loss_scale.scale.fill_(2.0**120)
    before = bench.weights
    signals = run_one(bench, 0)
    assert (signals.applied, signals.overflowed, signals.finite) == (False, True, True)
    assert torch.equal(bench.weights, before)
    assert float(bench.state.loss_scale.scale) == 2.0**119
    bench.state.loss_scale.scale.fill_(LOW_SCALE)
    signals = run_one(bench, 1)
    assert signals.applied
    assert not signals.overflowed


def test_fp16_gradients_are_unscaled(build: Build, tiny: Tiny) -> None:
    """Loss and gradient norm are near float32's: the scale is divided out again."""
    bench = build(tiny(precision={"amp": "fp16"}))
    assert bench.state.loss_scale is not None
    bench.state.loss_scale.scale.fill_(LOW_SCALE)
    half, full = run(bench, 1)[0], run(build(tiny()), 1)[0]
    assert half.applied
    assert half.loss == pytest.approx(full.loss, rel=0.02)
    assert half.grad_norm == pytest.approx(full.grad_norm, rel=0.05)


def test_fp16_input_that_is_not_finite_is_a_fault(build: Build, tiny: Tiny) -> None:
    """A nan in the input is not taken for an overflow of the scale."""
    fault = {"use": "trainables.faults:non_finite_input"}
    signals = run(build(tiny(faults=[fault], precision={"amp": "fp16"})), 1)[0]
    assert math.isnan(signals.loss)
    assert not signals.finite


def test_mixed_images_are_what_the_network_sees(build: Build, tiny: Tiny) -> None:
    """The loss is that of the mixed images and both labels; the input's moments are those of the plain images."""
    bench, plain = build(tiny(data={"mixup_alpha": 0.4})), build(tiny())
    ingredients = bench.stream(0)
    batch = load_batch(ingredients, bench.state.ranks)
    assert ingredients.mix is not None
    with torch.no_grad(), bench.state.held_buffers():
        images = mix_images(to_input(batch.images, ingredients.normalize, bench.state), ingredients.mix)
        expected = ingredients.loss(bench.state.model.train()(images), batch.labels, ingredients.mix).mean()
    signals = run(bench, 1)[0]
    assert signals.loss == pytest.approx(float(expected), rel=1e-5)
    assert signals.input_mean == run(plain, 1)[0].input_mean


def test_mixing_and_accumulation_go_together(build: Build, tiny: Tiny) -> None:
    """No cut parts two neighbours: micro-batches of three samples' budget take the whole batch's step."""
    options: dict[str, Any] = {"model": GROUP_NORM, "data": {"cutmix_alpha": 1.0}}
    whole, cut = (build(tiny(**options, optim={"micro_batch_size": size})) for size in (None, 3))
    expected, actual = run(whole, 2), run(cut, 2)
    assert [s.loss for s in actual] == pytest.approx([s.loss for s in expected], rel=1e-5)


def small_network(config: ModelConfig, *, num_classes: int, **_options: Any) -> nn.Module:
    """A network with batch norm that is compiled in seconds, where a ResNet takes a minute."""
    del config
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        layers = [nn.Conv2d(3, 8, kernel_size=3, stride=2), nn.BatchNorm2d(8), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(8 * 4 * 4, num_classes))


def test_compiled_steps_are_near_eager_ones(build: Build, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile changes rounding, not training."""
    monkeypatch.setattr("trainables.build.build_model", small_network)
    eager, compiled = build(tiny()), build(tiny(precision={"compile": True}))
    expected, actual = run(eager, 3), run(compiled, 3)
    compilations = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compilations > 0
    assert [s.loss for s in actual] == pytest.approx([s.loss for s in expected], rel=1e-4)


def test_compiled_steps_know_nothing_of_the_sides_before(
    build: Build, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiled run with growing images that goes on in a new process takes the steps of one that never stopped."""
    monkeypatch.setattr("trainables.build.build_model", small_network)
    growing = {"start_size": 8, "grow_steps": (0, 3), "size_multiple": 4}
    config = tiny(precision={"compile": True}, data=growing)
    whole, resumed = build(config), build(config)
    run(whole, 2)
    resumed.state.restore(whole.state.snapshot())
    list(run_steps(whole.state, whole.stream, 2, 5, loader_threads=0))
    torch._dynamo.reset()
    list(run_steps(resumed.state, resumed.stream, 2, 5, loader_threads=0))
    assert len({resumed.recipe.side(step) for step in range(5)}) == 3
    assert torch.equal(whole.weights, resumed.weights)
