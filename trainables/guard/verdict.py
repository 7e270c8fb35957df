"""What a guard found: the table, the controls, the verdict and the remedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from trainables.detectors import Symptom
from trainables.diagnosis.swap_table import TestedSwap

Ingredient = Literal["learning_rate", "samples", "optimizer_state", "number_format", "normalization"]
Action = Literal["recorded", "stopped", "rolled_back"]


@dataclass(frozen=True)
class GuardControls:
    """Replays that must come out as expected before any verdict."""

    snapshot_step: int
    exact: float
    """Severity of the run replayed as it was."""
    first_difference: int | None
    """First step whose loss came back with other bits; None: all are equal."""
    placebo: tuple[float, ...] = ()
    """Severities with 1e-6 of noise on the weights."""
    all_reference: float | None = None
    """Severity with every ingredient at its reference; None: not reached."""


@dataclass(frozen=True)
class GuardRemedy:
    """A change that was tried in a longer replay."""

    text: str
    verified: bool
    severity: float


@dataclass(frozen=True)
class GuardDiagnosis:
    """The verdict and everything that it rests on."""

    symptom: Symptom
    cause: str
    """A name of the catalogue (`lr_jump`, `lr_too_high`, `poisoned_batch`, ...), or `unexplained`."""
    confidence: float
    summary: str
    table: tuple[TestedSwap[Ingredient], ...] = ()
    not_tested: dict[str, str] = field(default_factory=dict)
    """Ingredients that no replay has swapped, and why."""
    controls: GuardControls | None = None
    """None: no snapshot lies before the event."""
    batches: tuple[int, ...] = ()
    """Numbers of the guilty batches."""
    remedy: GuardRemedy | None = None
    clipping: GuardRemedy | None = None
    """Gradients clipped to the largest norm before the event. It can hide any cause, so it is no evidence of one."""
    replayed_steps: int = 0
    action: Action = "recorded"

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as JSON has them."""
        return asdict(self)
