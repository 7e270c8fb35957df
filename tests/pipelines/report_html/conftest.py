"""Sweeps that were made up, and say so: real ones of a thousand trials don't fit into a test."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest

from infra.tracking_sweeps import RecordedSweep, SweptTrial
from trainables.config import TrialConfig
from trainables.rng import generator

SPACE: dict[str, list[Any]] = {
    "schedule": [
        {"kind": "cosine_warmup", "warmup_steps": 10},
        {"kind": "multi_step", "milestones": [60], "gamma": 50},
    ],
    "global_batch_size": [2, 16, 32],
    "model.norm": ["bn", "gn"],
}
SWAPPED = ("learning_rate", "labels", "pixels", "samples", "normalization", "moments", "state", "number_format")
MakeSweep = Callable[..., RecordedSweep]


def made_up_diagnosis(cause: str, step: int, guilty: str, key: int) -> dict[str, Any]:
    """A diagnosis as `diagnosis.json` has it: the guilty ingredient alone is necessary and sufficient."""
    noise = generator("made up", key)

    def curve(high: float) -> list[list[float]]:
        return [
            [k, round(0.5 + 0.05 * float(noise.normal()) + (high if k >= step else 0), 6)]
            for k in range(step - 12, step + 12)
        ]

    curves = {"as run": curve(3), "all reference": curve(0), "remedy": curve(0)}
    curves |= {f"{name} swapped": curve(0 if name == guilty else 3) for name in SWAPPED}
    curves[f"{guilty} alone"] = curve(3)
    table = [
        {
            "ingredient": name,
            "swap": f"the reference of {name}",
            "severity_without": 0.2 if name == guilty else 31.5,
            "necessary": "yes" if name == guilty else "no",
            "severity_alone": 29.8 if name == guilty else None,
            "sufficient": "yes" if name == guilty else "not tested",
            "evidence": "",
        }
        for name in SWAPPED
    ]
    kind = {"kind": "spike", "step": step + 3, "onset": step, "epoch": 1, "severity": 31.5, "detail": "made up"}
    return {
        "symptom": kind,
        "cause": cause,
        "group": guilty,
        "confidence": 0.8 + 0.01 * (key % 15),
        "summary": f"spike at step {step}: {cause} (made up). Swapping the {guilty} alone makes it vanish.",
        "table": table,
        "controls": {
            "exact": 31.5,
            "exact_bits_equal": True,
            "snapshot_step": step - 12,
            "horizon": 12,
            "placebo": [30.9, 31.8],
            "all_reference": 0.1,
        },
        "curves": curves,
        "remedy": {"change": {"optim.lr": 0.01}, "text": "lower optim.lr", "verified": True, "severity": 0.3},
        "culprits": {"sample_ids": [], "files": [], "layer": "", "rank": None, "step": step},
        "replayed_steps": 400,
        "seconds": 41.0,
    }


def made_up_trial(place: int, point: dict[str, Any], max_steps: int) -> SweptTrial:
    """A trial that falls ill under the step schedule, mostly, and now and then at a batch of 2."""
    noise = generator("made up trial", place)
    base = {"max_steps": max_steps, "seed": place, "global_batch_size": point["global_batch_size"]}
    config = TrialConfig.parse({**base, "schedule": point["schedule"], "model": {"norm": point["model.norm"]}})
    stepped = point["schedule"]["kind"] == "multi_step"
    ill = noise.random() < (0.9 if stepped else 0.3 if point["global_batch_size"] == 2 else 0.03)
    onset = 60 + int(noise.integers(0, max_steps // 4))
    stop = onset + 4 if ill else max_steps
    loss = [2.3 * math.exp(-step / 80) + 0.1 * float(noise.random()) + 0.2 for step in range(stop)]
    if ill:
        loss[onset:] = [2.5 + float(noise.random()) for _ in loss[onset:]]
    cause, guilty = ("lr_jump", "learning_rate") if stepped else ("bn_small_batch", "normalization")
    return SweptTrial(
        trial_id=f"madeup_{place:05d}",
        name=f"resnet50 {point['model.norm']} b{point['global_batch_size']} {point['schedule']['kind']}",
        status="stopped" if ill else "finished",
        config=config.model_dump(mode="json"),
        changed=f"schedule={point['schedule']['kind']} global_batch_size={point['global_batch_size']}",
        loss=tuple(enumerate(loss)),
        best_val_top1=0.4 + 0.2 * float(noise.random()),
        symptom="spike" if ill else "",
        diagnosis=made_up_diagnosis(cause, onset, guilty, place) if ill else None,
        seconds=stop * 0.4 + (41.0 if ill else 0.0),
        images_per_s=point["global_batch_size"] / 0.4,
    )


@pytest.fixture(scope="session")
def make_sweep() -> MakeSweep:
    """A factory of sweeps with so many trials, which take the points of the space in turn."""

    def make(trials: int, max_steps: int = 200) -> RecordedSweep:
        """Make one up."""
        points = [dict(zip(SPACE, values, strict=True)) for values in itertools.product(*SPACE.values())]
        made = (made_up_trial(place, points[place % len(points)], max_steps) for place in range(trials))
        config = {"name": "made-up", "trial": {}, "space": SPACE, "resources": {"workers": 1}}
        return RecordedSweep("made-up", "0" * 32, "FINISHED", config, tuple(made), 1_700_000_000_000, synthetic=True)

    return make
