"""A trial over two processes (gloo) sees the same samples, takes the same step and comes to the same verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist

from trainables.build import build_state
from trainables.config import TrialConfig
from trainables.data.index import open_index
from trainables.errors import ConfigError
from trainables.evaluation import evaluate
from trainables.ingredients import load_batch
from trainables.loop import RATIO_EVERY, run_step, run_steps
from trainables.optim import build_optimizer
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.signals import read_signals
from trainables.speed import SPEEDS
from trainables.state import Snapshot, TrainState
from trainables.step_signals import StepSignals
from trainables.trial import Trial

if TYPE_CHECKING:
    from tests.trainables.conftest import Build, RunRanks, Tiny

STEPS = RATIO_EVERY
"""Steps before the snapshot that both start from; the step after them is one that measures the update ratio."""
JUMP: dict[str, Any] = {
    "global_batch_size": 32,
    "max_steps": 40,
    "model": {"norm": "gn"},
    "optim": {"lr": 0.05},
    "schedule": {"kind": "multi_step", "milestones": [22], "gamma": 500.0},
    "diagnosis": {"replicates": 1, "snapshot_every": 5, "horizon": 6},
}
"""A run of the small net whose rate jumps, for the whole way from symptom to verdict."""


def one_step(snapshot: Snapshot, recipe: Recipe, state: TrainState) -> dict[str, Any]:
    """One step and one evaluation from `snapshot`."""
    state.restore(snapshot)
    ingredients = recipe.ingredients(snapshot.step)
    evaluation = evaluate(state, recipe.evaluation(0))
    signals = read_signals([run_step(state, ingredients, load_batch(ingredients, state.ranks))])[0]
    return {
        "ids": ingredients.sample_ids[state.ranks.share(len(ingredients.sample_ids))].tolist(),
        "signals": vars(signals),
        "evaluation": evaluation,
        "gradient": torch.cat([p.grad.flatten() for p in state.parameters if p.grad is not None]),
        "weights": torch.cat([p.detach().flatten() for p in state.parameters]),
    }


def diagnose_jump(config: TrialConfig) -> dict[str, Any]:
    """The trial of `config` on the small net."""
    from tests.trainables.diagnosis.conftest import small_net

    rows: list[dict[str, Any]] = []
    trial = Trial(config, rows.append)
    model = small_net(config)
    trial.state = TrainState(model, build_optimizer(model, config.optim), torch.device("cpu"), Ranks.current())
    result = trial.run()
    assert result.diagnosis is not None
    return {"rows": rows, "steps": result.steps, "diagnosis": result.diagnosis.to_dict()}


def refused(config: TrialConfig) -> str:
    """The message of a trial that must not start."""
    try:
        Trial(config, lambda row: None)
    except ConfigError as error:
        return str(error)
    return "accepted"


def worker(rank: int, folder: str, step: TrialConfig, small: TrialConfig, jump: TrialConfig) -> None:
    """What each rank does; it leaves its findings in `folder`."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    index = open_index("digits")
    snapshot: Snapshot = torch.load(f"{folder}/snapshot.pt", weights_only=False)
    recipe = Recipe.build(step, index)
    found = one_step(snapshot, recipe, build_state(step, len(index.classes), Ranks.current()))
    found |= {"ranks": Ranks.current(), "total": Ranks.current().total(rank + 0.5), "refused": refused(small)}
    found["gathered"] = Ranks.current().gather([f"found by {rank}"])
    found["jump"] = diagnose_jump(jump)
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def configs(tiny: Tiny) -> tuple[TrialConfig, TrialConfig, TrialConfig]:
    """Of the one step, of a batch that two ranks can't share, of the whole way."""
    group_norm = {"model": {"norm": "gn"}}
    return tiny(**group_norm), tiny(global_batch_size=1, **group_norm), tiny(**JUMP)


@pytest.fixture(scope="module")
def alone(build: Build, configs: tuple[TrialConfig, ...], digits_cache: Path) -> dict[str, Any]:
    """What one process finds; with the snapshot that it started from."""
    bench = build(configs[0])
    list(run_steps(bench.state, bench.stream, 0, STEPS, loader_threads=0))
    snapshot = bench.state.snapshot()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH14_CACHE", str(digits_cache))
        jump = diagnose_jump(configs[2])
    return {"snapshot": snapshot, "jump": jump, **one_step(snapshot, bench.recipe, bench.state)}


@pytest.fixture(scope="module")
def both(
    alone: dict[str, Any],
    configs: tuple[TrialConfig, ...],
    run_ranks: RunRanks,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    """What each of two ranks finds."""
    folder = tmp_path_factory.mktemp("two_ranks")
    torch.save(alone["snapshot"], folder / "snapshot.pt")
    run_ranks(worker, 2, str(folder), *configs)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def test_ranks_are_those_of_the_group(both: list[dict[str, Any]]) -> None:
    """Each knows its place; sums, and what is gathered, are the same on both."""
    assert [found["ranks"] for found in both] == [Ranks(0, 2), Ranks(1, 2)]
    assert [found["total"] for found in both] == [2.0, 2.0]
    assert [found["gathered"] for found in both] == [[["found by 0"], ["found by 1"]]] * 2


def test_two_ranks_share_the_batch_of_one(alone: dict[str, Any], both: list[dict[str, Any]]) -> None:
    """The sample ids of both, one after the other, are those of one process."""
    assert both[0]["ids"] + both[1]["ids"] == alone["ids"]


def test_one_step_from_a_common_snapshot_agrees(alone: dict[str, Any], both: list[dict[str, Any]]) -> None:
    """Loss, gradient and weights of two ranks under group norm are one process's within 1e-5."""
    for found in both:
        assert found["signals"]["loss"] == pytest.approx(alone["signals"]["loss"], abs=1e-5)
        scale = float(alone["gradient"].norm())
        assert float((found["gradient"] - alone["gradient"]).norm()) <= 1e-5 * scale
        assert float((found["weights"] - alone["weights"]).abs().max()) <= 1e-5
        for name in ("loss_noise", "top1", "grad_norm", "update_ratio", "input_mean", "input_std"):
            assert found["signals"][name] == pytest.approx(alone["signals"][name], rel=1e-4), name


def test_ranks_agree_with_each_other_to_the_last_bit(both: list[dict[str, Any]]) -> None:
    """Same signals, gradient and weights: whatever one rank decides, the other decides too."""
    # A nan from a file is another one.
    one, other = (StepSignals.from_dict(found["signals"]) for found in both)
    assert one == other
    assert torch.equal(both[0]["gradient"], both[1]["gradient"])
    assert torch.equal(both[0]["weights"], both[1]["weights"])


def test_evaluation_over_two_ranks_is_exact(alone: dict[str, Any], both: list[dict[str, Any]]) -> None:
    """297 images over two ranks: none counted twice, none left out."""
    for found in both:
        assert found["evaluation"].top1 == alone["evaluation"].top1
        assert found["evaluation"].top5 == alone["evaluation"].top5
        assert found["evaluation"].loss == pytest.approx(alone["evaluation"].loss, rel=1e-5)


def test_a_batch_that_ranks_cannot_share_is_an_error(both: list[dict[str, Any]]) -> None:
    """On every rank, before any work: one line."""
    expected = (
        "global_batch_size: 1 is not allowed; allowed: at least 2, on 2 ranks in 1 micro-batches; "
        "remedy: raise global_batch_size or lower resources.workers"
    )
    assert [found["refused"] for found in both] == [expected, expected]


def test_both_ranks_stop_at_the_same_step_with_the_same_verdict(both: list[dict[str, Any]]) -> None:
    """Symptom, replays, table, controls and cure are the same numbers on both; only the time differs."""
    one, other = (dict(found["jump"]["diagnosis"], seconds=0) for found in both)
    assert one == other
    assert both[0]["jump"]["steps"] == both[1]["jump"]["steps"]
    rows = [[dict(row, **dict.fromkeys(SPEEDS, 0), diagnosis=None) for row in found["jump"]["rows"]] for found in both]
    assert rows[0] == rows[1]


def test_two_ranks_come_to_the_verdict_of_one(alone: dict[str, Any], both: list[dict[str, Any]]) -> None:
    """The same event, the same cause and the same cure, with an exact replay to the last bit."""
    expected, found = alone["jump"]["diagnosis"], both[0]["jump"]["diagnosis"]
    assert found["cause"] == expected["cause"] == "lr_jump"
    assert found["symptom"]["onset"] == expected["symptom"]["onset"]
    assert found["remedy"]["change"] == expected["remedy"]["change"] == {"schedule.milestones": []}
    assert found["remedy"]["verified"]
    assert found["controls"]["exact_bits_equal"]
