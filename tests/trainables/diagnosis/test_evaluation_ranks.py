"""Weights of one rank that only evaluations show: the gap is diagnosed with the rank and the layer, by both ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist

from trainables.config import TrialConfig
from trainables.ingredients import Swap
from trainables.optim import build_optimizer
from trainables.ranks import Ranks
from trainables.state import TrainState
from trainables.trial import Trial

if TYPE_CHECKING:
    from tests.trainables.conftest import RunRanks, Tiny

STEPS = 20
"""After the edit: the running statistics have followed it."""


def on_rank(guilty: int, *places: int) -> Swap:
    """Parameters of one rank, by place, times 1,000 before step START: batch norm hides it from the loss."""
    from tests.trainables.diagnosis.evaluation_bases import START

    def edit(state: TrainState) -> None:
        if state.ranks.rank == guilty:
            for place in places:
                state.parameters[place].data.mul_(1000.0)

    return Swap("scaled", lambda i: replace(i, edits=(*i.edits, edit)), START, START + 1)


def worker(rank: int, folder: str, config: TrialConfig) -> None:
    """Each rank leaves its diagnoses, and whether the live state was put back."""
    from tests.trainables.diagnosis.conftest import small_net
    from tests.trainables.diagnosis.evaluation_bases import Base

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    trial = Trial(config, lambda row: None)
    model = small_net(config)
    trial.state = TrainState(model, build_optimizer(model, config.optim), torch.device("cpu"), Ranks.current())
    base = Base.trained(trial)
    swaps = {"stem on 0": on_rank(0, 0), "stem on 1": on_rank(1, 0), "two on 1": on_rank(1, 0, 3), "none": None}
    found: dict[str, Any] = {}
    for name, swap in swaps.items():
        diagnosis = base.diagnose([swap] if swap else [], STEPS)
        found[name] = diagnosis.to_dict() | {"seconds": 0}
        found[f"{name}, stem"] = float(base.state.parameters[0].abs().mean())
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tiny: Tiny, run_ranks: RunRanks, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks finds."""
    from tests.trainables.diagnosis.evaluation_bases import BASE

    folder: Path = tmp_path_factory.mktemp("evaluation_ranks")
    run_ranks(worker, 2, str(folder), tiny(**BASE))
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_layer_that_changed_on_one_rank_is_named_with_it(both: list[dict[str, Any]], rank: int) -> None:
    """Whichever rank it is, though all are evaluated with the running statistics of rank 0."""
    found = both[0][f"stem on {rank}"]
    assert (found["cause"], found["group"]) == ("silent_corruption", "numerics"), found["summary"]
    assert (found["culprits"]["rank"], found["culprits"]["layer"]) == (rank, "0.weight")
    assert found == both[1][f"stem on {rank}"]


def test_several_layers_of_one_rank_are_a_desync(both: list[dict[str, Any]]) -> None:
    """The rank is named; there is no one layer."""
    found = both[0]["two on 1"]
    assert (found["cause"], found["group"]) == ("rank_desync", "code"), found["summary"]
    assert (found["culprits"]["rank"], found["culprits"]["layer"]) == (1, "")
    assert found == both[1]["two on 1"]


def test_ranks_with_the_same_weights_are_no_cause(both: list[dict[str, Any]]) -> None:
    """A sound run is left to the other ingredients, which are sound too."""
    assert both[0]["none"]["cause"] == "unexplained"
    assert both[0]["none"]["culprits"]["rank"] is None


def test_the_guilty_rank_has_its_own_weights_afterwards(both: list[dict[str, Any]]) -> None:
    """A diagnosis cures nothing by itself."""
    assert both[1]["stem on 1, stem"] > 100 * both[0]["stem on 1, stem"]
    assert both[1]["none, stem"] == both[0]["none, stem"]
