"""The course of one run: the events so far, what was done about each, and the steps that this makes of its recipe.

After a rollback the run goes on as a function of (config, seed, step, interventions); the course is what a checkpoint
keeps of it, as JSON.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

from trainables.config import TrialConfig
from trainables.detectors import Symptom
from trainables.diagnosis.verdict import Diagnosis
from trainables.ingredients import EvaluationStream, Ingredients, Stream, Swap, with_evaluation_swaps, with_swaps
from trainables.interventions import Intervention, build_swap
from trainables.recipe import Recipe

log = logging.getLogger(__name__)


class Action(StrEnum):
    """What is done about an event."""

    STOP = "stop"
    ROLLBACK = "rollback"
    RECORD = "record"


@dataclass(frozen=True)
class Decision:
    """An action, and what it rests on in words."""

    action: Action
    reason: str


@dataclass(frozen=True)
class Event:
    """A symptom that the run went on after."""

    action: Action
    kind: str
    onset: int
    step: int
    """Step at which it was confirmed."""
    last_step: int
    """Step at which it was last seen: one event may be confirmed again and again."""
    cause: str
    """Empty where it was not diagnosed."""
    reached: int
    """Steps done when it was confirmed, which a rollback runs again."""
    back_to: int | None = None
    """Steps done in the snapshot that the run went back to; None: it went on."""
    intervention: Intervention | None = None

    @classmethod
    def of(cls, action: Action, symptom: Symptom, diagnosis: Diagnosis | None, reached: int) -> Self:
        """The event of a symptom; a rollback takes the diagnosis's cure, from its snapshot."""
        cause = diagnosis.cause if diagnosis is not None else ""
        event = cls(action, symptom.kind, symptom.onset, symptom.step, symptom.step, cause, reached)
        if action is not Action.ROLLBACK:
            return event
        assert diagnosis is not None
        return replace(event, back_to=diagnosis.controls.snapshot_step, intervention=diagnosis.cure)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        text = self.intervention.describe() if self.intervention is not None else ""
        return {**asdict(self), "action": str(self.action), "text": text}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, through JSON too."""
        row = {key: value for key, value in values.items() if key != "text"}
        cure = Intervention.from_dict(row["intervention"]) if row["intervention"] is not None else None
        return cls(**{**row, "action": Action(row["action"]), "intervention": cure})


class Course:
    """What the steps of a run are made of, given its recipe, its faults, and the interventions so far.

    Args:
        config: the run.
        recipe: reference values of every ingredient.
        faults: swaps that the config injects.

    """

    def __init__(self, config: TrialConfig, recipe: Recipe, faults: Sequence[Swap]) -> None:
        self.config = config
        self.recipe = recipe
        self.faults = tuple(faults)
        self.events: list[Event] = []
        self._build()

    @property
    def interventions(self) -> list[Intervention]:
        """In the order in which they came."""
        return [event.intervention for event in self.events if event.intervention is not None]

    @property
    def rollbacks(self) -> int:
        """How often the run went back."""
        return sum(event.action is Action.ROLLBACK for event in self.events)

    @property
    def is_full(self) -> bool:
        """Whether as many events were recorded as may be: the run then goes on unwatched."""
        recorded = sum(event.action is Action.RECORD for event in self.events)
        return recorded >= self.config.diagnosis.max_events

    def decide(self, diagnosis: Diagnosis | None) -> Decision:
        """What to do about an event with this diagnosis (None: not diagnosed)."""
        config = self.config.diagnosis
        if config.on_event == "rollback":
            cure = diagnosis.cure if diagnosis is not None else None
            if cure is None:
                return Decision(Action.STOP, "no remedy was verified by a replay")
            if self.rollbacks >= config.max_rollbacks:
                return Decision(Action.STOP, f"{self.rollbacks} rollbacks, and diagnosis.max_rollbacks allows no more")
            number = f"rollback {self.rollbacks + 1} of {config.max_rollbacks}"
            return Decision(Action.ROLLBACK, f"{number}, with {cure.describe()}")
        return Decision(Action(config.on_event), f"diagnosis.on_event is {config.on_event}")

    def add(self, event: Event) -> None:
        """Go on after `event`."""
        self.events.append(event)
        self._build()

    def goes_on(self, symptom: Symptom) -> bool:
        """Whether the symptom is the last recorded event, confirmed again; it is then that event's last step.

        It is where the kind is the same and no healthy stretch as long as the detector's history lay between.
        """
        last = self.events[-1] if self.events else None
        if last is None or last.action is not Action.RECORD or last.kind != symptom.kind:
            return False
        if symptom.onset > last.last_step + self.config.detector.history:
            return False
        self.events[-1] = replace(last, last_step=symptom.step)
        return True

    def state_dict(self) -> list[dict[str, Any]]:
        """The events as JSON types."""
        return [event.to_dict() for event in self.events]

    def load_state_dict(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Go on after the events that `state_dict` gave."""
        self.events = [Event.from_dict(event) for event in events]
        self._build()

    def _build(self) -> None:
        """The streams: those of the config, with every intervention on top.

        A live-only fault, as a bit that flipped, does not come back in steps that a rollback runs again.
        """
        kept = [build_swap(intervention, self.recipe) for intervention in self.interventions]
        faulty = with_swaps(self.recipe.ingredients, self.faults)
        lasting = with_swaps(self.recipe.ingredients, [fault for fault in self.faults if not fault.live])
        evaluations = with_evaluation_swaps(self.recipe.evaluation, self.faults)
        reached = max((event.reached for event in self.events if event.back_to is not None), default=0)

        def once(step: int) -> Ingredients:
            return lasting(step) if step < reached else faulty(step)

        self.stream: Stream = with_swaps(once if reached else faulty, kept)
        """The run as it goes on."""
        self.replayed: Stream = with_swaps(lasting, kept)
        """The run as replays see it."""
        self.evaluations: EvaluationStream = with_evaluation_swaps(evaluations, kept)
