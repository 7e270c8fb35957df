"""The result of a diagnosis, and the rule that turns replays into a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Literal, Self, TypeVar

from trainables.detectors import Symptom
from trainables.diagnosis.causes import Ingredient
from trainables.diagnosis.culprits import NOBODY, Culprits
from trainables.interventions import Intervention

Answer = Literal["yes", "no", "inconclusive", "not tested"]
UNEXPLAINED = "unexplained"


@dataclass(frozen=True)
class Thresholds:
    """Severity at which an event counts as present, and up to which it counts as absent."""

    present: float
    absent: float

    def is_present(self, severity: float) -> bool:
        """Whether the event is there."""
        return severity >= self.present

    def is_absent(self, severity: float) -> bool:
        """Whether it is not; between the two a replay has no vote."""
        return severity <= self.absent

    def necessary(self, severity_without: float) -> Answer:
        """Swapping the ingredient out makes the event vanish."""
        return (
            "yes" if self.is_absent(severity_without) else "no" if self.is_present(severity_without) else "inconclusive"
        )

    def sufficient(self, severity_alone: float) -> Answer:
        """The ingredient alone, in an otherwise reference run, makes the event appear."""
        return "yes" if self.is_present(severity_alone) else "no" if self.is_absent(severity_alone) else "inconclusive"


Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class TestedSwap(Generic[Name]):
    """One row of a necessary / sufficient table."""

    __test__ = False
    ingredient: Name
    swap: str
    severity_without: float
    """Severity with this ingredient alone swapped for its reference."""
    necessary: Answer
    severity_alone: float | None = None
    """Severity with every other ingredient swapped for its reference; None: not tested."""
    sufficient: Answer = "not tested"

    @property
    def is_cause(self) -> bool:
        """Both necessary and sufficient."""
        return self.necessary == "yes" and self.sufficient == "yes"


@dataclass(frozen=True)
class SwapResult(TestedSwap[Ingredient]):
    """A row of a diagnosis's table."""

    evidence: str = ""
    standing: str = ""
    """declared, usual or drawn, as `references` has it; empty: equal to the run's own value."""


@dataclass(frozen=True)
class Controls:
    """Replays that must come out as expected before any verdict."""

    exact: float
    """Severity of the run replayed as it was."""
    exact_bits_equal: bool
    """Whether its losses came back with the same bits."""
    snapshot_step: int
    horizon: int
    """Steps replayed from the onset on."""
    placebo: list[float] = field(default_factory=list)
    """Severities with only the order within the batch and 1e-6 of the weights changed."""
    all_reference: float | None = None
    """Severity with every ingredient at its reference value; None: not reached."""


@dataclass(frozen=True)
class Remedy:
    """A change that a replay was tried with."""

    change: dict[str, Any]
    """Dotted config keys and their new values; empty where the fault lies outside the config."""
    text: str
    verified: bool
    severity: float
    cure: Intervention | None = None
    """The same as what a run can go on with from the snapshot; None: there is no such thing."""


@dataclass(frozen=True)
class Diagnosis:
    """The verdict and everything that it rests on."""

    symptom: Symptom
    epoch: int
    cause: str
    group: str
    confidence: float
    summary: str
    table: list[SwapResult]
    controls: Controls
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    remedy: Remedy | None = None
    culprits: Culprits = NOBODY
    replayed_steps: int = 0
    seconds: float = 0.0
    snapshot_bytes: int = 0
    """Host memory of the snapshots that were kept, on one rank."""

    @classmethod
    def unexplained(
        cls, symptom: Symptom, epoch: int, reason: str, table: list[SwapResult], controls: Controls, confidence: float
    ) -> Self:
        """An honest 'unexplained', with what was seen."""
        summary = f"{symptom.kind} at step {symptom.onset}: {reason}."
        return cls(symptom, epoch, UNEXPLAINED, UNEXPLAINED, round(confidence, 3), summary, table, controls)

    @property
    def cure(self) -> Intervention | None:
        """The intervention that a replay proved; None where there is none."""
        return self.remedy.cure if self.remedy is not None and self.remedy.verified else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the layout of `diagnosis.json`."""
        content = asdict(self)
        content.pop("epoch")
        baseline = content["symptom"].pop("baseline")
        content["symptom"] |= {"epoch": self.epoch, "baseline_loss": baseline["level"], "noise": baseline["noise"]}
        content["culprits"] |= {key: list(content["culprits"][key]) for key in ("sample_ids", "files")}
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], symptom: Symptom) -> Self:
        """What `to_dict` gave of a diagnosis of `symptom`, through JSON too."""
        culprits, remedy = content["culprits"], content["remedy"]
        if remedy is not None:
            cure = Intervention.from_dict(remedy["cure"]) if remedy["cure"] is not None else None
            remedy = Remedy(**{**remedy, "cure": cure})
        parts = {
            "symptom": symptom,
            "epoch": content["symptom"]["epoch"],
            "table": [SwapResult(**row) for row in content["table"]],
            "controls": Controls(**content["controls"]),
            "remedy": remedy,
            "culprits": Culprits(**{**culprits, **{key: tuple(culprits[key]) for key in ("sample_ids", "files")}}),
        }
        return cls(**{**content, **parts})


Row = TypeVar("Row", bound=TestedSwap[Any])


def sole_cause(table: Sequence[Row]) -> Row | None:
    """The one ingredient that is both necessary and sufficient; None where there is none, or more than one."""
    causes = [row for row in table if row.is_cause]
    return causes[0] if len(causes) == 1 else None


def leading_cause(table: Sequence[SwapResult]) -> SwapResult | None:
    """The one ingredient that is both necessary and sufficient.

    Where several are, the one whose value is proven to be foreign: it is the more specific. None where nothing parts
    them, or there is none.
    """
    causes = [row for row in table if row.is_cause]
    for standing in ("declared", "usual"):
        if len(causes) > 1 and any(row.standing == standing for row in causes):
            causes = [row for row in causes if row.standing == standing]
    return sole_cause(causes)
