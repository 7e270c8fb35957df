"""An event that no replay brings back: whether a sudden corruption of the state, as by a bit that flipped, made it."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.diagnosis.case import Case
from trainables.diagnosis.culprits import Culprits
from trainables.diagnosis.naming.edits import largest_change, layer_of, relative_change, same_bits
from trainables.diagnosis.naming.named import NamedCause
from trainables.diagnosis.replay import Replay, first_other_bits
from trainables.state import Snapshot

DEVICE = "an exact replay does not bring the event back: the device or non-determinism is the suspect"


@dataclass(frozen=True)
class Corruption:
    """What a second exact replay showed."""

    named: NamedCause
    equal_steps: int
    """Steps before the first other one whose bits are the run's own."""


def find_corruption(case: Case, exact: Replay, recorded: dict[int, float], live: Snapshot) -> Corruption | None:
    """The step and layer where the run left its own replay; None where two replays differ, or from the start on.

    live: the state that the run ended in; the same step's state of a replay is compared with it, on every rank.
    """
    step = first_other_bits(exact, recorded)
    if step is None or step == case.snapshot.step or not case.affords(1):
        return None
    case.progress("as run, again")
    again = case.replayer.run(case.snapshot, live.step)
    common = {s.step: s.loss for s in exact.signals}
    if first_other_bits(again, common) is not None:
        return None
    sound = case.state.snapshot().tensors
    changed = {n: t for n, t in live.tensors.items() if n in sound and not same_bits(t, sound[n])}
    weights = {n: t for n, t in changed.items() if n.startswith("parameter/")} or changed
    name, text = largest_change(sound, weights)
    size = relative_change(sound[name], live.tensors[name]) if name else 0.0
    found = case.state.ranks.gather((size, name, text))
    rank = max(range(len(found)), key=lambda k: found[k][0])
    _, name, text = found[rank]
    detail = (
        f"losses have the bits of the replay up to step {step - 1} and no longer from step {step} on; at the end {text}"
    )
    culprits = Culprits(layer=layer_of(name), rank=rank, step=step)
    return Corruption(NamedCause("silent_corruption", detail, culprits), step - case.snapshot.step)
