"""Faults below the batch do to a step what they say: to the update, the state, the gradient, the number format."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.config import FaultConfig
from trainables.errors import ConfigError
from trainables.evaluation import evaluate
from trainables.faults import build_faults
from trainables.ingredients import Stream, with_evaluation_swaps, with_swaps
from trainables.loop import run_steps
from trainables.norms import batch_norms
from trainables.state import Snapshot
from trainables.step_signals import StepSignals

if TYPE_CHECKING:
    from tests.trainables.conftest import Bench, Build, Tiny

START = 3
"""Step at which each fault begins."""


@pytest.fixture(scope="module")
def bench(build: Build, tiny: Tiny) -> Bench:
    """A run with a warm-up, three steps old."""
    bench = build(tiny(schedule={"kind": "cosine_warmup", "warmup_steps": 6}))
    list(run_steps(bench.state, bench.stream, 0, START, loader_threads=0))
    return bench


@pytest.fixture(scope="module")
def start(bench: Bench) -> Snapshot:
    """The state before the fault, with the gradients of the step before."""
    return bench.state.snapshot(gradients=True)


def faulty(bench: Bench, name: str, **params: Any) -> Stream:
    """The run under one built-in fault."""
    config = FaultConfig(use=f"trainables.faults:{name}", start_step=START, params=params)
    return with_swaps(bench.recipe.ingredients, build_faults([config], bench.recipe))


def run(bench: Bench, start: Snapshot, stream: Stream, steps: int = 1) -> list[StepSignals]:
    """Steps from the start of the fault."""
    bench.state.restore(start)
    return list(run_steps(bench.state, stream, START, START + steps, loader_threads=0))


def gradients(bench: Bench) -> Tensor:
    """All gradients in one vector, float64."""
    return torch.cat([p.grad.double().flatten() for p in bench.state.parameters if p.grad is not None])


def relative(one: Tensor, other: Tensor) -> float:
    """Norm of the difference over that of `other`."""
    return float((one - other).norm() / other.norm())


def test_rates(bench: Bench) -> None:
    """Without a warm-up the rate is the peak at once; another step's rate is just that; a short cosine climbs again."""
    rate_at = bench.recipe.rate_at
    peak = max(rate_at(step) for step in range(12))
    assert [faulty(bench, "no_warmup")(s).learning_rate for s in (2, 3, 5)] == [rate_at(2), peak, peak]
    assert faulty(bench, "learning_rate_of_another_step", offset=-50)(4).learning_rate == rate_at(0)
    rates = [faulty(bench, "wrong_t_max", t_max=9)(step).learning_rate for step in range(12)]
    assert rates[9] < 1e-9 < rates[11]


def test_weight_decay_pulls_the_decayed_weights_alone(bench: Bench, start: Snapshot) -> None:
    """With the rate and the decay known, the difference between two runs is theirs, and no norm's scale takes part."""
    run(bench, start, bench.recipe.ingredients)
    plain = {name: p.detach().clone() for name, p in bench.state.model.named_parameters()}
    run(bench, start, faulty(bench, "weight_decay", value=2.0))
    rate, decay = bench.recipe.rate_at(START), 2.0 - bench.config.optim.weight_decay
    for name, parameter in bench.state.model.named_parameters():
        before = start.tensors[f"parameter/{name}"]
        pull = rate * decay * before if parameter.ndim > 1 else torch.zeros_like(before)
        torch.testing.assert_close(plain[name] - parameter, pull, rtol=1e-3, atol=1e-6)


def test_moments(build: Build, tiny: Tiny) -> None:
    """AdamW steps with the decay and the eps that the fault brings."""
    bench = build(tiny(optim={"kind": "adamw", "lr": 0.01}))
    list(run_steps(bench.state, faulty(bench, "moment_decay", beta2=0.5, eps=1e-3), 0, START + 1, loader_threads=0))
    assert all(group["betas"] == (0.9, 0.5) and group["eps"] == 1e-3 for group in bench.state.optimizer.param_groups)


def test_a_lost_state_is_lost_once(bench: Bench, start: Snapshot) -> None:
    """The step's momentum is its own gradient; later steps build on it again."""
    stream = faulty(bench, "optimizer_state_lost")
    run(bench, start, stream)
    momentum = torch.cat([bench.state.optimizer.state[p]["momentum_buffer"].flatten() for p in bench.state.parameters])
    decay = torch.cat(
        [
            group["weight_decay"] * start.tensors[f"parameter/{name}"].flatten()
            for name, parameter in bench.state.model.named_parameters()
            for group in bench.state.optimizer.param_groups
            if any(parameter is member for member in group["params"])
        ]
    )
    assert relative(momentum.double(), gradients(bench) + decay) < 1e-5
    assert stream(START).edits
    assert not stream(START + 1).edits


def test_norm_settings_hold_for_the_step(bench: Bench, start: Snapshot) -> None:
    """At a momentum of 1 the running mean is the batch's own; frozen, it stays; the layers are as before afterwards."""
    run(bench, start, bench.recipe.ingredients)
    moved = bench.state.tensors()["buffer/bn1.running_mean"] - start.tensors["buffer/bn1.running_mean"]
    run(bench, start, faulty(bench, "batch_norm_momentum", momentum=1.0))
    far = bench.state.tensors()["buffer/bn1.running_mean"] - start.tensors["buffer/bn1.running_mean"]
    torch.testing.assert_close(far, 10 * moved, rtol=1e-3, atol=1e-6)
    run(bench, start, faulty(bench, "frozen_batch_norm"), steps=2)
    assert torch.equal(bench.state.tensors()["buffer/bn1.running_mean"], start.tensors["buffer/bn1.running_mean"])
    assert all((n.momentum, n.eps, n.training) == (0.1, 1e-5, True) for n in batch_norms(bench.state.model))


def test_eps_reaches_evaluation(bench: Bench, start: Snapshot) -> None:
    """Evaluation divides by the same root as training."""
    bench.state.restore(start)
    config = FaultConfig(use="trainables.faults:batch_norm_eps", params={"eps": 100.0})
    swapped = with_evaluation_swaps(bench.recipe.evaluation, build_faults([config], bench.recipe))
    assert evaluate(bench.state, swapped(START)).loss != evaluate(bench.state, bench.recipe.evaluation(START)).loss
    assert all(n.eps == 1e-5 for n in batch_norms(bench.state.model))


def test_statistics(bench: Bench, start: Snapshot) -> None:
    """Corrupt running variances are seen by no training step; rounded ones have the bits of bfloat16."""
    plain = run(bench, start, bench.recipe.ingredients, steps=2)
    assert run(bench, start, faulty(bench, "corrupt_running_statistics"), steps=2) == plain
    expected = 0.9**2 * 100 * start.tensors["buffer/bn1.running_var"]
    assert bool((bench.state.tensors()["buffer/bn1.running_var"] >= expected).all())
    assert run(bench, start, faulty(bench, "low_precision_statistics")) == plain[:1]


def test_large_scales(bench: Bench, start: Snapshot) -> None:
    """Logits, and the loss with them, are far larger at once."""
    plain = run(bench, start, bench.recipe.ingredients)[0].loss
    assert run(bench, start, faulty(bench, "large_scale", factor=8.0))[0].loss > 3 * plain


@pytest.mark.parametrize(("scale", "applied"), [(2.0**40, False), (2.0**4, True)])
def test_a_fixed_loss_scale(build: Build, tiny: Tiny, scale: float, *, applied: bool) -> None:
    """Too large a scale overflows at each step, and is no business of the adaptive one."""
    bench = build(tiny(model={"norm": "gn"}, precision={"amp": "fp16"}))
    before = bench.state.tensors()["loss_scale/scale"].clone()
    stream = faulty(bench, "half_precision", loss_scale=scale)
    signals = list(run_steps(bench.state, lambda step: stream(step + START), 0, 2, loader_threads=0))
    assert [(s.applied, s.overflowed) for s in signals] == [(applied, False)] * 2
    assert torch.equal(bench.state.tensors()["loss_scale/scale"], before)


def test_a_small_loss_scale_loses_gradients(build: Build, tiny: Tiny) -> None:
    """Far more gradients are zero than at a sound scale."""
    shares = []
    for scale in (2.0**-20, 2.0**8):
        bench = build(tiny(model={"norm": "gn"}, precision={"amp": "fp16"}))
        stream = faulty(bench, "half_precision", loss_scale=scale)
        list(run_steps(bench.state, lambda step, stream=stream: stream(step + START), 0, 1, loader_threads=0))  # type: ignore[misc]
        shares.append(float((gradients(bench) == 0).double().mean()))
    assert shares[0] > shares[1] + 0.2


def test_an_unstable_loss_is_right_until_a_probability_underflows(bench: Bench) -> None:
    """It equals cross-entropy for small logits; a hopeless sample costs infinity, where cross-entropy has a number."""
    loss = faulty(bench, "unstable_loss")(START).loss
    labels = torch.tensor([0, 1])
    calm, hopeless = torch.tensor([[1.0, 2.0], [0.5, 0.0]]), torch.tensor([[0.0, 200.0], [200.0, 0.0]])
    torch.testing.assert_close(loss(calm, labels, None), bench.recipe.loss(calm, labels, None))
    assert bool(loss(hopeless, labels, None).isinf().all())
    assert bool(bench.recipe.loss(hopeless, labels, None).isfinite().all())


def test_a_flipped_bit_is_live_only(bench: Bench, start: Snapshot) -> None:
    """One value of one parameter changes before the step; a replay's swaps leave it out; a wrong name is one line."""
    config = FaultConfig(use="trainables.faults:bit_flip", start_step=START, params={"parameter": "fc.weight"})
    swap = build_faults([config], bench.recipe)[0]
    assert swap.live
    bench.state.restore(start)
    for edit in swap(bench.recipe.ingredients(START)).edits:
        edit(bench.state)
    changed = {n: int((t != start.tensors[n]).sum()) for n, t in bench.state.tensors().items()}
    assert {name: count for name, count in changed.items() if count} == {"parameter/fc.weight": 1}
    assert abs(math.log2(abs(float(bench.state.tensors()["parameter/fc.weight"].flatten()[0])))) > 60
    with pytest.raises(ConfigError, match=r"'fc\.wieght' is not allowed"):
        faulty(bench, "bit_flip", parameter="fc.wieght")


def test_gradients_that_are_not_cleared_add_up(bench: Bench, start: Snapshot) -> None:
    """The second step's gradient is the sum of the first's and its own; a replay from the snapshot has its bits."""
    stream = faulty(bench, "missing_zero_grad")
    signals = run(bench, start, stream, steps=3)
    assert run(bench, start, stream, steps=3) == signals
    bench.state.restore(start)
    stale = gradients(bench)
    run(bench, start, bench.recipe.ingredients)
    own = gradients(bench)
    run(bench, start, stream)
    assert relative(gradients(bench), own + stale) < 1e-5


def test_a_double_step_moves_twice(bench: Bench, start: Snapshot) -> None:
    """Without momentum and decay the update is twice the plain one."""

    def bare(stream: Stream) -> Stream:
        return lambda k: replace(stream(k), optim=replace(stream(k).optim, momentum=0.0, weight_decay=0.0))

    updates = []
    for stream in (bench.recipe.ingredients, faulty(bench, "double_step")):
        bench.state.restore(start)
        before = bench.weights.double()
        run(bench, start, bare(stream))
        updates.append(bench.weights.double() - before)
    assert relative(updates[1], 2 * updates[0]) < 1e-4


def test_unscaled_accumulation_multiplies_the_gradient(bench: Bench, start: Snapshot) -> None:
    """The norm that is reported is that of so many times the gradient."""
    plain = run(bench, start, bench.recipe.ingredients)[0].grad_norm
    assert run(bench, start, faulty(bench, "accumulation_unscaled", parts=4))[0].grad_norm == pytest.approx(4 * plain)


def test_a_wrong_metric_leaves_the_loss(bench: Bench, start: Snapshot) -> None:
    """Only the accuracy changes: a network that knows every label is right in all of them, and told wrong in most."""
    run(bench, start, bench.recipe.ingredients, steps=9)
    config = FaultConfig(use="trainables.faults:wrong_metric")
    swapped = with_evaluation_swaps(bench.recipe.evaluation, build_faults([config], bench.recipe))
    plain, wrong = (evaluate(bench.state, evaluations(9)) for evaluations in (bench.recipe.evaluation, swapped))
    assert wrong.loss == plain.loss
    labels = torch.from_numpy(bench.recipe.index.val.labels)
    knowing = torch.nn.functional.one_hot(labels).float()
    metrics = (bench.recipe.evaluation(9).metric, swapped(9).metric)
    right, told = (float(metric(knowing, labels)[0]) for metric in metrics)
    assert right == len(labels)
    assert told < 0.2 * len(labels)


def test_noise_in_the_labels_has_its_share(bench: Bench) -> None:
    """A drawn label is right by chance in one of ten; a sample keeps its label."""
    ids = np.arange(len(bench.recipe.index.train))
    stream = faulty(bench, "noisy_labels", share=0.4)
    given = stream(START).label(ids, ids)
    assert float((given != bench.recipe.index.train.labels).mean()) == pytest.approx(0.36, abs=0.03)
    np.testing.assert_array_equal(stream(START + 5).label(ids, ids), given)


def test_outliers_are_the_same_images_wherever_they_come(bench: Bench) -> None:
    """Their share is far wider, the others have their bits, alone or in a batch."""
    images = bench.recipe.train.fetch(np.arange(300), None)
    normalize = faulty(bench, "outlier_samples", share=0.1)(START).normalize
    actual, plain = normalize(images), bench.recipe.declared_normalization(images)
    hit = (actual != plain).flatten(1).any(dim=1)
    assert float(hit.float().mean()) == pytest.approx(0.1, abs=0.05)
    torch.testing.assert_close(actual[hit], 1000 * plain[hit])
    assert torch.equal(normalize(images[5:6]), actual[5:6])


def test_a_poisoned_batch_is_a_few_samples(bench: Bench) -> None:
    """The same few at each step."""
    stream = faulty(bench, "poisoned_batch", size=2)
    assert len(set(stream(START).sample_ids)) == 2
    np.testing.assert_array_equal(stream(START).sample_ids, stream(START + 4).sample_ids)
