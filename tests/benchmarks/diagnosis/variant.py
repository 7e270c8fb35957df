"""What a case does to a healthy run, and which verdicts count as right.

At the seam a fault is a swap of an ingredient. Below it files, config, modules, optimizer or memory are changed
instead, so that no probe wins by undoing the swap that the fault made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tests.benchmarks.diagnosis.bases import Base, Values, merged
from tests.benchmarks.diagnosis.damage import Damage
from trainables.config import TrialConfig
from trainables.data.index import ImageIndex
from trainables.ingredients import Edit, Swap
from trainables.recipe import Recipe

Where = Literal["seam", "files", "config", "model", "optimizer", "memory", "control"]
BELOW: tuple[Where, ...] = ("files", "config", "model", "optimizer", "memory")
Changes = Callable[[Base, TrialConfig], Values]
Fits = Callable[[TrialConfig], bool]
Swaps = Callable[[Recipe, int], list[Swap]]
Reindex = Callable[[ImageIndex], ImageIndex]


def anywhere(_config: TrialConfig) -> bool:
    """Every base will do."""
    return True


def batch_normed(config: TrialConfig) -> bool:
    """The model has batch norm of some kind."""
    return config.model.norm in ("bn", "sync_bn", "ghost_bn")


def with_adam(config: TrialConfig) -> bool:
    """The optimizer keeps second moments."""
    return config.optim.kind == "adamw"


def with_sgd(config: TrialConfig) -> bool:
    """The optimizer follows the gradient's size."""
    return config.optim.kind == "sgd"


@dataclass(frozen=True)
class Variant:
    """One fault with its parameters, or one negative control."""

    name: str
    where: Where
    causes: tuple[str, ...] = ()
    """Verdicts that are right; empty: a control, which must stay quiet."""
    why: str = ""
    """Why other names than the fault's own count as right."""
    from_start: bool = False
    """True: it acts from step 0 on; False: from the base's onset on, in a fork of the healthy run."""
    fits: Fits = anywhere
    """Bases that it makes sense on."""
    in_evaluation: bool = False
    """True: only evaluations can show it."""
    patient: bool = False
    """True: it may show as a stall or an erratic run, which the detector waits for: half of max_steps past the warm-up,
    or two windows."""
    slow: bool = False
    """True: a step takes a second or more on a CPU, so it runs only when asked for."""
    faults: tuple[tuple[str, dict[str, Any]], ...] = ()
    """Built-in faults by name, with parameters."""
    last_steps: int | None = None
    """Steps that `faults` act on; None: to the end."""
    changes: Changes | None = None
    """Config sections that differ from the base's."""
    swaps: Swaps | None = None
    """(recipe, onset) -> swaps on top of the stream."""
    damage: Damage | None = None
    """What is done to the files that come from the onset on."""
    reindex: Reindex | None = None
    """What is done to the index in memory."""
    edit: Edit | None = None
    """What is done to the live state when the fault starts; no replay brings it back, but what it hangs on modules."""
    layer: str = ""
    """The one parameter that it changes at first; empty: there is no such one."""
    rank: int | None = None
    """The one rank that it acts on; None: on all alike."""


@dataclass(frozen=True)
class Case:
    """A variant on a base, for one seed."""

    base: Base
    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Its key in the results."""
        return f"{self.base.name}/{self.variant.name}/{self.seed}"

    @property
    def onset(self) -> int:
        """First step that the fault acts on."""
        return 0 if self.variant.from_start else self.base.onset

    def values(self) -> Values:
        """The trial's config with what the variant does above or in it, as a mapping."""
        variant, values = self.variant, self.base.values(self.seed)
        if variant.changes is not None:
            values = merged(values, variant.changes(self.base, TrialConfig.parse(values)))
        stop = None if variant.last_steps is None else self.onset + variant.last_steps
        span = {"start_step": self.onset, "stop_step": stop}
        faults = [{"use": f"trainables.faults:{use}", "params": params, **span} for use, params in variant.faults]
        return values | {"faults": faults}
