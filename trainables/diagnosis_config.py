"""The section of a config that says how a symptom is diagnosed, and what the run does about it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainables.errors import complaint
from trainables.section import Fraction, Positive, PositiveInt, Section


class DiagnosisConfig(Section):
    """The replay diagnosis."""

    enabled: bool = True
    """false: a trial with a symptom stops without a cause."""
    snapshot_every: PositiveInt = 10
    """Steps between snapshots kept in memory for replay."""
    snapshots: Annotated[int, Field(ge=2)] = 4
    """Recent snapshots kept, besides step 0's."""
    horizon: PositiveInt = 16
    """Steps replayed after the onset of the symptom."""
    replicates: Annotated[int, Field(ge=1, le=32)] = 2
    """Further replays, each with another placebo, that confirm the leading causes."""
    present_score: Positive = 6.0
    """tau_hi: severity, in noise units, from which an event counts as present."""
    absent_score: Positive = 3.0
    """tau_lo: severity up to which it counts as absent; between the two a replay is inconclusive."""
    max_replayed_steps: PositiveInt = 750
    """Steps that a diagnosis may replay: 15 % of a run of 5,000. Used up, the verdict is `unexplained`, with what was
    learned."""
    max_seconds: Positive = 600.0
    """Seconds that it may take, likewise; below timeout_s."""
    min_confidence: Fraction = 0.6
    """Below it the verdict is `unexplained`."""
    on_event: Literal["stop", "rollback", "record"] = "stop"
    """stop: the run ends with the diagnosis. rollback: it goes back to the snapshot before the event and on with the
    remedy that a replay has verified; where none was, it stops. record: it goes on, and the detector is armed anew on
    the level that it finds."""
    max_rollbacks: Annotated[int, Field(ge=1)] = 3
    """Rollbacks of one run; at the next event it stops."""
    max_events: PositiveInt = 10
    """Events that on_event: record writes down; after the last one the run goes on unwatched."""
    bundle: str | None = None
    """Folder for a bundle of each diagnosis, from which `epoch14 replay` repeats it elsewhere; null: none."""
    timeout_s: Positive = 900.0
    """Seconds after which stopper and scheduler may end a trial whose diagnosis has not come."""

    @model_validator(mode="after")
    def _rolls_back_to_something(self) -> Self:
        if self.on_event == "rollback" and not self.enabled:
            allowed = "stop or record without a diagnosis"
            raise ValueError(complaint("diagnosis.on_event", self.on_event, allowed, "set diagnosis.enabled to true"))
        return self

    @model_validator(mode="after")
    def _thresholds_are_apart(self) -> Self:
        if self.absent_score >= self.present_score:
            allowed = f"below diagnosis.present_score ({self.present_score:g})"
            raise ValueError(complaint("diagnosis.absent_score", self.absent_score, allowed, "lower it"))
        return self
