"""What watching a run costs: our step with all signals, snapshots and the detector on, against a bare loop.

    make bench-train ARGS="--steps 290"

Same model, data, precision, optimizer and threads; images are decoded beforehand, so that only the steps are timed. The
arms take turns step by step in one process (ours, bare, and bare again for an A/A comparison, in random order), which
cancels what drifts. Ratios are of summed times, with a 95 % interval from a bootstrap over blocks of steps.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from trainables.build import build_state  # noqa: E402
from trainables.config import TrialConfig  # noqa: E402 - after the path
from trainables.optim import build_optimizer  # noqa: E402
from trainables.precision import autocast  # noqa: E402
from trainables.trial import Trial  # noqa: E402

WARM_UP = 10
"""Steps of each arm that are not counted."""
BLOCK = 10
"""Steps that are drawn together in the bootstrap; a snapshot falls into one of its blocks."""
LIMIT = 1.02
"""Ours may take so many times as long as the bare loop."""


def bench_config(arguments: argparse.Namespace) -> TrialConfig:
    """ResNet-50 with what the ImageNet presets have: a snapshot each 100 steps, a report each 50."""
    return TrialConfig.parse(
        {
            "max_steps": arguments.steps + WARM_UP + 1,  # the last one's time holds the final evaluation: left out
            "global_batch_size": arguments.batch,
            "eval_every": 10**6,
            "report_every": 50,
            "threads": arguments.threads,
            "data": {"image_size": arguments.side, "augment": "none", "loader_threads": 0},
            "model": {"name": "resnet50"},
            "optim": {"lr": 0.01},
            "schedule": {"kind": "constant"},
            "precision": {"amp": arguments.amp},
            "detector": {"enabled": True},
            "diagnosis": {"snapshot_every": 100},
        }
    )


class BareLoop:
    """Forward, backward, update: nothing else, and nothing is read."""

    def __init__(self, trial: Trial, images: Tensor, labels: Tensor) -> None:
        self.trial = trial
        self.images, self.labels = images, labels
        self.state = build_state(trial.config, len(trial.recipe.index.classes), trial.ranks)
        self.optimizer = build_optimizer(self.state.model, trial.config.optim)
        self.state.model.train()

    def step(self, step: int) -> None:
        """One step on the batch that ours has."""
        ingredients = self.trial.recipe.ingredients(step)
        images = self.images[torch.from_numpy(ingredients.sample_ids)].to(self.state.device, non_blocking=True)
        labels = self.labels[torch.from_numpy(ingredients.sample_ids)].to(self.state.device, non_blocking=True)
        inputs = ingredients.normalize(images).contiguous(memory_format=self.state.memory_format)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(ingredients.amp, self.state.device):
            logits = self.state.model(inputs)
        F.cross_entropy(logits.float(), labels).backward()
        self.optimizer.step()


class Turns:
    """Times ours, the bare loop and the bare loop again, one step each in random order.

    Ours asks `notice` before each of its steps; that is where the other two have their turn.
    """

    def __init__(
        self, bare: Callable[[int], None], again: Callable[[int], None], synchronize: Callable[[], None], steps: int
    ) -> None:
        self.arms = {"bare": bare, "again": again}
        self.synchronize = synchronize
        self.steps = steps
        self.seconds: dict[str, list[float]] = {"ours": [], "bare": [], "again": []}
        self.order = random.Random(0)  # noqa: S311 - an order of turns
        self.began: float | None = None
        self.step = 0

    def notice(self) -> bool:
        """End our turn, give the others theirs, begin ours."""
        if self.began is not None:
            self.synchronize()
            self.seconds["ours"].append(time.perf_counter() - self.began)
        if self.step == self.steps:
            return False
        names = list(self.arms)
        self.order.shuffle(names)
        for name in names:
            started = time.perf_counter()
            self.arms[name](self.step)
            self.synchronize()
            self.seconds[name].append(time.perf_counter() - started)
        self.step += 1
        if self.step % 20 == 0:
            per_step = sum(values[-1] for values in self.seconds.values() if values)
            print(f"step {self.step}, {per_step:.2f} s for the three", file=sys.stderr, flush=True)
        self.began = time.perf_counter()
        return False


def interval(top: list[float], bottom: list[float]) -> tuple[float, float, float]:
    """Ratio of sums, and its 95 % interval over blocks of steps."""
    n = len(top) // BLOCK * BLOCK
    pairs = np.array([top[-n:], bottom[-n:]]).reshape(2, -1, BLOCK).sum(axis=2)
    drawn = np.random.default_rng(0).integers(0, pairs.shape[1], (4000, pairs.shape[1]))
    ratios = pairs[0][drawn].sum(axis=1) / pairs[1][drawn].sum(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(pairs[0].sum() / pairs[1].sum()), float(low), float(high)


def main() -> int:
    """Run the three arms and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=290)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--amp", default="fp32")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    trial = Trial(bench_config(arguments), rows.append)
    ids = np.arange(len(trial.recipe.index.train))
    images, labels = trial.recipe.train.fetch(ids, None), torch.from_numpy(trial.recipe.index.train.labels)
    stream = trial.course.stream
    trial.course.stream = lambda step: replace(stream(step), decode=lambda ids, epochs: images[torch.from_numpy(ids)])
    on_gpu = trial.state.device.type == "cuda"
    turns = Turns(
        BareLoop(trial, images, labels).step,
        BareLoop(trial, images, labels).step,
        torch.cuda.synchronize if on_gpu else lambda: None,
        arguments.steps + WARM_UP,
    )
    trial.notice = turns.notice
    result = trial.run()
    assert result.phase == "finished", result
    counted = {name: values[WARM_UP:] for name, values in turns.seconds.items()}
    rate = arguments.batch * len(counted["bare"]) / sum(counted["bare"])
    print(f"ResNet-50, {arguments.side} px, batch {arguments.batch}, {arguments.amp}, bare: {rate:.1f} images/s")
    print(f"{'time of':16} {'over':8} {'ratio':>7} {'95 % interval':>20}")
    over = {}
    for name, other in (("again", "bare"), ("ours", "bare"), ("ours", "again")):
        ratio, low, high = over[name] = interval(counted[name], counted[other])
        print(f"{name:16} {other:8} {ratio:7.4f} {low:9.4f} to {high:.4f}")
    ratio, low, high = over["ours"]
    narrow = (high - low) / 2 < 0.01
    print(f"half-width {'under' if narrow else 'NOT under'} 1 %; ours {'within' if ratio <= LIMIT else 'OVER'} {LIMIT}")
    return 0 if narrow and ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
