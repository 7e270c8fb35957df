"""What a guarded loop did, step by step, and the states to go back to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from trainables.guard.state import LoopSnapshot, RandomState
from trainables.guard.stepper import Groups, StepPlan
from trainables.step_signals import StepSignals

REMEMBERED = 512
"""Steps whose hyperparameters and random states are kept, about 10 kB each."""


@dataclass(frozen=True)
class StepRecord:
    """One step as it was run."""

    plan: StepPlan
    """With the hyperparameters that its update used."""
    signals: StepSignals | None
    """None: the step was skipped."""
    randomness: RandomState
    """The global generators before its batch was made."""


class History:
    """The last steps, and the last `keep` snapshots, taken every `every` steps."""

    def __init__(self, every: int, keep: int) -> None:
        self.every = every
        self.keep = keep
        self.records: deque[StepRecord] = deque(maxlen=max(REMEMBERED, every * (keep + 1)))
        self.snapshots: deque[LoopSnapshot] = deque(maxlen=keep)

    def is_due(self, step: int) -> bool:
        """Whether the state before `step` is to be taken; the first one always is."""
        return not self.snapshots or step % self.every == 0

    def by_step(self) -> dict[int, StepRecord]:
        """The records by the number of their step."""
        return {record.plan.step: record for record in self.records}

    def usable(self, step: int) -> list[LoopSnapshot]:
        """Snapshots of the state before `step` or earlier, latest first."""
        return [snapshot for snapshot in reversed(self.snapshots) if snapshot.step <= step]

    def rates(self) -> tuple[int, list[float]]:
        """The first remembered step, and the first group's rate from it on, the last one held a while.

        A jump at the very last step is then one to `change_points`, which looks at both sides.
        """
        rates = [_rate(record.plan.groups) for record in self.records]
        return self.records[0].plan.step, [*rates, *rates[-1:] * 2]

    def rewind(self, snapshot: LoopSnapshot) -> None:
        """Forget the steps from the snapshot on, and the snapshots after it."""
        self.records = deque((r for r in self.records if r.plan.step < snapshot.step), self.records.maxlen)
        self.snapshots = deque((s for s in self.snapshots if s.step <= snapshot.step), self.keep)

    def forget_states(self) -> None:
        """Drop the snapshots: those of a run that is ill are nothing to go back to."""
        self.snapshots.clear()

    def healthy_batches(self, before: int) -> list[int]:
        """Numbers of the batches trained on before step `before`, oldest first, each once."""
        numbers = (r.plan.batch for r in self.records if r.plan.step < before)
        return list(dict.fromkeys(_present(numbers)))


def _present(numbers: Iterable[int | None]) -> Iterable[int]:
    return (number for number in numbers if number is not None)


def _rate(groups: Groups | None) -> float:
    return float(groups[0].get("lr", 0.0)) if groups else 0.0
