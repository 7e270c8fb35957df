"""An eval gap that one rank makes: its weights are not the others', so its share of the split is scored by another net.

In a sound run all ranks hold the same weights. Batch norm may hide in training what a foreign weight of one rank does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainables.diagnosis.causes import group_of
from trainables.diagnosis.confidence import confidence_of
from trainables.diagnosis.culprits import Culprits
from trainables.diagnosis.evaluation_case import EvaluationCase, Reference
from trainables.diagnosis.evaluation_severity import Score
from trainables.diagnosis.evaluation_statistics import Statistics, recalibrate, training_batches
from trainables.diagnosis.naming.edits import largest_change, layer_of, relative_change, same_bits
from trainables.diagnosis.naming.named import NamedCause
from trainables.diagnosis.references.usual import odd_rank
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.swap_table import SwapResult
from trainables.diagnosis.verdict import Controls, Diagnosis
from trainables.ingredients import Swap
from trainables.state import Snapshot


def diagnose_ranks(case: EvaluationCase, snapshots: SnapshotRing) -> Diagnosis | None:
    """The verdict where the weights of one rank make the gap; None where they don't, or are those of the others.

    With a sound rank's weights on every rank, and statistics counted anew under them, the gap is gone; with the guilty
    one's under the same statistics it is there. The live state is put back.
    """
    if odd_rank(case.state.ranks, case.before) is None:
        return None
    guilty = furthest_rank(case, snapshots.before(case.before.step, margin=0))
    sound = 0 if guilty else 1
    as_run, repeated = case.score("as run", []), case.score("as run, again", [])
    named = share_weights_of(case, sound, guilty)
    statistics, others = (counted(case, draw) for draw in range(2))
    healed, again = (score_with(case, s, f"weights of rank {sound}") for s in (statistics, others))
    share_weights_of(case, guilty, sound)
    alone = score_with(case, statistics, f"weights of rank {guilty}")
    case.state.restore(case.before)
    exact, without, with_it = (case.severity(score, healed) for score in (as_run, again, alone))
    swap = f"the weights of rank {sound} on every rank"
    answers = case.thresholds.necessary(without), case.thresholds.sufficient(with_it)
    row = SwapResult("rank_state", swap, without, answers[0], with_it, answers[1], named.evidence, "declared")
    if not (row.is_cause and case.thresholds.is_present(exact) and case.severity.has_learned(healed)):
        return None
    # nan is not itself, but here it is.
    same = repr(as_run) == repr(repeated)
    return verdict(case, named, row, Controls(exact, same, case.before.step, horizon=0)) if same else None


def verdict(case: EvaluationCase, named: NamedCause, row: SwapResult, controls: Controls) -> Diagnosis:
    """What is reported of it."""
    return Diagnosis(
        symptom=case.symptom,
        epoch=case.recipe.sampler.epoch(case.symptom.onset),
        cause=named.name,
        group=group_of(named.name, row.ingredient),
        confidence=round(confidence_of(2, 2, "declared"), 3),
        summary=f"{case.symptom.kind} at step {case.symptom.onset}: {named.name} ({named.evidence}). With {row.swap} "
        "the gap is gone, and with the other's it is there.",
        table=[row],
        controls=controls,
        culprits=named.culprits,
    )


def furthest_rank(case: EvaluationCase, snapshots: Sequence[Snapshot]) -> int:
    """The rank whose weights moved furthest since the newest of `snapshots` in which all ranks had the same."""
    ranks = case.state.ranks
    common = next(snapshot for snapshot in snapshots if odd_rank(ranks, snapshot) is None)
    weights = {name: t for name, t in case.before.tensors.items() if name.startswith("parameter/")}
    moved = max(relative_change(common.tensors[name], tensor) for name, tensor in weights.items())
    found = ranks.gather(moved)
    return found.index(max(found))


@torch.no_grad()
def share_weights_of(case: EvaluationCase, source: int, other: int) -> NamedCause:
    """Give every rank the weights of rank `source`; the cause by what rank `other` had instead."""
    state = case.state
    state.restore(case.before)
    live = {name: tensor for name, tensor in state.tensors().items() if name.startswith(("parameter/", "average/"))}
    for tensor in live.values():
        state.ranks.broadcast(tensor, source)
    shared = {name: tensor.cpu() for name, tensor in live.items() if name.startswith("parameter/")}
    own = {name: case.before.tensors[name] for name in shared}
    differ = {name: tensor for name, tensor in own.items() if not same_bits(tensor, shared[name])}
    count, (name, text) = state.ranks.gather((len(differ), largest_change(shared, differ)))[other]
    if count == 1:
        evidence = f"against rank {source}, {text} on rank {other}"
        return NamedCause("silent_corruption", evidence, Culprits(layer=layer_of(name), rank=other))
    return NamedCause("rank_desync", f"{count} tensors of rank {other} are not rank {source}'s", Culprits(rank=other))


def counted(case: EvaluationCase, draw: int) -> Statistics:
    """Running statistics under the weights that the state has; `draw` keys the samples."""
    return recalibrate(case.state, training_batches(case.recipe, case.stream, case.last_step, draw))


def score_with(case: EvaluationCase, statistics: Statistics, label: str) -> Score:
    """The evaluation with these statistics under the weights that the state has."""
    return case.score(label, [Reference("running_statistics", Swap("counted anew"), statistics)])
