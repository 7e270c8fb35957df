"""Recent states to go back to."""

from __future__ import annotations

from collections import deque

from trainables.state import Snapshot, TrainState

OLDER = 2
"""Sparse snapshots kept besides the recent ones."""


class SnapshotRing:
    """Step 0's state, the last `keep` states taken every `every` steps, and OLDER sparse ones, in host memory."""

    def __init__(self, every: int, keep: int) -> None:
        self.every = every
        self.sparse = 2 * every * keep
        """Steps between the older ones: of a fault that takes long to show, the recent states know nothing else."""
        self.first: Snapshot | None = None
        self.recent: deque[Snapshot] = deque(maxlen=keep)
        self.older: deque[Snapshot] = deque(maxlen=OLDER)

    @property
    def memory(self) -> int:
        """Bytes of all tensors that are kept."""
        kept = {snapshot.step: snapshot for snapshot in (self.first, *self.older, *self.recent) if snapshot is not None}
        return sum(t.numel() * t.element_size() for snapshot in kept.values() for t in snapshot.tensors.values())

    def is_due(self, step: int) -> bool:
        """Whether the state before `step` is to be taken."""
        return step % self.every == 0

    def offer(self, state: TrainState, *, looks_at_gradients: bool = False) -> None:
        """Take a snapshot where one is due; the first one is kept.

        looks_at_gradients: the next step does not clear them first. Otherwise they are cleared now, which that step
        begins with; what an optimizer leaves of them all the same goes with the snapshot.
        """
        if self.is_due(state.step):
            if not looks_at_gradients:
                state.optimizer.zero_grad(set_to_none=True)
            self.add(state.snapshot(gradients=True))

    def add(self, snapshot: Snapshot) -> None:
        """Keep `snapshot`, the latest so far."""
        if self.first is None:
            self.first = snapshot
        else:
            self.recent.append(snapshot)
            if snapshot.step % self.sparse == 0:
                self.older.append(snapshot)

    def rewind(self, step: int) -> Snapshot:
        """The snapshot at `step`, which must be there; later ones are forgotten."""
        found = self.before(step, margin=0)[0]
        assert found.step == step
        self.recent, self.older = (
            deque((s for s in kept if s.step <= step), maxlen=kept.maxlen) for kept in (self.recent, self.older)
        )
        return found

    def before(self, step: int, *, margin: int) -> list[Snapshot]:
        """Snapshots at least `margin` steps before `step`, latest first; step 0's is always the last resort."""
        assert self.first is not None
        kept = {snapshot.step: snapshot for snapshot in (*self.older, *self.recent)}
        return [*(kept[k] for k in sorted(kept, reverse=True) if k <= step - margin), self.first]
