"""Sibling evidence: what the events of a sweep's other trials say about the cause of one.

The order of samples is a function of (seed, epoch), so trials of one seed see the same samples at the same position of
the sample stream (steps times batch), whatever their schedule and batch. Events of several trials at one position make
the data suspect, unless they share a change of the learning rate there too. Only a sibling with another order that
fails on the same ids convicts the data: neither position nor milestone follows the samples there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from trainables.config import TrialConfig
from trainables.schedules import build_schedule, change_points

LAG = 8
"""Steps that the onset of an event may lie after its cause: the detector's onset is the first suspicious loss."""
SHARED = 0.5
"""Share of the smaller set of culprits that two trials with different orders must have in common."""
BY_CHANCE = 3.0
"""How many times the overlap of two random draws an overlap of culprits must be."""


class Weight(StrEnum):
    """What the siblings say of the data."""

    CONVICTS = "convicts"
    SUSPECT = "suspect"
    MILESTONE = "milestone"


@dataclass(frozen=True)
class TrialEvent:
    """An event of one trial, as it was recorded."""

    run: str
    seed: int
    batch_size: int
    onset: int
    """First step of the event."""
    cause: str
    num_samples: int | None = None
    """Samples of the training set; None: not known."""
    schedule: str = ""
    """Anything that is equal for equal learning-rate schedules."""
    changed_at: int | None = None
    """Step of the last jump of the learning rate up to the onset; None: there is none."""
    sample_ids: frozenset[int] = frozenset()
    """Culprits that the diagnosis named."""

    @property
    def position(self) -> int:
        """Samples consumed before the onset."""
        return self.onset * self.batch_size

    @property
    def is_at_milestone(self) -> bool:
        """Whether the rate jumped shortly before."""
        return self.changed_at is not None and self.onset - self.changed_at <= LAG


@dataclass(frozen=True)
class SiblingEvidence:
    """What other trials say about the event of one."""

    run: str
    weight: Weight
    cites: tuple[str, ...]
    """The siblings that it rests on."""
    text: str
    """One sentence."""


def event_of(run: str, config: Mapping[str, Any], diagnosis: Mapping[str, Any]) -> TrialEvent:
    """The event of a trial, from its whole config and its diagnosis, both as JSON has them."""
    trial = TrialConfig.parse(config)
    onset = int(diagnosis["symptom"]["onset"])
    culprits = diagnosis.get("culprits") or {}
    rate_at = build_schedule(trial.schedule, 1.0, trial.max_steps)
    start = max(0, onset - LAG)
    jumps = change_points([rate_at(step) for step in range(start, onset + 3)])
    changed_at = max((start + jump for jump in jumps if start + jump <= onset), default=None)
    if diagnosis["cause"] == "lr_jump":
        # Whatever made it jump, the config's schedule or not.
        changed_at = onset
    return TrialEvent(
        run=run,
        seed=trial.seed,
        batch_size=trial.global_batch_size,
        onset=onset,
        cause=diagnosis["cause"],
        num_samples=trial.data.train_samples,
        schedule=trial.schedule.model_dump_json(),
        changed_at=changed_at,
        sample_ids=frozenset(culprits.get("sample_ids") or ()),
    )


def compare_events(events: Sequence[TrialEvent]) -> list[SiblingEvidence]:
    """Evidence for each event that has siblings to cite, in the order of `events`; at most one piece an event.

    >>> a, b = (TrialEvent(run, 0, size, 640 // size, "unexplained", 1500) for run, size in (("a", 16), ("b", 32)))
    >>> [(found.run, str(found.weight), found.cites) for found in compare_events([a, b])]
    [('a', 'suspect', ('b',)), ('b', 'suspect', ('a',))]
    """
    found = (_evidence(event, [other for other in events if other.run != event.run]) for event in events)
    return [evidence for evidence in found if evidence is not None]


def _evidence(event: TrialEvent, others: Sequence[TrialEvent]) -> SiblingEvidence | None:
    same_ids = [other for other in others if other.seed != event.seed and share_culprits(event, other)]
    if same_ids:
        shared = sorted(frozenset.intersection(event.sample_ids, *(other.sample_ids for other in same_ids)))
        names = f", all on {_listed(shared)}" if shared else ""
        text = f"{_runs(same_ids)} with another sample order fail on the same samples{names}: the data is to blame"
        return SiblingEvidence(event.run, Weight.CONVICTS, _names(same_ids), text)
    near = [other for other in others if other.seed == event.seed and same_position(event, other)]
    apart = [other for other in near if not shares_milestone(event, other)]
    at = f"position {event.position} of the sample stream"
    if apart:
        text = f"{_runs(apart)} with another schedule or batch fail at {at} too: the data there is suspect"
        return SiblingEvidence(event.run, Weight.SUSPECT, _names(apart), text)
    if near:
        text = f"{_runs(near)} fail at {at} too, but share the schedule: this says nothing of the data"
        return SiblingEvidence(event.run, Weight.MILESTONE, _names(near), text)
    return None


def same_position(one: TrialEvent, other: TrialEvent) -> bool:
    """Whether the onsets may go back to the same samples: each cause lies up to LAG steps before its onset."""
    spans = [(event.position - LAG * event.batch_size, event.position + event.batch_size) for event in (one, other)]
    return spans[0][0] < spans[1][1] and spans[1][0] < spans[0][1]


def shares_milestone(one: TrialEvent, other: TrialEvent) -> bool:
    """Whether the learning rate explains the coincidence: the same run again, or a jump of the rate shortly before."""
    same_run = one.batch_size == other.batch_size and one.schedule == other.schedule
    return same_run or (one.is_at_milestone and other.is_at_milestone)


def share_culprits(one: TrialEvent, other: TrialEvent) -> bool:
    """Whether two sets of named samples overlap by far more than chance would have it."""
    shared = len(one.sample_ids & other.sample_ids)
    smaller = min(len(one.sample_ids), len(other.sample_ids))
    by_chance = len(one.sample_ids) * len(other.sample_ids) / one.num_samples if one.num_samples else 0.0
    return shared > 0 and shared >= SHARED * smaller and shared >= BY_CHANCE * by_chance


def _names(events: Sequence[TrialEvent]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(event.run for event in events))


def _runs(events: Sequence[TrialEvent]) -> str:
    names = _names(events)
    return f"{len(names)} sibling{'s' if len(names) > 1 else ''} ({', '.join(names)})"


def _listed(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:8]))
    return f"samples {shown}" + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
