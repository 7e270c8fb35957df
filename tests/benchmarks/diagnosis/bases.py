"""The healthy runs that every fault forks from, in two parts: one to tune on, one to report on.

All are narrow ResNets on small images, one thread, no augmentation but on the photographs. No base of one part differs
from one of the other by the seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Part = Literal["tune", "report"]
Values = dict[str, Any]

CLOTHING = Path(__file__).resolve().parents[4] / "shared" / "data" / "clothing" / "160px"
COMMON: Values = {
    "max_steps": 320,
    "eval_every": 16,
    "threads": 1,
    "device": "cpu",
    "data": {"path": "digits", "image_size": 16, "augment": "none", "loader_threads": 0},
    "model": {"name": "resnet18", "width": 0.5, "norm": "bn", "zero_init_last_gamma": False},
    "precision": {"channels_last": False},
}


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> Values:
    """`values` with `changes`, sections key by key."""
    result = dict(values)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(values.get(key), Mapping)
        result[key] = merged(values[key], value) if both else value
    return result


@dataclass(frozen=True)
class Base:
    """One healthy run; faults act from step `onset` on."""

    name: str
    part: Part
    onset: int
    changes: Values

    def values(self, seed: int) -> Values:
        """The trial's config as a mapping."""
        return merged(COMMON, self.changes) | {"seed": seed}

    def available(self) -> bool:
        """False: its images lie beside the repository, and don't here."""
        return self.values(0)["data"]["path"] == "digits" or CLOTHING.is_dir()


def base(name: str, part: Part, onset: int, batch: int, **changes: Any) -> Base:
    """A base by its batch size and the sections that differ from COMMON's."""
    return Base(name, part, onset, {"global_batch_size": batch, **changes})


def cosine(warmup_steps: int = 10) -> Values:
    """The usual schedule."""
    return {"kind": "cosine_warmup", "warmup_steps": warmup_steps}


PHOTOS: Values = {"path": str(CLOTHING), "image_size": 32, "augment": "crop_flip"}
CONSTANT: Values = {"kind": "constant"}
R50: Values = {"name": "resnet50", "zero_init_last_gamma": True}

BASES = (
    base("tune-bn-cosine", "tune", 70, 16, optim={"lr": 0.01}, schedule=cosine()),
    base("tune-bn-constant", "tune", 80, 8, optim={"lr": 0.003}, schedule=CONSTANT),
    base("tune-gn-steps", "tune", 90, 16, model={"norm": "gn"}, optim={"lr": 0.02},
         schedule={"kind": "multi_step", "milestones": [240]}),
    base("tune-bn-adamw", "tune", 70, 16, optim={"kind": "adamw", "lr": 0.001, "weight_decay": 0.05},
         schedule=cosine()),
    base("tune-ghost-onecycle", "tune", 70, 16, model={"norm": "ghost_bn", "ghost_batch_size": 8},
         optim={"lr": 0.01}, schedule={"kind": "one_cycle", "warmup_steps": 40}),
    base("tune-bn-mixup", "tune", 80, 16, data={"mixup_alpha": 0.2}, optim={"lr": 0.01}, schedule=cosine()),
    base("tune-r50-bn", "tune", 70, 16, data={"image_size": 32}, model=R50, optim={"lr": 0.003}, schedule=cosine()),
    base("tune-photos", "tune", 90, 16, data=PHOTOS, optim={"lr": 0.02}, schedule=cosine()),
    base("bn-steps", "report", 60, 16, optim={"lr": 0.005, "nesterov": True},
         schedule={"kind": "multi_step", "milestones": [250]}),
    base("bn-cosine-32px", "report", 60, 16, data={"image_size": 32}, optim={"lr": 0.01}, schedule=cosine(15)),
    base("gn-adamw", "report", 70, 16, model={"norm": "gn"}, schedule=CONSTANT,
         optim={"kind": "adamw", "lr": 0.0005, "weight_decay": 0.05}),
    base("ghost-cosine", "report", 60, 24, model={"norm": "ghost_bn", "ghost_batch_size": 8}, optim={"lr": 0.01},
         schedule=cosine()),
    base("bn-onecycle-64", "report", 22, 64, optim={"lr": 0.03}, schedule={"kind": "one_cycle", "warmup_steps": 16}),
    base("bn-mixup-smooth", "report", 55, 24, data={"mixup_alpha": 0.2}, schedule=cosine(),
         optim={"lr": 0.015, "label_smoothing": 0.1}),
    base("r50-gn", "report", 80, 12, model=R50 | {"norm": "gn"}, optim={"lr": 0.006}, schedule=cosine()),
    base("r50-bn-constant", "report", 80, 12, data={"image_size": 32}, model=R50, optim={"lr": 0.003},
         schedule=CONSTANT),
    base("photos-bn", "report", 100, 24, data=PHOTOS, optim={"lr": 0.01}, schedule=CONSTANT),
)  # fmt: skip
"""Rates are such that the loss before the onset is calm: in a run at the edge of what it bears, faults drown.

The batch times the onset stays within the first epoch: what a fault does to the files then leaves the steps before
it alone."""
