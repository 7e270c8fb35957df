"""Why running statistics that are healed by a recalibration are bad: edited, rounded, slow, or carried along."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainables.diagnosis.evaluation_case import EvaluationCase, Reference
from trainables.diagnosis.evaluation_severity import Score
from trainables.diagnosis.evaluation_statistics import (
    Statistics,
    own_statistics,
    recalibrate,
    set_statistics,
    training_batches,
)
from trainables.diagnosis.naming import NamedCause
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.ingredients import Edit, Stream, Swap, with_swaps
from trainables.loop import run_steps
from trainables.norms import NormSettings, batch_norms
from trainables.state import Snapshot

USUAL = NormSettings()
"""torch's momentum and epsilon."""
SOUND_MOMENTA = (0.003, 0.3)
"""Least and largest momentum that is practice: TensorFlow's ResNets have 0.003, torch's 0.1."""
LOOK_BACK = 512
"""Steps in which an edit of the statistics is looked for."""
TRIED = 8
"""Edited steps at most whose edits are tried."""
REPLAYED = (8, 128)
"""Least and largest number of steps of a replay of the statistics."""


@dataclass(frozen=True)
class Cause:
    """A cause, and the severity of the replay that proved its cure; None: the recalibration is the cure."""

    named: NamedCause
    cured: float | None = None


def name_running_statistics(
    case: EvaluationCase,
    snapshots: SnapshotRing,
    others: Sequence[Reference],
    recalibrated: Statistics,
    expected: Score,
) -> Cause:
    """The cause, the surest evidence first.

    others: references of the other ingredients, under which replays are scored against `expected`.
    """
    edited = find_edit(case)
    if edited is not None:
        return Cause(edited)
    momentum = run_momentum(case)
    snapshot = choose_snapshot(case.before.step, snapshots)
    if is_foreign(case, momentum) and snapshot is not None:
        usual = Swap(f"momentum {USUAL.momentum:g}", lambda i: replace(i, norm=USUAL))
        cured = replay_statistics(case, snapshot, [usual], others, expected)
        if case.thresholds.is_absent(cured):
            text = f"momentum {momentum:g}; {case.before.step - snapshot.step} steps at {USUAL.momentum:g} heal it"
            return Cause(NamedCause("bn_momentum", text), cured)
    told = name_by_values(case, snapshots)
    if told is not None:
        return Cause(told)
    if snapshot is not None and case.thresholds.is_present(replay_statistics(case, snapshot, [], others, expected)):
        return name_lag(case, snapshot, others, expected)
    return Cause(NamedCause("bn_stats_corrupt", largest_change(case.own, recalibrated)))


def name_by_values(case: EvaluationCase, snapshots: SnapshotRing) -> NamedCause | None:
    """What the statistics' values tell without a replay: that they stand still, or are rounded; None: neither."""
    if is_initial(case.own):
        return NamedCause("bn_frozen", "the running statistics are still those that the model started with")
    still = still_since(case, snapshots)
    if still is not None:
        return NamedCause("bn_frozen", f"no running statistic has changed since step {still}")
    if is_rounded(case.own):
        return NamedCause("bn_low_precision", "every running statistic is a bfloat16 number")
    return None


def name_lag(case: EvaluationCase, snapshot: Snapshot, others: Sequence[Reference], expected: Score) -> Cause:
    """Statistics that were right fall behind the weights again in a replay: shrinking weights, else the momentum."""
    run, value = case.trained.optim.weight_decay, sound_decay(case)
    less = Swap(f"weight decay {value:g}", lambda i: replace(i, optim=replace(i.optim, weight_decay=value)))
    if run > value:
        cured = replay_statistics(case, snapshot, [less], others, expected)
        if case.thresholds.is_absent(cured):
            text = f"weight decay {run:g} shrinks the weights faster than the statistics follow; {value:g} heals it"
            return Cause(NamedCause("weight_decay", text), cured)
    text = f"recalibrated at step {snapshot.step}, the statistics lag behind the weights again by {case.before.step}"
    return Cause(NamedCause("bn_momentum", text))


def sound_decay(case: EvaluationCase) -> float:
    """The config's weight decay where the run has another one, else none."""
    declared = case.config.optim.weight_decay
    return declared if case.trained.optim.weight_decay != declared else 0.0


def find_edit(case: EvaluationCase) -> NamedCause | None:
    """The first of the latest steps whose edits of the state move the running statistics; None: none does."""
    first = max(0, case.last_step - LOOK_BACK)
    edits = [case.stream(step).edits for step in range(first, case.last_step + 1)]
    # The same on all ranks: what only one rank's edit does is seen by all.
    edited = case.state.ranks.sum(torch.tensor([float(bool(found)) for found in edits])).nonzero().flatten().tolist()
    for place in edited[:TRIED]:
        kind = edit_of_statistics(case, edits[place])
        if kind == "rounds":
            text = f"an edit rounds the running statistics to bfloat16 at step {first + place}"
            return NamedCause("bn_low_precision", text)
        if kind == "moves":
            return NamedCause("bn_stats_corrupt", f"an edit changes the running statistics at step {first + place}")
    return None


@torch.no_grad()
def edit_of_statistics(case: EvaluationCase, edits: tuple[Edit, ...]) -> str:
    """What `edits` do to running statistics of 1/3: moves, rounds, or nothing. The live state is put back."""
    state = case.state
    for buffer in state.buffers:
        # A number that bfloat16 doesn't have, and that no factor leaves alone.
        if buffer.is_floating_point():
            buffer.fill_(1.0 / 3.0)
    for edit in edits:
        edit(state)
    values = torch.cat([buffer.flatten().float() for buffer in running(dict(state.model.named_buffers()))])
    moved = float((values != torch.full_like(values, 1.0 / 3.0)).any())
    rounded = float(torch.equal(values, torch.full_like(values, 1.0 / 3.0).bfloat16().float()))
    state.restore(case.before)
    moved, rounded = state.ranks.total(moved), state.ranks.total(rounded)
    return "nothing" if moved == 0 else "rounds" if rounded == state.ranks.world_size else "moves"


def run_momentum(case: EvaluationCase) -> float:
    """Momentum of the last step's running statistics."""
    if case.trained.norm is not None:
        return case.trained.norm.momentum
    return batch_norms(case.state.model)[0].momentum or 0.0


def is_foreign(case: EvaluationCase, momentum: float) -> bool:
    """Whether the momentum is not the config's, or one that is no practice."""
    least, largest = SOUND_MOMENTA
    return momentum != case.config.model.bn_momentum or not least <= momentum <= largest


def choose_snapshot(step: int, snapshots: SnapshotRing) -> Snapshot | None:
    """The oldest recent snapshot that a replay up to `step` may start from; None where there is none."""
    least, most = REPLAYED
    usable = [s for s in snapshots.before(step, margin=least) if least <= step - s.step <= most]
    return usable[-1] if usable else None


def replay_statistics(
    case: EvaluationCase, snapshot: Snapshot, swaps: Sequence[Swap], others: Sequence[Reference], expected: Score
) -> float:
    """Severity after a replay from recalibrated statistics of the snapshot, the other ingredients at their reference.

    The live state is put back.
    """
    case.progress("replay of the running statistics")
    state, stop = case.state, case.before.step
    stream: Stream = with_swaps(case.stream, swaps)
    state.restore(snapshot)
    set_statistics(state, recalibrate(state, training_batches(case.recipe, case.stream, case.before.step - 1, 0)))
    steps = run_steps(state, stream, snapshot.step, stop, loader_threads=case.config.data.loader_threads)
    case.replayed_steps += sum(1 for _ in steps)
    replayed = Reference("running_statistics", Swap("replayed"), own_statistics(state))
    score = case.score("replayed statistics", [*others, replayed])
    state.restore(case.before)
    return case.severity(score, expected)


def is_initial(statistics: Statistics) -> bool:
    """Whether every running mean is 0, and every running variance 1."""
    named = statistics.buffers.items()
    means, variances = ([b for n, b in named if n.endswith(s)] for s in ("running_mean", "running_var"))
    return not any(bool(b.any()) for b in means) and all(bool((b == 1.0).all()) for b in variances)


def still_since(case: EvaluationCase, snapshots: SnapshotRing) -> int | None:
    """Step of the first snapshot since which no running statistic has changed by a bit, on rank 0; None: they move."""
    own = {f"buffer/{name}": b.cpu() for name, b in case.own.buffers.items() if is_running(name)}
    same = [
        snapshot.step
        for snapshot in snapshots.before(case.before.step, margin=REPLAYED[0])
        if all(torch.equal(snapshot.tensors[name], b) for name, b in own.items())
    ]
    found: int | None = case.state.ranks.broadcast_json(min(same, default=None))
    return found


def is_rounded(statistics: Statistics) -> bool:
    """Whether every running statistic is a bfloat16 number."""
    return all(torch.equal(b, b.bfloat16().to(b.dtype)) for b in running(statistics.buffers))


def largest_change(own: Statistics, recalibrated: Statistics) -> str:
    """The layer whose running variance is furthest from the recalibrated one."""
    furthest, text = -1.0, ""
    for name in (name for name in own.buffers if name.endswith("running_var")):
        layer = name.removesuffix(".running_var")
        variance, sound = own.buffers[name].double(), recalibrated.buffers[name].double()
        if not bool(torch.isfinite(variance).all()):
            return f"the running variance of {layer} is not finite"
        if not bool(torch.isfinite(sound).all()):
            return f"the recalibrated variance of {layer} is not finite"
        ratios = variance.clamp_min(1e-30) / sound.clamp_min(1e-30)
        ratio = float(ratios[ratios.log().abs().argmax()])
        if abs(math.log(ratio)) > furthest:
            furthest, text = (
                abs(math.log(ratio)),
                f"a running variance of {layer} is {ratio:.3g} times the recalibrated",
            )
    return text


def running(buffers: dict[str, Tensor]) -> list[Tensor]:
    """The running means and variances among the buffers of a model."""
    return [b for name, b in buffers.items() if is_running(name)]


def is_running(name: str) -> bool:
    """Whether a buffer of that name is a running mean or variance."""
    return name.rpartition(".")[2] in ("running_mean", "running_var")
