"""Which fault of the state it is: the edit is applied to a copy, and what it changed is looked at."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainables.diagnosis.case import Case
from trainables.diagnosis.culprits import Culprits
from trainables.diagnosis.naming.effects import edited, state_before
from trainables.diagnosis.naming.named import NamedCause
from trainables.diagnosis.references import Reference
from trainables.norms import batch_norms
from trainables.state import TrainState


def name_edit(case: Case, reference: Reference) -> NamedCause:
    """Moments zeroed, statistics or scales of batch norm changed, one rank's weights moved, one value flipped."""
    since = case.snapshot.step if reference.since is None else max(reference.since, case.snapshot.step)
    before = state_before(case, since)
    after = edited(case, before)
    mine = sorted(name for name, tensor in after.items() if not same_bits(tensor, before.tensors[name]))
    everyone = case.state.ranks.gather(mine)
    ranks = [rank for rank, names in enumerate(everyone) if names]
    if ranks and len(ranks) < len(everyone):
        return name_one_rank(case, before.tensors, after, ranks[0], since)
    return name_change(case.state, before.tensors, {name: after[name] for name in mine}, since)


def name_change(
    state: TrainState, before: Mapping[str, Tensor], changed: Mapping[str, Tensor], step: int
) -> NamedCause:
    """By which tensors changed, and how."""
    culprits, norms = Culprits(step=step), norm_weights(state)
    if changed and all(name.startswith("optimizer/") for name in changed):
        return NamedCause("optimizer_state_lost", f"{len(changed)} moments became 0 at step {step}", culprits)
    if changed and all(name.startswith(("buffer/", "average/")) for name in changed):
        if all(torch.equal(tensor, before[name].bfloat16().to(tensor.dtype)) for name, tensor in changed.items()):
            return NamedCause("bn_low_precision", f"statistics rounded to bfloat16 from step {step} on", culprits)
        factor = median_ratio(before, changed)
        return NamedCause("bn_stats_corrupt", f"statistics times {factor:.3g} at step {step}", culprits)
    if changed and all(name in norms for name in changed):
        factor = median_ratio(before, changed)
        return NamedCause("bn_gamma_init", f"gammas times {factor:.3g} at step {step}", culprits)
    name, text = largest_change(before, changed)
    return NamedCause("silent_corruption", f"{text} at step {step}", Culprits(layer=layer_of(name), step=step))


def name_one_rank(
    case: Case, before: Mapping[str, Tensor], after: Mapping[str, Tensor], rank: int, step: int
) -> NamedCause:
    """A whole set of weights that moved on one rank, or one value of it."""
    changed = {name: tensor for name, tensor in after.items() if not same_bits(tensor, before[name])}
    count, text = case.state.ranks.gather((len(changed), largest_change(before, changed)))[rank]
    if count == 1:
        culprits = Culprits(layer=layer_of(text[0]), rank=rank, step=step)
        return NamedCause("silent_corruption", f"{text[1]} on rank {rank} at step {step}", culprits)
    return NamedCause(
        "rank_desync", f"{count} tensors of rank {rank} changed alone at step {step}", Culprits(rank=rank, step=step)
    )


def norm_weights(state: TrainState) -> set[str]:
    """Names of batch norm's gammas among the state's tensors."""
    layers = set(batch_norms(state.model))
    return {f"parameter/{name}.weight" for name, module in state.model.named_modules() if module in layers}


def largest_change(before: Mapping[str, Tensor], changed: Mapping[str, Tensor]) -> tuple[str, str]:
    """The tensor whose largest change is most in units of its own scale, and a sentence about it."""
    sizes = {name: relative_change(before[name], tensor) for name, tensor in changed.items()}
    if not sizes:
        return "", "nothing changed"
    name = max(sizes, key=sizes.__getitem__)
    count = int((changed[name] != before[name]).sum())
    return name, f"{count} of {changed[name].numel()} values of {layer_of(name)} changed, by {sizes[name]:.3g} scales"


def relative_change(before: Tensor, after: Tensor) -> float:
    """Largest change of a value over the root mean square of the tensor before; huge where it is not finite."""
    scale = max(float(before.double().square().mean().sqrt()), 1e-12)
    change = float((after.double() - before.double()).abs().max())
    return min(change / scale, 1e300) if change == change else 1e300  # noqa: PLR0124 - nan


def median_ratio(before: Mapping[str, Tensor], changed: Mapping[str, Tensor]) -> float:
    """Median of what the values were multiplied by."""
    ratios = torch.cat([(tensor / before[name]).flatten().float() for name, tensor in changed.items()])
    return float(ratios[torch.isfinite(ratios)].median())


def layer_of(name: str) -> str:
    """`parameter/layer1.0.conv1.weight` -> `layer1.0.conv1.weight`."""
    return name.partition("/")[2]


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, nan included."""
    return bool(torch.equal(one, other)) or bool(((one == other) | ((one != one) & (other != other))).all())  # noqa: PLR0124 - nan
