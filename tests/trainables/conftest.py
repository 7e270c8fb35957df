"""Tiny real trials that the tests of `trainables` share: a narrow ResNet-18 on the digits at 16 px, one thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from trainables.build import build_state
from trainables.config import TrialConfig
from trainables.data.index import ImageIndex
from trainables.faults import build_faults
from trainables.ingredients import Stream, with_swaps
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.state import TrainState
from trainables.trial import TrialResult, run_trial

TINY: dict[str, Any] = {
    "max_steps": 12,
    "global_batch_size": 8,
    "eval_every": 1000,
    "report_every": 5,
    "threads": 1,
    "device": "cpu",
    "data": {"image_size": 16, "augment": "none"},
    "model": {"name": "resnet18", "width": 0.5, "zero_init_last_gamma": False},
    "optim": {"lr": 0.02},
    "schedule": {"kind": "constant"},
    # With so few pixels a step in channels_last is mostly reordering of filters.
    "precision": {"channels_last": False},
}


@dataclass(frozen=True)
class Bench:
    """The parts of one trial in this process, before step 0."""

    config: TrialConfig
    recipe: Recipe
    state: TrainState
    stream: Stream
    """The run as it would be, faults included."""

    @property
    def weights(self) -> Tensor:
        """A copy of all trained weights, in one vector."""
        return torch.cat([p.detach().flatten() for p in self.state.parameters])


@dataclass(frozen=True)
class Run:
    """A trial that was run, and the rows that it reported."""

    config: TrialConfig
    rows: list[dict[str, Any]]
    result: TrialResult

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of single steps, in the order of reporting."""
        return [step for row in self.rows for step in row["history"]]

    @property
    def losses(self) -> list[float]:
        """Loss of each step."""
        return [step["loss"] for step in self.history]


Tiny = Callable[..., TrialConfig]
Build = Callable[[TrialConfig], Bench]
RunTrial = Callable[[TrialConfig], Run]
RunRanks = Callable[..., None]


def tiny_config(**changes: Any) -> TrialConfig:
    """TINY with `changes`; sections are merged key by key, so `tiny(optim={"lr": 1.0})` keeps the rest of `optim`."""
    values = dict(TINY)
    for key, value in changes.items():
        merge = isinstance(value, Mapping) and isinstance(values.get(key), Mapping)
        values[key] = {**values[key], **value} if merge else value
    if values["precision"].get("amp") in ("bf16", "fp16"):
        # Here the half formats have no fast kernel but in channels_last: a step would take 3 s.
        values["precision"] = {"channels_last": True, **changes["precision"]}
    return TrialConfig.parse(values)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """A factory of tiny configs."""
    return tiny_config


@pytest.fixture(scope="session")
def build(digits_index: ImageIndex) -> Build:
    """A factory of benches on the digits."""

    def make(config: TrialConfig) -> Bench:
        recipe = Recipe.build(config, digits_index)
        state = build_state(config, len(digits_index.classes), Ranks())
        return Bench(config, recipe, state, with_swaps(recipe.ingredients, build_faults(config.faults, recipe)))

    return make


@pytest.fixture(scope="session")
def run(digits_cache: Path) -> RunTrial:
    """`run_trial` on the digits, with its rows kept."""

    def start(config: TrialConfig) -> Run:
        rows: list[dict[str, Any]] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EPOCH14_CACHE", str(digits_cache))
            result = run_trial(config, rows.append)
        return Run(config, rows, result)

    return start


@pytest.fixture(scope="session")
def run_ranks(digits_cache: Path) -> RunRanks:
    """Run `worker(rank, *args)` in `world` processes to their ends; an error in one is raised here.

    They are forks of one process that has done the imports, which else are most of the time of a short worker.
    """
    root = str(Path(__file__).resolve().parents[2])
    forkserver.set_forkserver_preload(["trainables.trial", __name__])
    with pytest.MonkeyPatch.context() as patch:
        # The forks have the environment of their server, whatever it is here when they are made.
        patch.setenv("EPOCH14_CACHE", str(digits_cache))
        patch.setenv("PYTHONPATH", root + os.pathsep + os.environ.get("PYTHONPATH", ""))
        forkserver.ensure_running()

    def start(worker: Callable[..., None], world: int, *args: Any) -> None:
        mp.start_processes(worker, args, nprocs=world, start_method="forkserver")  # type: ignore[attr-defined, no-untyped-call] # torch

    return start


@pytest.fixture(scope="session")
def recipe(digits_index: ImageIndex) -> Recipe:
    """The recipe of the tiny config: what is read, not changed, by many tests."""
    return Recipe.build(tiny_config(), digits_index)


def fault(name: str, start_step: int = 0, **params: Any) -> list[dict[str, Any]]:
    """The `faults` key of a config with one built-in fault."""
    return [{"use": f"trainables.faults:{name}", "start_step": start_step, "params": params}]
