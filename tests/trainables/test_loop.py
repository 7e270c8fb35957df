"""A step is a pure function of (config, seed, step), and an evaluation is exact."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.data.images import ImageSource
from trainables.data.index import Split
from trainables.evaluation import evaluate
from trainables.ingredients import Ingredients, load_batch
from trainables.loop import RATIO_EVERY, forward, observe_inputs, run_step, run_steps, score_batch, to_input, train_step
from trainables.optim import Hyperparameters
from trainables.signals import read_signals
from trainables.state import Snapshot
from trainables.step_signals import StepSignals

if TYPE_CHECKING:
    from tests.trainables.conftest import Bench, Build, Tiny


@pytest.fixture(scope="module")
def bench(build: Build, tiny: Tiny) -> Bench:
    """A run that is two steps old, in the layout that runs have by default."""
    bench = build(tiny(precision={"channels_last": True}))
    list(run_steps(bench.state, bench.stream, 0, 2, loader_threads=0))
    return bench


@pytest.fixture(scope="module")
def start(bench: Bench) -> Snapshot:
    """The state before step 2."""
    return bench.state.snapshot()


def one_step(bench: Bench, start: Snapshot, step: int = 2, **changes: Any) -> StepSignals:
    """One step from `start`, with some ingredients changed."""
    bench.state.restore(start)
    bench.state.model.train()
    ingredients = replace(bench.stream(step), **changes)
    return read_signals([run_step(bench.state, ingredients, load_batch(ingredients, bench.state.ranks))])[0]


def gradient(bench: Bench) -> Tensor:
    """The gradients of the last step in one vector."""
    return torch.cat([p.grad.flatten() for p in bench.state.parameters if p.grad is not None])


def test_loader_threads_change_nothing(bench: Bench, start: Snapshot) -> None:
    """The batch and the loss of each step are the same bits with 0, 1 and 2 threads that decode ahead."""
    runs: list[list[StepSignals]] = []
    pixels: list[list[Tensor]] = []
    for threads in (0, 1, 2):
        seen: dict[int, Tensor] = {}

        def stream(step: int, seen: dict[int, Tensor] = seen) -> Ingredients:
            plain = bench.stream(step)

            def decode(ids: np.ndarray, epochs: np.ndarray) -> Tensor:
                seen[step] = plain.decode(ids, epochs)
                return seen[step]

            return replace(plain, decode=decode)

        bench.state.restore(start)
        runs.append(list(run_steps(bench.state, stream, 2, 6, loader_threads=threads)))
        pixels.append([seen[step] for step in range(2, 6)])
    assert runs[0] == runs[1] == runs[2]
    for threaded in pixels[1:]:
        assert all(torch.equal(one, other) for one, other in zip(pixels[0], threaded, strict=True))


def test_a_step_reads_no_global_state(bench: Bench, start: Snapshot) -> None:
    """Global generators of torch and NumPy play no part: other seeds of theirs, the same bits."""
    torch.manual_seed(1)
    first = one_step(bench, start)
    torch.manual_seed(2)
    np.random.seed(3)  # noqa: NPY002 - the global generator is the point
    assert one_step(bench, start) == first


def test_a_run_may_be_left_in_the_middle(bench: Bench, start: Snapshot) -> None:
    """Closing the iterator ends its threads; the steps that ran are those of the whole run."""
    bench.state.restore(start)
    whole = list(run_steps(bench.state, bench.stream, 2, 5, loader_threads=2))
    bench.state.restore(start)
    run = run_steps(bench.state, bench.stream, 2, 5, loader_threads=2)
    part = [next(run), next(run)]
    run.close()
    assert part == whole[:2]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_nothing(bench: Bench, start: Snapshot, bad: float) -> None:
    """Weights, running statistics and momentum keep their bits, and the signals say that nothing was applied."""

    def normalize(images: Tensor) -> Tensor:
        pixels = bench.recipe.declared_normalization(images).clone()
        pixels[3, 1, 2, 2] = bad
        return pixels

    signals = one_step(bench, start, normalize=normalize)
    assert not signals.applied
    assert not signals.finite
    live = bench.state.tensors()
    assert live.keys() == start.tensors.keys()
    assert [name for name, tensor in start.tensors.items() if not torch.equal(tensor, live[name])] == []


def test_the_step_after_a_bad_one_is_as_if_it_had_not_been(build: Build, tiny: Tiny) -> None:
    """With the built-in fault at step 1, step 2 is what it is after step 0 alone."""
    fault = {"use": "trainables.faults:non_finite_input", "start_step": 1, "stop_step": 2}
    faulty = build(tiny(faults=[fault]))
    signals = list(run_steps(faulty.state, faulty.stream, 0, 3, loader_threads=0))
    assert [s.finite for s in signals] == [True, False, True]
    clean = build(tiny())
    list(run_steps(clean.state, clean.stream, 0, 1, loader_threads=0))
    assert list(run_steps(clean.state, clean.stream, 2, 3, loader_threads=0)) == [signals[2]]


def test_a_step_is_sgd_on_the_mean_cross_entropy(bench: Bench, start: Snapshot) -> None:
    """The signals and the new weights are those of a plain loop written out here."""
    signals = one_step(bench, start)
    after = bench.weights
    bench.state.restore(start)
    model, optimizer = bench.state.model.train(), bench.state.optimizer
    ingredients = bench.stream(2)
    batch = load_batch(ingredients, bench.state.ranks)
    images = ingredients.normalize(batch.images).contiguous(memory_format=torch.channels_last)
    logits = model(images)
    loss = torch.nn.functional.cross_entropy(logits, batch.labels)
    optimizer.zero_grad()
    loss.backward()
    norm = gradient(bench).double().norm()
    optimizer.step()
    assert torch.equal(bench.weights, after)
    assert signals.loss == pytest.approx(loss.item(), rel=1e-6)
    assert signals.grad_norm == pytest.approx(float(norm), rel=1e-5)
    assert signals.top1 == float((logits.argmax(1) == batch.labels).sum()) / len(batch.labels)


def test_update_ratio_is_that_of_the_weights(bench: Bench, start: Snapshot) -> None:
    """Measured on every RATIO_EVERY-th step: the norm of what the step changed over that of the weights."""
    bench.state.restore(start)
    # In float32 the norm of one vector of all weights is off by more than it is compared to.
    before = bench.weights.double()
    signals = one_step(bench, start, step=RATIO_EVERY)
    after = bench.weights.double()
    assert signals.update_ratio == pytest.approx(float((after - before).norm() / after.norm()), rel=1e-4)
    assert math.isnan(one_step(bench, start, step=RATIO_EVERY + 1).update_ratio)


def test_the_rate_of_the_step_is_used(bench: Bench, start: Snapshot) -> None:
    """The update is proportional to the ingredient's rate, not to what the optimizer was built with."""
    one_step(bench, start, optim=Hyperparameters.of(bench.config.optim, 0.0))
    before = bench.weights
    one_step(bench, start, optim=Hyperparameters.of(bench.config.optim, 0.25))
    far = bench.weights - before
    one_step(bench, start, optim=Hyperparameters.of(bench.config.optim, 0.5))
    assert torch.allclose(bench.weights - before, 2 * far, rtol=1e-3, atol=1e-6)


def test_clipping_scales_the_gradient_and_reports_its_norm_before(bench: Bench, start: Snapshot) -> None:
    """Above the limit the gradient keeps its direction and gets the limit's norm; below it, its bits."""
    free = one_step(bench, start)
    whole = gradient(bench)
    clipped = one_step(bench, start, clip_grad_norm=free.grad_norm / 10)
    short = gradient(bench)
    assert clipped.grad_norm == free.grad_norm
    assert float(short.double().norm()) == pytest.approx(free.grad_norm / 10, rel=1e-4)
    assert torch.allclose(short * 10, whole, rtol=1e-3, atol=1e-6)
    assert one_step(bench, start, clip_grad_norm=free.grad_norm * 10).loss == free.loss
    assert torch.equal(gradient(bench), whole)


def test_the_whole_gradient_is_clipped_after_its_units(bench: Bench, start: Snapshot) -> None:
    """A norm that adaptive clipping has brought below the limit is left alone; the norm before both is reported."""
    free = one_step(bench, start)
    one_step(bench, start, agc=1e-3)
    short = gradient(bench)
    limit = 2 * float(short.norm())
    assert limit < free.grad_norm
    both = one_step(bench, start, agc=1e-3, clip_grad_norm=limit)
    assert both.grad_norm == free.grad_norm
    assert torch.equal(gradient(bench), short)


@pytest.mark.parametrize("norm", ["bn", "ghost_bn"])
def test_companions_share_the_statistics_and_nothing_else(build: Build, tiny: Tiny, norm: str) -> None:
    """Logits with companions are those of a forward of the joined batch; the loss is over the batch alone."""
    bench = build(tiny(model={"norm": norm, "ghost_batch_size": 4}))
    joined = build(tiny(model={"norm": "bn"}))
    ingredients = replace(bench.stream(0), companions=np.arange(24))
    batch = load_batch(ingredients, bench.state.ranks)
    images = to_input(batch.images, ingredients.normalize, bench.state)
    assert batch.companions is not None
    both = torch.cat([images, to_input(batch.companions, ingredients.normalize, bench.state)])
    with torch.no_grad():
        expected = joined.state.model.train()(both.contiguous())[:8]
        actual = forward(bench.state, bench.state.model, ingredients, images, batch.companions)
        alone = forward(bench.state, bench.state.model, ingredients, images, None)
    assert torch.equal(actual, expected)
    assert not torch.allclose(actual, alone, atol=1e-3)
    fresh = build(tiny(model={"norm": norm, "ghost_batch_size": 4}))
    loss = read_signals([train_step(fresh.state, ingredients, batch)])[0].loss
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(expected, batch.labels)), rel=1e-5)


def test_bf16_autocast_trains_in_float32_weights(bench: Bench, start: Snapshot) -> None:
    """Only the arithmetic changes: the loss is near float32's and not equal to it, the weights stay float32."""
    full, half = one_step(bench, start), one_step(bench, start, amp="bf16")
    assert half.finite
    assert half.loss == pytest.approx(full.loss, rel=0.05)
    assert half.loss != full.loss
    assert {p.dtype for p in bench.state.parameters} == {torch.float32}


@pytest.mark.parametrize("batch_size", [7, 64, 256])
def test_evaluation_is_exact(bench: Bench, start: Snapshot, batch_size: int) -> None:
    """Top-1 equals a count sample by sample, whatever the batch; the ragged last batch weighs what it should."""
    bench.state.restore(start)
    split = bench.recipe.val.split
    source = ImageSource(Split(split.store, split.labels[:75]), 16, "none", 0)
    normalize = bench.recipe.declared_normalization
    ingredients = replace(bench.recipe.evaluation(2), sample_ids=np.arange(75))
    scores = evaluate(bench.state, ingredients, batch_size=batch_size, loader_threads=batch_size % 2)
    bench.state.model.eval()
    with torch.no_grad():
        logits = torch.cat(
            [bench.state.model(to_input(source.fetch(np.array([i]), None), normalize, bench.state)) for i in range(75)]
        )
    bench.state.model.train()
    labels = torch.from_numpy(source.split.labels)
    right = [int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True)]
    among = [int(label) in row.topk(5).indices.tolist() for row, label in zip(logits, labels, strict=True)]
    assert (scores.top1, scores.top5) == (sum(right) / 75, sum(among) / 75)
    assert scores.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits.double(), labels)), rel=1e-4)


def test_evaluation_leaves_the_run_as_it_was(bench: Bench, start: Snapshot) -> None:
    """Training mode is on again, no buffer has moved, no gradient is left: the next step has the same bits."""
    expected = one_step(bench, start)
    bench.state.restore(start)
    evaluate(bench.state, bench.recipe.evaluation(2))
    assert all(module.training for module in bench.state.model.modules())
    assert all(torch.equal(tensor, start.tensors[name]) for name, tensor in bench.state.tensors().items())
    assert list(run_steps(bench.state, bench.stream, 2, 3, loader_threads=0)) == [expected]


def test_scoring_a_batch_changes_nothing(bench: Bench, start: Snapshot) -> None:
    """It is the loss that a training step would see, in training mode, and leaves buffers and gradients alone."""
    expected = one_step(bench, start).loss
    bench.state.restore(start)
    ingredients = bench.stream(2)
    score = score_batch(bench.state, ingredients, load_batch(ingredients, bench.state.ranks))
    assert score == pytest.approx(expected, rel=1e-6)
    assert all(torch.equal(tensor, start.tensors[name]) for name, tensor in bench.state.tensors().items())
    assert all(parameter.grad is None for parameter in bench.state.parameters)


def test_observed_inputs_are_those_of_training(bench: Bench, start: Snapshot) -> None:
    """The moments of each step without training it have the bits of the run's, and nothing in the state moves."""
    bench.state.restore(start)
    trained = list(run_steps(bench.state, bench.stream, 2, 5, loader_threads=0))
    bench.state.restore(start)
    observed = list(observe_inputs(bench.state, bench.stream, 2, 5))
    assert [(s.step, s.input_mean, s.input_std) for s in observed] == [
        (s.step, s.input_mean, s.input_std) for s in trained
    ]
    assert all(math.isnan(s.loss) for s in observed)
    assert all(torch.equal(tensor, start.tensors[name]) for name, tensor in bench.state.tensors().items())
