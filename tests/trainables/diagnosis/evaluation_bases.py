"""Runs that the tests of eval gaps go on from: START steps of the small net, and what may happen then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from trainables.baseline import Baseline
from trainables.config import FaultConfig, TrialConfig
from trainables.detectors import Symptom
from trainables.diagnosis.evaluation_gap import diagnose_evaluation
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.verdict import Diagnosis
from trainables.faults import build_faults
from trainables.ingredients import Swap, with_evaluation_swaps, with_swaps
from trainables.loop import run_steps
from trainables.recipe import Recipe
from trainables.rng import generator
from trainables.state import Snapshot, TrainState
from trainables.trial import Trial

START = 120
BASE: dict[str, Any] = {
    "global_batch_size": 32,
    "max_steps": 200,
    "optim": {"lr": 0.05},
    "schedule": {"kind": "cosine_warmup", "warmup_steps": 10},
    "diagnosis": {"replicates": 1},
}
Edit = Callable[[TrainState], None]


@dataclass
class Base:
    """A run after START steps, and the snapshots that it left."""

    config: TrialConfig
    recipe: Recipe
    state: TrainState
    ring: SnapshotRing
    start: Snapshot
    progress: list[str] = field(default_factory=list)

    @classmethod
    def trained(cls, trial: Trial) -> Base:
        """The trial's first START steps."""
        ring = SnapshotRing(10, 4)
        ring.offer(trial.state)
        for _ in run_steps(trial.state, trial.recipe.ingredients, 0, START, loader_threads=0):
            ring.offer(trial.state)
        return cls(trial.config, trial.recipe, trial.state, ring, trial.state.snapshot())

    def diagnose(
        self, swaps: Sequence[Swap] = (), steps: int = 0, edit: Edit | None = None, *, of_input: bool = False
    ) -> Diagnosis:
        """Go on for `steps` with `swaps`, change the state by `edit`, and diagnose the evaluation that comes then.

        of_input: whether the detector saw another input than before.
        """
        self.state.restore(self.start)
        ring = SnapshotRing(10, 4)
        ring.first, ring.recent = self.ring.first, self.ring.recent.copy()
        stream = with_swaps(self.recipe.ingredients, swaps)
        for _ in run_steps(self.state, stream, START, START + steps, loader_threads=0):
            ring.offer(self.state)
        if edit is not None:
            edit(self.state)
        self.progress.clear()
        return diagnose_evaluation(
            self.recipe,
            self.state,
            with_evaluation_swaps(self.recipe.evaluation, swaps),
            stream,
            replace(symptom_at(START + steps), of_input=of_input),
            ring,
            self.progress.append,
        )

    def faults(self, name: str, start_step: int = START, **params: Any) -> tuple[Swap, ...]:
        """One built-in fault."""
        config = FaultConfig(use=f"trainables.faults:{name}", start_step=start_step, params=params)
        return build_faults([config], self.recipe)


def symptom_at(step: int) -> Symptom:
    """What the detector says of an evaluation after `step` steps."""
    kind = cast("Any", "eval_gap")
    return Symptom(kind, step, step, 10.0, "val top-1 is low", Baseline(0.1, 0.05, 2.3))


def coloured_squares(folder: Path) -> Path:
    """Four classes of noisy 16 px squares that differ in colour: red, green, blue, or grey."""
    tints = {"blue": (0, 0, 60), "green": (0, 60, 0), "grey": (20, 20, 20), "red": (60, 0, 0)}
    rng = generator("coloured squares")
    for split, count in (("train", 64), ("val", 32)):
        for name, tint in tints.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 120, (16, 16, 3))
                image = Image.fromarray((noise + np.array(tint)).astype(np.uint8))
                image.save(folder / split / name / f"{i:03d}.png")
    return folder
