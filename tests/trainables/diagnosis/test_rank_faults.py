"""What is wrong on one rank of two is found, with the rank, and both ranks come to the same verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist

from trainables.config import TrialConfig
from trainables.optim import build_optimizer
from trainables.ranks import Ranks
from trainables.state import TrainState
from trainables.trial import Trial

if TYPE_CHECKING:
    from tests.trainables.conftest import RunRanks, Tiny

START = 50
BASE: dict[str, Any] = {
    "global_batch_size": 32,
    "max_steps": 80,
    "optim": {"lr": 0.05},
    "diagnosis": {"replicates": 1},
}


def diagnosed(config: TrialConfig, *, flip_on: int | None = None) -> dict[str, Any]:
    """The trial on the small net; one rank's head is scaled by -50 before step START where `flip_on` names it."""
    from tests.trainables.diagnosis.conftest import small_net

    def report(row: dict[str, Any]) -> None:
        if row["step"] == START and flip_on == Ranks.current().rank:
            trial.state.parameters[-2].data.mul_(-50.0)

    trial = Trial(config, report)
    model = small_net(config)
    trial.state = TrainState(model, build_optimizer(model, config.optim), torch.device("cpu"), Ranks.current())
    diagnosis = trial.run().diagnosis
    assert diagnosis is not None
    return diagnosis.to_dict() | {"seconds": 0}


def worker(rank: int, folder: str, desync: TrialConfig, plain: TrialConfig) -> None:
    """Each rank leaves its two diagnoses."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.save({"desync": diagnosed(desync), "flip": diagnosed(plain, flip_on=1)}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tiny: Tiny, run_ranks: RunRanks, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The diagnoses of two ranks."""
    folder: Path = tmp_path_factory.mktemp("rank_faults")
    fault = {"use": "trainables.faults:rank_desync", "start_step": START, "params": {"rank": 1, "relative": 3.0}}
    run_ranks(worker, 2, str(folder), tiny(**BASE, faults=[fault]), tiny(**BASE))
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def test_weights_that_move_on_one_rank_are_a_desync(both: list[dict[str, Any]]) -> None:
    """The state left alone heals it; the rank and the step are named."""
    found = both[0]["desync"]
    assert (found["cause"], found["group"]) == ("rank_desync", "code"), found["summary"]
    assert (found["culprits"]["rank"], found["culprits"]["step"]) == (1, START)
    assert both[0]["desync"] == both[1]["desync"]


def test_a_corruption_is_found_on_its_rank(both: list[dict[str, Any]]) -> None:
    """No replay brings it back; the weights that it left differ most on that rank."""
    found = both[0]["flip"]
    assert (found["cause"], found["group"]) == ("silent_corruption", "numerics"), found["summary"]
    assert (found["culprits"]["rank"], found["culprits"]["step"]) == (1, START)
    assert both[0]["flip"] == both[1]["flip"]
