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

    def offer(self, state: TrainState, step: int) -> None:
        """Take a snapshot where `step`, the next to run, is due."""
        if step % self.every:
            return
        snapshot = state.snapshot(step)
        if self.first is None:
            self.first = snapshot
        else:
            self.recent.append(snapshot)

    def before(self, step: int, *, margin: int) -> list[Snapshot]:
        """Snapshots at least `margin` steps before `step`, latest first; step 0's is always the last resort."""
        assert self.first is not None
        usable = [snapshot for snapshot in reversed(self.recent) if snapshot.step <= step - margin]
        return [*usable, self.first]
