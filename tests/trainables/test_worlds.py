"""One, two and four ranks train the same run: same samples, same step, same twenty steps but for rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from trainables.build import build_state
from trainables.config import TrialConfig
from trainables.data.index import open_index
from trainables.ingredients import Ingredients, load_batch
from trainables.loop import run_steps, train_step
from trainables.model import build_model
from trainables.optim import build_optimizer
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.signals import read_signals
from trainables.state import Snapshot, TrainState

if TYPE_CHECKING:
    from tests.trainables.conftest import Build, RunRanks, Tiny

WORLDS = (2, 4)
BATCH = 10
"""Of which four ranks have 3, 3, 2 and 2."""
BEFORE = 4
"""Steps before the snapshot that all start from."""
STEPS = 20


def in_double(ingredients: Ingredients) -> Ingredients:
    """The same step on float64 images."""
    return replace(ingredients, normalize=lambda images: ingredients.normalize(images).double())


def double_run(config: TrialConfig, recipe: Recipe) -> dict[str, Any]:
    """Losses and last weights of STEPS steps in float64 from the seed's own weights."""
    size = config.data.image_size
    model = build_model(config.model, num_classes=len(recipe.index.classes), image_size=size, seed=config.seed)
    model = model.double()
    state = TrainState(
        model, build_optimizer(model, config.optim), torch.device("cpu"), Ranks.current(), torch.contiguous_format
    )
    steps = run_steps(state, lambda step: in_double(recipe.ingredients(step)), 0, STEPS, loader_threads=0)
    return {"losses": [signals.loss for signals in steps], "weights": flat([p.detach() for p in state.parameters])}


def one_step(snapshot: Snapshot, recipe: Recipe, state: TrainState) -> dict[str, Any]:
    """Sample ids of this rank, loss and gradient of the step from `snapshot`."""
    state.restore(snapshot)
    state.model.train()
    ingredients = recipe.ingredients(snapshot.step)
    signals = read_signals([train_step(state, ingredients, load_batch(ingredients, state.ranks))])[0]
    ids = [recipe.ingredients(k).sample_ids[state.ranks.share(BATCH)].tolist() for k in range(STEPS)]
    return {
        "ids": ids,
        "loss": signals.loss,
        "gradient": flat([p.grad for p in state.parameters if p.grad is not None]),
    }


def flat(tensors: list[Tensor]) -> Tensor:
    """All values in one vector, float64."""
    return torch.cat([tensor.flatten().double() for tensor in tensors])


def worker(rank: int, world: int, folder: str, config: TrialConfig) -> None:
    """What each rank does; it leaves its findings in `folder`."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{world}", rank=rank, world_size=world)
    torch.set_num_threads(1)
    recipe = Recipe.build(config, open_index("digits"))
    snapshot: Snapshot = torch.load(f"{folder}/snapshot.pt", weights_only=False)
    found = one_step(snapshot, recipe, build_state(config, len(recipe.index.classes), Ranks.current()))
    torch.save(found | double_run(config, recipe), f"{folder}/{world}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def config(tiny: Tiny) -> TrialConfig:
    """Group norm, whose statistics don't depend on the batch, and a batch that four ranks don't share evenly."""
    return tiny(global_batch_size=BATCH, model={"norm": "gn"}, data={"image_size": 8, "augment": "crop_flip"})


@pytest.fixture(scope="module")
def alone(build: Build, config: TrialConfig) -> dict[str, Any]:
    """What one process finds; with the snapshot that it started from."""
    bench = build(config)
    list(run_steps(bench.state, bench.stream, 0, BEFORE, loader_threads=0))
    snapshot = bench.state.snapshot()
    return {"snapshot": snapshot} | one_step(snapshot, bench.recipe, bench.state) | double_run(config, bench.recipe)


@pytest.fixture(scope="module")
def ranks(
    alone: dict[str, Any], config: TrialConfig, run_ranks: RunRanks, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, list[dict[str, Any]]]:
    """World size -> what each of its ranks finds."""
    folder = tmp_path_factory.mktemp("worlds")
    torch.save(alone["snapshot"], folder / "snapshot.pt")
    for world in WORLDS:
        run_ranks(worker, world, world, str(folder), config)
    return {w: [torch.load(folder / f"{w}-{rank}.pt", weights_only=False) for rank in range(w)] for w in WORLDS}


@pytest.mark.parametrize("world", WORLDS)
def test_the_global_batch_is_the_same(
    alone: dict[str, Any], ranks: dict[int, list[dict[str, Any]]], world: int
) -> None:
    """Put one after the other, the sample ids of the ranks are those of one process, at each of twenty steps."""
    parts = [found["ids"] for found in ranks[world]]
    assert [[i for share in shares for i in share] for shares in zip(*parts, strict=True)] == alone["ids"]


@pytest.mark.parametrize("world", WORLDS)
def test_one_step_agrees(alone: dict[str, Any], ranks: dict[int, list[dict[str, Any]]], world: int) -> None:
    """From a common snapshot loss and gradient are within 1e-5 of one process's."""
    for found in ranks[world]:
        assert found["loss"] == pytest.approx(alone["loss"], abs=1e-5)
        assert float((found["gradient"] - alone["gradient"]).norm() / alone["gradient"].norm()) < 1e-5


@pytest.mark.parametrize("world", WORLDS)
def test_twenty_steps_agree_in_double(
    alone: dict[str, Any], ranks: dict[int, list[dict[str, Any]]], world: int
) -> None:
    """Without float32's rounding every loss and the last weights are within 1e-8."""
    for found in ranks[world]:
        assert found["losses"] == pytest.approx(alone["losses"], abs=1e-8)
        assert float((found["weights"] - alone["weights"]).abs().max()) < 1e-8
