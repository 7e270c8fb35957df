"""The one file of the benchmark that calls the tool: a run by hand, with the parts that a trial is made of.

A change of detector, engine or trial is a change here, and nowhere else in the benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from trainables.build import build_state
from trainables.checkpoint_format import pack_tensors
from trainables.config import TrialConfig
from trainables.data.index import ImageIndex, open_index
from trainables.detectors import Symptom
from trainables.diagnosis.diagnose import diagnose
from trainables.diagnosis.evaluation_training import diagnose_gap
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.verdict import Diagnosis
from trainables.evaluation import evaluate
from trainables.faults import build_faults
from trainables.ingredients import Ingredients, Stream, Swap, with_evaluation_swaps, with_swaps
from trainables.interventions import build_swap
from trainables.loop import run_steps, train_step
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.state import Snapshot
from trainables.statistics_check import evaluation_signals
from trainables.watch import build_detector


@dataclass(frozen=True)
class Verdict:
    """What a diagnosis said, in plain values."""

    cause: str
    group: str
    confidence: float
    summary: str
    verified: bool
    """Whether it has a remedy that a replay verified."""
    curable: bool
    """Whether that is one which a run can go on with."""
    culprits: tuple[int, ...]
    """Sample ids."""
    layer: str
    """Name of the guilty parameter or module; empty: none was singled out."""
    rank: int | None
    """The guilty rank; None: none was singled out."""
    replayed_steps: int
    seconds: float


class Training:
    """One live run that can be saved, forked and diagnosed."""

    def __init__(self, config: TrialConfig, index: ImageIndex) -> None:
        torch.set_num_threads(config.threads)
        self.config = config
        self.recipe = Recipe.build(config, index)
        self.state = build_state(config, len(index.classes), Ranks.current())
        self.detector = build_detector(self.recipe)
        self.ring = SnapshotRing(config.diagnosis.snapshot_every, config.diagnosis.snapshots)
        self.detectors: dict[int, dict[str, Any]] = {}
        """What the detector remembered at each snapshot."""
        self.losses: dict[int, float] = {}
        self.found: Diagnosis | None = None
        self.swap(())

    def swap(self, swaps: Sequence[Swap]) -> None:
        """Let the steps and evaluations be those of the config, its faults included, with `swaps` on top."""
        faults = [*build_faults(self.config.faults, self.recipe), *swaps]
        self.stream: Stream = with_swaps(self.recipe.ingredients, faults)
        self.replayed: Stream = with_swaps(self.recipe.ingredients, [swap for swap in faults if not swap.live])
        self.evaluations = with_evaluation_swaps(self.recipe.evaluation, faults)

    def train(self, stop: int, *, heed: bool = True) -> Symptom | None:
        """Go on to step `stop`, or to the first symptom where the detector is heeded."""
        if self.state.step == 0 and heed:
            self.keep_snapshot()
        for signals in run_steps(self.state, self.stream, self.state.step, stop, loader_threads=0):
            self.losses[signals.step] = signals.loss
            symptom = self.detector.update(signals) if heed else None
            if symptom is not None:
                return symptom
            if heed:
                self.keep_snapshot()
                symptom = self.evaluated()
            if symptom is not None:
                return symptom
        return None

    def keep_snapshot(self) -> None:
        """Take one where it is due."""
        step = self.state.step
        if self.ring.is_due(step):
            self.ring.offer(self.state, looks_at_gradients=self.stream(step).code is not train_step)
            self.detectors[step] = self.detector.state_dict()

    def evaluated(self) -> Symptom | None:
        """What the detector says of an evaluation, where one is due."""
        step = self.state.step
        if step % self.config.eval_every:
            return None
        ingredients = self.evaluations(step)
        scores = evaluate(self.state, ingredients)
        final = step == self.config.max_steps
        return self.detector.update_evaluation(evaluation_signals(self.state, ingredients, scores, final=final))

    def diagnose(self, symptom: Symptom) -> Verdict:
        """Replay it, an evaluation's symptom by evaluations; the live state is put back."""
        run = self.recipe, self.state
        if symptom.kind == "eval_gap":
            found = diagnose_gap(*run, self.evaluations, self.replayed, symptom, self.ring, self.losses)
        else:
            found = diagnose(*run, self.replayed, symptom, self.ring, self.losses)
        self.found = found
        return Verdict(
            cause=found.cause,
            group=found.group,
            confidence=found.confidence,
            summary=found.summary,
            verified=found.remedy is not None and found.remedy.verified,
            curable=found.cure is not None,
            culprits=found.culprits.sample_ids,
            layer=found.culprits.layer,
            rank=found.culprits.rank,
            replayed_steps=found.replayed_steps,
            seconds=found.seconds,
        )

    def roll_back(self, stop: int) -> Symptom | None:
        """Back to the snapshot that the verified cure was proved from, and with the cure to `stop`.

        What the detector says on the way; that is all it does: the run goes on.
        """
        assert self.found is not None
        assert self.found.cure is not None
        back_to, cure = self.found.controls.snapshot_step, build_swap(self.found.cure, self.recipe)
        self.state.restore(self.ring.rewind(back_to))
        self.detector = build_detector(self.recipe)
        self.detector.load_state_dict(self.detectors[back_to])
        # What was no property of the steps does not come again.
        self.stream = with_swaps(self.replayed, [cure])
        self.evaluations = with_evaluation_swaps(self.evaluations, [cure])
        symptom = self.train(stop)
        self.train(stop, heed=False)
        return symptom

    def top1(self) -> float:
        """Share of val/ that is classified right."""
        return evaluate(self.state, self.evaluations(self.state.step)).top1

    def save(self, folder: Path) -> None:
        """Write the state, the snapshots, the losses and the detector to `folder`."""
        assert self.ring.first is not None
        snapshots = {"now": self.state.snapshot(), "first": self.ring.first}
        snapshots |= {f"recent-{place}": snapshot for place, snapshot in enumerate(self.ring.recent)}
        for name, snapshot in snapshots.items():
            (folder / f"{name}.safetensors").write_bytes(pack_tensors(snapshot.tensors))
        steps = {name: snapshot.step for name, snapshot in snapshots.items()}
        kept = {
            "steps": steps,
            "losses": list(self.losses.items()),
            "detector": self.detector.state_dict(),
            "detectors": list(self.detectors.items()),
        }
        (folder / "run.json").write_text(json.dumps(kept))

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote, as a resume does."""
        kept = json.loads((folder / "run.json").read_text())

        def snapshot(name: str) -> Snapshot:
            return Snapshot(kept["steps"][name], safetensors.torch.load_file(folder / f"{name}.safetensors"))

        self.ring.add(snapshot("first"))
        for name in kept["steps"]:
            if name.startswith("recent-"):
                self.ring.add(snapshot(name))
        self.state.restore(snapshot("now"))
        self.losses = {int(step): float(loss) for step, loss in kept["losses"]}
        self.detector.load_state_dict(kept["detector"])
        self.detectors = {int(step): remembered for step, remembered in kept["detectors"]}

    def foreign_samples(self, healthy: ImageIndex, start: int, stop: int) -> tuple[int, ...]:
        """Ids of the samples of steps [start, stop) whose label or input isn't the healthy recipe's; in order."""
        reference = Recipe.build(self.config.model_copy(update={"faults": ()}), healthy)
        found: set[int] = set()
        for step in range(start, stop):
            actual, sound = self.stream(step), reference.ingredients(step)
            ids, epochs = actual.sample_ids, actual.epochs
            differ = actual.label(ids, epochs) != sound.label(ids, epochs)
            differ |= inputs_differ(actual, sound)
            found |= set(ids[differ].tolist())
        return tuple(sorted(found))


def inputs_differ(actual: Ingredients, sound: Ingredients) -> np.ndarray:
    """Of each sample of the step, whether its input is another: bool [n]."""
    ids, epochs = actual.sample_ids, actual.epochs
    pixels, reference = (i.normalize(i.decode(ids, epochs)) for i in (actual, sound))
    same = torch.isclose(pixels, reference, rtol=0, atol=0, equal_nan=False).flatten(1).all(dim=1)
    return np.asarray(~same.numpy())


def describe(symptom: Symptom) -> dict[str, Any]:
    """A symptom in plain values."""
    content = asdict(symptom)
    content.pop("baseline")
    return content


def open_data(path: str) -> ImageIndex:
    """The index of a data set."""
    return open_index(path)
