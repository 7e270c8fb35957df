"""Logs of made-up trainings, drawn from seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trainables.rng import generator
from trainables.runlog.finding import Finding, diagnose_log
from trainables.runlog.runs import runs_of
from trainables.runlog.table import table_of_rows

Log = dict[str, np.ndarray]


def healthy_log(n: int = 400, *, classes: int = 100, every: int = 1, seed: int = 0) -> Log:
    """Losses that fall from ln(classes) to a tenth of it, with a steady rate, gradient and update ratio."""
    rng = generator("runlog", seed)
    chance = math.log(classes)
    falling = chance * (0.1 + 0.9 * np.exp(-np.arange(n) / (n / 6)))
    return {
        "step": np.arange(n) * every,
        "loss": falling * (1 + 0.01 * rng.standard_normal(n)),
        "lr": np.full(n, 0.1),
        "grad_norm": 1.0 + 0.05 * rng.standard_normal(n),
        "update_ratio": np.full(n, 1e-3),
    }


def with_spike(log: Log, start: int, length: int = 20, height: float = 8.0) -> Log:
    """The log with its loss `height` higher for a while."""
    loss = log["loss"].copy()
    loss[start : start + length] += height
    return {**log, "loss": loss}


def rows_of(log: Log) -> list[dict[str, Any]]:
    """A row a point."""
    return [dict(zip(log, values, strict=True)) for values in zip(*(log[key].tolist() for key in log), strict=True)]


@pytest.fixture
def healthy() -> Callable[..., Log]:
    """A factory of healthy logs."""
    return healthy_log


@pytest.fixture
def spiked() -> Callable[..., Log]:
    """Adds a spike to a log."""
    return with_spike


@pytest.fixture
def find() -> Callable[..., Finding]:
    """What is found in a log of one run."""

    def found(log: Log, num_classes: int | None = 100) -> Finding:
        (run,) = runs_of(table_of_rows(rows_of(log)), {}, "run")
        return diagnose_log(run, num_classes)

    return found
