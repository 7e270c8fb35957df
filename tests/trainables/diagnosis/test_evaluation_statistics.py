"""Running statistics counted anew: of the right batches, for every kind of batch norm, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from trainables.config import TrialConfig
from trainables.data.index import ImageIndex, open_index
from trainables.diagnosis.evaluation_statistics import (
    SAMPLES,
    own_statistics,
    recalibrate,
    set_statistics,
    training_batches,
)
from trainables.ingredients import load_batch
from trainables.loop import to_input
from trainables.norms import NormSettings, batch_norms
from trainables.optim import build_optimizer
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.state import TrainState

if TYPE_CHECKING:
    from tests.trainables.conftest import RunRanks, Tiny

BATCHES = 3


def build_small(config: TrialConfig, index: ImageIndex) -> tuple[Recipe, TrainState]:
    """The small net before its first step."""
    from tests.trainables.diagnosis.conftest import small_net

    model = small_net(config)
    optimizer = build_optimizer(model, config.optim)
    ema = config.optim.ema_decay
    state = TrainState(model, optimizer, torch.device("cpu"), Ranks.current(), ema_decay=ema)
    return Recipe.build(config, index), state


def first_layer_moments(recipe: Recipe, state: TrainState) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over the batches of the first convolution's mean and unbiased variance, float64 [channels] each."""
    means, variances = [], []
    for ingredients in training_batches(recipe, recipe.ingredients, 0, 0)[:BATCHES]:
        images = to_input(load_batch(ingredients, Ranks()).images, ingredients.normalize, state)
        with torch.no_grad():
            values = state.model.get_submodule("0")(images).double()
        variance, mean = torch.var_mean(values, (0, 2, 3))
        means.append(mean)
        variances.append(variance)
    return torch.stack(means).mean(0), torch.stack(variances).mean(0)


@pytest.mark.parametrize("norm", ["bn", "sync_bn", "batch_renorm"])
@pytest.mark.parametrize("settings", [None, NormSettings(0.5, 1e-5), NormSettings(frozen=True)])
def test_they_are_the_average_of_the_batches(
    tiny: Tiny, digits_index: ImageIndex, norm: str, settings: NormSettings | None
) -> None:
    """Each batch counts alike, whatever momentum the run has, and whatever the statistics were before."""
    recipe, state = build_small(tiny(global_batch_size=32, model={"norm": norm}), digits_index)
    mean, variance = first_layer_moments(recipe, state)
    for buffer in state.buffers:
        buffer.fill_(50)
    batches = training_batches(recipe, recipe.ingredients, 0, 0)[:BATCHES]
    found = recalibrate(state, [replace(ingredients, norm=settings) for ingredients in batches])
    torch.testing.assert_close(found.buffers["1.running_mean"].double(), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.buffers["1.running_var"].double(), variance, rtol=1e-4, atol=1e-5)
    assert found.buffers["1.num_batches_tracked"] == 50


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_state_stays_until_they_are_set(tiny: Tiny, digits_index: ImageIndex, ema: float | None) -> None:
    """Buffers, averages and layers' settings stay; set, they are what an evaluation takes, and can be taken back."""
    recipe, state = build_small(tiny(global_batch_size=32, optim={"ema_decay": ema}), digits_index)
    before, own = state.snapshot().tensors, own_statistics(state)
    found = recalibrate(state, training_batches(recipe, recipe.ingredients, 0, 0)[:1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.snapshot().tensors.items())
    assert {layer.momentum for layer in batch_norms(state.model)} == {0.1}
    set_statistics(state, found)
    with state.averaged_weights():
        assert torch.equal(dict(state.model.named_buffers())["4.running_var"], found.buffers["4.running_var"])
    set_statistics(state, own)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.snapshot().tensors.items())


def test_batches_are_distinct_training_samples(recipe: Recipe) -> None:
    """At least 32 at a time, SAMPLES in all, none twice; another draw takes others."""
    one, other = (
        [ingredients.sample_ids for ingredients in training_batches(recipe, recipe.ingredients, 5, draw)]
        for draw in range(2)
    )
    assert {len(ids) for ids in one} == {32}
    assert len(np.unique(np.concatenate(one))) == SAMPLES
    assert not np.array_equal(np.concatenate(one), np.concatenate(other))


def diagnose_damage(config: TrialConfig) -> dict[str, Any]:
    """A healthy run, a wrong metric, and what is found on this rank."""
    from tests.trainables.diagnosis.conftest import small_net
    from tests.trainables.diagnosis.evaluation_bases import Base
    from trainables.trial import Trial

    trial = Trial(config, lambda row: None)
    model = small_net(config)
    trial.state = TrainState(model, build_optimizer(model, config.optim), torch.device("cpu"), Ranks.current())
    base = Base.trained(trial)
    found = base.diagnose(base.faults("corrupt_running_statistics", factor=1e4), 1)
    return {**found.to_dict(), "seconds": 0}


def worker(rank: int, folder: str, config: TrialConfig) -> None:
    """What each rank does; it leaves its findings in `folder`."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    recipe, state = build_small(config, open_index("digits"))
    counted = recalibrate(state, training_batches(recipe, recipe.ingredients, 0, 0)[:BATCHES])
    torch.save({"buffers": counted.buffers, "diagnosis": diagnose_damage(config)}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_count_and_conclude_alike(
    tiny: Tiny, digits_index: ImageIndex, run_ranks: RunRanks, tmp_path: Path
) -> None:
    """The same statistics and the same diagnosis to the last bit; the means are those of one process."""
    from tests.trainables.diagnosis.evaluation_bases import BASE

    config = tiny(**BASE)
    run_ranks(worker, 2, str(tmp_path), config)
    one, other = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2))
    assert all(torch.equal(tensor, other["buffers"][name]) for name, tensor in one["buffers"].items())
    mean, _ = first_layer_moments(*build_small(config, digits_index))
    torch.testing.assert_close(one["buffers"]["1.running_mean"].double(), mean, rtol=1e-4, atol=1e-5)
    assert one["diagnosis"] == other["diagnosis"]
    assert one["diagnosis"]["cause"] == "bn_stats_corrupt"
    assert one["diagnosis"]["remedy"]["verified"]
