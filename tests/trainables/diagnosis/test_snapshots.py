"""The ring keeps step 0's state and the latest few."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from trainables.diagnosis.snapshots import SnapshotRing
from trainables.state import TrainState

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.diagnosis.conftest import MakeSmall


@pytest.fixture(scope="module")
def state(small: MakeSmall, tiny: Tiny) -> TrainState:
    """Any state."""
    return small(tiny()).trial.state


@pytest.fixture
def ring(state: TrainState) -> SnapshotRing:
    """Of a run that has done 67 steps."""
    ring = SnapshotRing(every=10, keep=3)
    for state.step in range(68):
        ring.offer(state)
    return ring


def test_the_first_and_the_latest_are_kept(ring: SnapshotRing) -> None:
    """Step 0 stays; of the others the last three."""
    assert ring.first is not None
    assert ring.first.step == 0
    assert [snapshot.step for snapshot in ring.recent] == [40, 50, 60]


@pytest.mark.parametrize(
    ("step", "margin", "expected"),
    [
        (67, 3, [60, 50, 40, 0]),
        (63, 3, [60, 50, 40, 0]),
        (62, 3, [50, 40, 0]),
        (60, 0, [60, 50, 40, 0]),
        (60, 1, [50, 40, 0]),
        (35, 3, [0]),
        (0, 0, [0]),
        (1, 3, [0]),
    ],
)
def test_before_gives_the_latest_first(ring: SnapshotRing, step: int, margin: int, expected: list[int]) -> None:
    """Those at least `margin` steps before; step 0's is the last resort, whatever the margin."""
    assert [snapshot.step for snapshot in ring.before(step, margin=margin)] == expected


def test_a_rewound_ring_knows_nothing_of_later_steps(state: TrainState) -> None:
    """The sparse snapshots of the stretch that is run again are forgotten with the recent ones."""
    ring = SnapshotRing(every=10, keep=3)
    for state.step in range(131):
        ring.offer(state)
    assert [snapshot.step for snapshot in ring.before(200, margin=0)] == [130, 120, 110, 60, 0]
    assert ring.rewind(110).step == 110
    assert [snapshot.step for snapshot in ring.before(200, margin=0)] == [110, 60, 0]


def test_before_anything_was_pushed_out_step_0_comes_once(state: TrainState) -> None:
    """A young run has step 0's snapshot alone, not twice."""
    ring = SnapshotRing(every=5, keep=2)
    state.step = 0
    ring.offer(state)
    assert [snapshot.step for snapshot in ring.before(4, margin=3)] == [0]
    state.step = 5
    ring.offer(state)
    assert [snapshot.step for snapshot in ring.before(9, margin=3)] == [5, 0]


def test_the_ring_holds_copies(state: TrainState) -> None:
    """What the run does next leaves them as they were."""
    ring = SnapshotRing(every=1, keep=2)
    ring.offer(state)
    ring.offer(state)
    state.add_weight_noise(0.1, seed=1)
    ring.offer(state)
    assert ring.first is not None
    name = "parameter/0.weight"
    assert torch.equal(ring.first.tensors[name], ring.recent[0].tensors[name])
    assert not torch.equal(ring.recent[0].tensors[name], ring.recent[1].tensors[name])
    state.restore(ring.first)


def test_gradients_are_kept_where_the_next_step_finds_them(state: TrainState) -> None:
    """Those that it clears first are left out; not where it doesn't, nor where the optimizer clears nothing."""

    def kept(*, looks_at_gradients: bool = False) -> bool:
        for parameter in state.parameters:
            parameter.grad = torch.ones_like(parameter)
        ring = SnapshotRing(every=1, keep=1)
        ring.offer(state, looks_at_gradients=looks_at_gradients)
        assert ring.first is not None
        return any(name.startswith("gradient/") for name in ring.first.tensors)

    assert not kept()
    assert kept(looks_at_gradients=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state.optimizer, "zero_grad", lambda set_to_none: None)
        assert kept()
    state.optimizer.zero_grad()
