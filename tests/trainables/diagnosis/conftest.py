"""Whole trials on a net of 150,000 weights: real steps, replays and verdicts at some milliseconds a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainables.config import TrialConfig
from trainables.norms import build_norm_layer
from trainables.optim import build_optimizer
from trainables.ranks import Ranks
from trainables.state import TrainState
from trainables.trial import Trial, TrialResult

WIDTHS = (32, 32, 64, 64, 64, 64)
"""Channels of the stages; each halves the side, so that at 16 px the last three are one pixel."""


@dataclass
class Small:
    """A trial whose model is the small net, and the rows that it reports."""

    trial: Trial
    rows: list[dict[str, Any]]

    def run(self) -> TrialResult:
        """Train until the last step or a symptom, and diagnose that."""
        return self.trial.run()


MakeSmall = Callable[..., Small]
Report = Callable[[dict[str, Any]], None]


def small_net(config: TrialConfig) -> nn.Module:
    """Six strided convolutions, each with the config's normalisation, and a head; weights by the seed."""
    norm = build_norm_layer(config.model.norm, config.model.ghost_batch_size)
    layers: list[nn.Module] = []
    channels = 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for width in WIDTHS:
            convolution = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            layers += [convolution, norm(width), nn.ReLU()]
            channels = width
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10))
    return model.to(memory_format=torch.channels_last)


@pytest.fixture(scope="session")
def small(digits_cache: Path) -> MakeSmall:
    """A factory of small trials; `watch` sees each row as it is reported."""

    def make(config: TrialConfig, watch: Report = lambda row: None) -> Small:
        rows: list[dict[str, Any]] = []

        def report(row: dict[str, Any]) -> None:
            rows.append(row)
            watch(row)

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EPOCH14_CACHE", str(digits_cache))
            trial = Trial(config, report)
        model = small_net(config)
        trial.state = TrainState(model, build_optimizer(model, config.optim), torch.device("cpu"), Ranks())
        return Small(trial, rows)

    return make
