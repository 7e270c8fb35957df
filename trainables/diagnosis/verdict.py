"""The result of a diagnosis: the verdict and all that it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from trainables.detectors import Symptom
from trainables.diagnosis.causes import UNEXPLAINED
from trainables.diagnosis.culprits import NOBODY, Culprits
from trainables.diagnosis.ranking import RankedCause, ranked_causes
from trainables.diagnosis.swap_table import SwapResult
from trainables.interventions import Intervention


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
    def causes(self) -> list[RankedCause]:
        """The suspects, best first."""
        return ranked_causes(self.cause, self.group, self.confidence, self.table)

    @property
    def cure(self) -> Intervention | None:
        """The intervention that a replay proved; None where there is none."""
        return self.remedy.cure if self.remedy is not None and self.remedy.verified else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the layout of `diagnosis.json`."""
        content = asdict(self)
        content.pop("epoch")
        content["causes"] = [asdict(cause) for cause in self.causes]
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
        # They follow from the rest.
        told = {key: value for key, value in content.items() if key != "causes"}
        return cls(**{**told, **parts})
