"""The same samples by running statistics and by their batch's own, and nothing of the run is touched."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests.trainables.conftest import Bench, Tiny
from trainables.evaluation import evaluate
from trainables.loop import run_steps, to_input
from trainables.norm_layers import GhostBatchNorm2d
from trainables.norms import batch_norms
from trainables.rng import generator
from trainables.statistics_check import LEAST, SAMPLES, check_statistics, evaluation_signals

Build = Callable[..., Bench]
STEPS = 80


@pytest.fixture
def trained(build: Build, tiny: Tiny) -> Bench:
    """A run with batch norm that has learned something."""
    bench = build(tiny(max_steps=STEPS + 1, optim={"lr": 0.01}))
    for _ in run_steps(bench.state, bench.stream, 0, STEPS, loader_threads=0):
        pass
    return bench


def test_the_two_scores_are_those_of_the_same_samples(trained: Bench) -> None:
    """The running one is an evaluation's, the other a forward pass in training mode."""
    state, ingredients = trained.state, trained.recipe.evaluation(STEPS)
    check = check_statistics(state, ingredients)
    assert check is not None
    ids = ingredients.sample_ids
    drawn = ids[generator("statistics check", len(ids)).permutation(len(ids))[:SAMPLES]]
    running = evaluate(state, replace(ingredients, sample_ids=drawn)).top1
    images, kept = ingredients.decode(drawn)
    with torch.no_grad(), state.held_buffers():
        guessed = state.model(to_input(images, ingredients.normalize, state)).argmax(dim=1)
    right = float((guessed == torch.from_numpy(ingredients.label(kept))).float().mean())
    assert len({*drawn.tolist()}) == min(SAMPLES, len(ids))
    assert check.batch_top1 == pytest.approx(right)
    assert check.lost == pytest.approx(right - running)
    assert 0.0 < check.noise <= math.sqrt(len(drawn) + 1) / len(drawn)


def test_damaged_statistics_lose_what_the_batch_gives(trained: Bench) -> None:
    """Without them a model that has learned guesses; the score by the batch does not look at them."""
    sound = check_statistics(trained.state, trained.recipe.evaluation(STEPS))
    for layer in batch_norms(trained.state.model):
        layer.reset_running_stats()
    damaged = check_statistics(trained.state, trained.recipe.evaluation(STEPS))
    assert sound is not None
    assert damaged is not None
    assert damaged.batch_top1 == sound.batch_top1
    assert abs(sound.lost) < 0.15
    assert damaged.lost > 0.3


def test_the_run_goes_on_as_if_nobody_had_looked(trained: Bench) -> None:
    """Buffers, modes and the next step's loss are those of before."""
    start = trained.state.snapshot()
    expected = list(run_steps(trained.state, trained.stream, STEPS, STEPS + 1, loader_threads=0))
    trained.state.restore(start)
    check_statistics(trained.state, trained.recipe.evaluation(STEPS))
    assert all(module.training for module in trained.state.model.modules())
    assert all(torch.equal(tensor, start.tensors[name]) for name, tensor in trained.state.tensors().items())
    assert list(run_steps(trained.state, trained.stream, STEPS, STEPS + 1, loader_threads=0)) == expected


def test_a_few_samples_say_nothing(trained: Bench) -> None:
    """Nor may a single one reach batch norm in training mode, which refuses it."""
    ingredients = trained.recipe.evaluation(STEPS)
    few = replace(ingredients, sample_ids=ingredients.sample_ids[: LEAST - 1])
    assert check_statistics(trained.state, few) is None


def test_a_model_without_batch_norm_has_nothing_to_check(build: Build, tiny: Tiny) -> None:
    """The detector is told of the input alone, whose moments over the whole split are declared."""
    bench = build(tiny(model={"norm": "gn"}))
    ingredients = bench.recipe.evaluation(0)
    assert check_statistics(bench.state, ingredients) is None
    signals = evaluation_signals(bench.state, ingredients, evaluate(bench.state, ingredients), final=False)
    assert math.isnan(signals.lost)
    images, _ = ingredients.decode(ingredients.sample_ids)
    inputs = ingredients.normalize(images).double()
    expected = [*inputs.mean((0, 2, 3)).tolist(), *inputs.std((0, 2, 3), correction=0).tolist()]
    assert signals.input_moments == pytest.approx(expected, abs=1e-5)


def test_ghosts_are_judged_by_the_whole_batch(build: Build, tiny: Tiny) -> None:
    """In their small groups a good network guesses; that noise would hide what running statistics lose."""
    bench = build(tiny(max_steps=STEPS + 1, optim={"lr": 0.01}, model={"norm": "ghost_bn", "ghost_batch_size": 4}))
    for _ in run_steps(bench.state, bench.stream, 0, STEPS, loader_threads=0):
        pass
    check = check_statistics(bench.state, bench.recipe.evaluation(STEPS))
    assert check is not None
    ghosts = [module for module in bench.state.model.modules() if isinstance(module, GhostBatchNorm2d)]
    assert {module.ghost_batch_size for module in ghosts} == {4}
    for module in ghosts:
        module.ghost_batch_size = None
    whole = check_statistics(bench.state, bench.recipe.evaluation(STEPS))
    assert check == whole
