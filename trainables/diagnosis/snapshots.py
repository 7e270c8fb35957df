"""Recent states to go back to."""

from __future__ import annotations

from collections import deque

from trainables.state import Snapshot, TrainState


class SnapshotRing:
    """Step 0's state, and the last `keep` states taken every `every` steps, in host memory."""

    def __init__(self, every: int, keep: int) -> None:
        self.every = every
        self.first: Snapshot | None = None
        self.recent: deque[Snapshot] = deque(maxlen=keep)

    def is_due(self, step: int) -> bool:
        """Whether the state before `step` is to be taken."""
        return step % self.every == 0

    def offer(self, state: TrainState, *, gradients: bool = False) -> None:
        """Take a snapshot where one is due, with `gradients` where a step looks at them; the first one is kept."""
        if self.is_due(state.step):
            self.add(state.snapshot(gradients=gradients))

    def add(self, snapshot: Snapshot) -> None:
        """Keep `snapshot`, the latest so far."""
        if self.first is None:
            self.first = snapshot
        else:
            self.recent.append(snapshot)

    def before(self, step: int, *, margin: int) -> list[Snapshot]:
        """Snapshots at least `margin` steps before `step`, latest first; step 0's is always the last resort."""
        assert self.first is not None
        usable = [snapshot for snapshot in reversed(self.recent) if snapshot.step <= step - margin]
        return [*usable, self.first]
