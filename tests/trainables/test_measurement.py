"""The fingerprints of real steps: what a fault leaves in them, that they change nothing, and those of two ranks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from trainables import loop
from trainables.build import build_state
from trainables.config import TrialConfig
from trainables.data.index import open_index
from trainables.ingredients import Stream, load_batch
from trainables.loop import RATIO_EVERY, run_step, run_steps
from trainables.norms import NormSettings
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.signals import MEASURED, read_signals
from trainables.state import Snapshot, TrainState
from trainables.step_signals import StepSignals

if TYPE_CHECKING:
    from tests.trainables.conftest import Bench, Build, RunRanks, Tiny


@pytest.fixture(scope="module")
def bench(build: Build, tiny: Tiny) -> Bench:
    """A run that is two steps old."""
    bench = build(tiny())
    list(run_steps(bench.state, bench.stream, 0, 2, loader_threads=0))
    return bench


@pytest.fixture(scope="module")
def start(bench: Bench) -> Snapshot:
    """The state before the measured step."""
    return bench.state.snapshot()


def measured(bench: Bench, start: Snapshot, **changes: Any) -> StepSignals:
    """The step RATIO_EVERY from `start`, with some ingredients changed."""
    bench.state.restore(start)
    bench.state.model.train()
    ingredients = replace(bench.stream(RATIO_EVERY), **changes)
    return read_signals([run_step(bench.state, ingredients, load_batch(ingredients, bench.state.ranks))])[0]


def test_a_healthy_step(bench: Bench, start: Snapshot) -> None:
    """The norms are those of a plain computation, and no ingredient looks suspicious."""
    momenta = [start.tensors[name].flatten() for name in start.tensors if name.startswith("optimizer/momentum_buffer")]
    signals = measured(bench, start)
    assert signals.weight_norm == pytest.approx(float(bench.weights.double().norm()), rel=1e-5)
    assert signals.moment_norm == pytest.approx(float(torch.cat(momenta).double().norm()), rel=1e-5)
    # At 16 px the last filters see nothing but padding in most of their places.
    zeros = [p.grad == 0 for p in bench.state.parameters if p.grad is not None]
    assert signals.grad_zero_share == pytest.approx(float(torch.cat([z.flatten() for z in zeros]).double().mean()))
    assert 0.0 < signals.grad_zero_share < 0.8
    assert 0.0 < signals.bn_drift < signals.bn_gap
    labels = bench.stream(RATIO_EVERY).label(bench.stream(RATIO_EVERY).sample_ids, np.zeros(8, np.int64))
    shares = np.unique(labels, return_counts=True)[1] / 8
    assert signals.label_entropy == pytest.approx(float(-(shares * np.log(shares)).sum() / math.log(8)), rel=1e-9)
    assert math.isnan(signals.weight_checksum_spread)
    assert math.isnan(signals.loss_scale)


def test_micro_batches_are_one_batch(bench: Bench, build: Build, tiny: Tiny, start: Snapshot) -> None:
    """Labels are counted over all of them, and batch norm's gap is one of statistics, not of how many there were."""
    whole = measured(bench, start)
    parts = build(tiny(optim={"micro_batch_size": 4}))
    cut = measured(parts, start)
    assert cut.label_entropy == whole.label_entropy
    assert cut.bn_gap == pytest.approx(whole.bn_gap, rel=0.5)


def test_a_batch_of_one_class_shows(bench: Bench, start: Snapshot) -> None:
    """Class-sorted data: entropy 0."""
    assert measured(bench, start, label=lambda ids, epochs: np.full(len(ids), 3)).label_entropy == 0.0


def test_frozen_batch_norm_shows(bench: Bench, start: Snapshot) -> None:
    """Running statistics that a step doesn't move; a momentum of the step's own is what the gap is computed with."""
    frozen = measured(bench, start, norm=NormSettings(frozen=True))
    assert frozen.bn_drift == 0.0
    assert math.isnan(frozen.bn_gap)
    usual, slow = measured(bench, start), measured(bench, start, norm=NormSettings(momentum=0.01))
    assert slow.bn_gap == pytest.approx(usual.bn_gap, rel=1e-3)
    assert slow.bn_drift < 0.2 * usual.bn_drift


def test_gradients_that_are_zero_show(bench: Bench, start: Snapshot) -> None:
    """A gradient that vanished is counted as the backward pass left it."""

    def vanish(state: Any) -> None:
        for parameter in state.parameters:
            parameter.grad.zero_()

    assert measured(bench, start, gradient_edits=(vanish,)).grad_zero_share == 1.0


def test_the_loss_scale_of_every_step_is_told(build: Build, tiny: Tiny) -> None:
    """The scale that the step was taken with: an overflow halves the next one's; a fixed one is told as it is."""
    bench = build(tiny(precision={"amp": "fp16"}))

    def overflow(state: TrainState) -> None:
        gradient = state.parameters[0].grad
        assert gradient is not None
        gradient.fill_(math.inf)

    def stream(step: int) -> Any:
        plain = bench.stream(step)
        fixed = replace(plain, amp="fp32", loss_scale=8.0 if step == 2 else None)
        return fixed if step else replace(fixed, gradient_edits=(overflow,))

    steps = list(run_steps(bench.state, stream, 0, 3, loader_threads=0))
    assert [signals.loss_scale for signals in steps] == [2.0**16, 2.0**15, 8.0]
    assert [signals.overflowed for signals in steps] == [True, False, False]
    # Not told of a gradient that overflowed as one that vanished.
    assert steps[0].grad_zero_share < 0.8


def test_a_bad_step_is_measured_too(bench: Bench, start: Snapshot) -> None:
    """The weights stay, so their norm and an update of 0 are known; a batch that is not finite has no statistics."""

    def normalize(images: torch.Tensor) -> torch.Tensor:
        return torch.full_like(bench.recipe.declared_normalization(images), math.nan)

    signals = measured(bench, start, normalize=normalize)
    assert not signals.applied
    assert signals.update_ratio == 0.0
    assert signals.weight_norm == pytest.approx(measured(bench, start).weight_norm, rel=0.1)
    assert math.isnan(signals.bn_gap)
    assert math.isnan(signals.logit_rms)


@pytest.mark.parametrize("norm", ["bn", "ghost_bn", "batch_renorm", "frozen_bn", "gn"])
def test_measuring_changes_no_bit(build: Build, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, norm: str) -> None:
    """Three steps that are all measured leave the state of three that are not, and the same other signals."""
    config = tiny(model={"norm": norm, "ghost_batch_size": 4}, optim={"micro_batch_size": 4})
    ends, told = [], []
    for every in (1, 10**9):
        monkeypatch.setattr(loop, "RATIO_EVERY", every)
        bench = build(config)
        steps = list(run_steps(bench.state, bench.stream, 1, 4, loader_threads=0))
        ends.append(bench.state.snapshot().tensors)
        told.append([{k: v for k, v in vars(signals).items() if k not in MEASURED} for signals in steps])
        statistics = norm not in ("gn", "frozen_bn")
        known = [math.isfinite(signals.bn_gap) for signals in steps]
        assert known == [statistics and every == 1] * 3
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    assert told[0] == told[1]


def over_two_ranks(recipe: Recipe, config: TrialConfig, apart: int) -> list[StepSignals]:
    """Two measured steps; rank `apart`'s weights get one other bit before the second."""
    state = build_state(config, len(recipe.index.classes), Ranks.current())

    def stream(step: int) -> Any:
        def flip(_state: Any) -> None:
            if state.ranks.rank == apart:
                state.parameters[0].data.view(torch.int32).view(-1)[5] ^= 1

        plain = recipe.ingredients(step)
        return plain.edited(flip) if step == RATIO_EVERY else plain

    return [signals for step in (0, RATIO_EVERY) for signals in measured_step(state, stream, step)]


def measured_step(state: TrainState, stream: Stream, step: int) -> list[StepSignals]:
    """That one step, with its batch."""
    return list(run_steps(state, stream, step, step + 1, loader_threads=0))


def worker(rank: int, folder: str, config: TrialConfig) -> None:
    """What each rank is told."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    recipe = Recipe.build(config, open_index("digits"))
    found = {apart: [vars(signals) for signals in over_two_ranks(recipe, config, apart)] for apart in (-1, 0, 1)}
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_are_told_the_same(tiny: Tiny, build: Build, run_ranks: RunRanks, tmp_path: Path) -> None:
    """Spread 0 in sync, 1 from one flipped bit on whichever rank; all signals alike on both, batch norm's too."""
    config = tiny()
    run_ranks(worker, 2, str(tmp_path), config)
    both = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    spreads = {apart: [told["weight_checksum_spread"] for told in both[0][apart]] for apart in (-1, 0, 1)}
    assert spreads == {-1: [0.0, 0.0], 0: [0.0, 1.0], 1: [0.0, 1.0]}
    one, other = ([StepSignals.from_dict(told) for told in found[-1]] for found in both)
    assert one == other
    assert all(math.isfinite(told[name]) for told in both[0][-1] for name in MEASURED)
    bench = build(config)
    (alone,) = measured_step(bench.state, bench.stream, 0)
    assert both[0][-1][0]["label_entropy"] == pytest.approx(alone.label_entropy, rel=1e-12)
    assert both[0][-1][0]["weight_norm"] == pytest.approx(alone.weight_norm, rel=1e-3)
