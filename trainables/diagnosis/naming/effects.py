"""What one step did to the state, as the run had it and as the reference has it: the guilty code is run and watched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.diagnosis.case import Case
from trainables.ingredients import Ingredients, Swap, load_batch, with_swaps
from trainables.loop import run_steps
from trainables.state import Snapshot


@dataclass(frozen=True)
class Effect:
    """One step from a state: weights and buffers after it, and the gradients that it left."""

    tensors: dict[str, Tensor]
    gradients: dict[str, Tensor]

    def change(self, before: Snapshot) -> float:
        """L2 norm of what the weights moved by."""
        return norm(
            self.tensors[name] - before.tensors[name] for name in before.tensors if name.startswith("parameter/")
        )


def norm(tensors: object) -> float:
    """L2 norm of some tensors together."""
    return float(torch.stack([t.double().norm() for t in tensors]).norm())  # type: ignore[attr-defined]


def state_before(case: Case, step: int) -> Snapshot:
    """The run's state before `step`, with the gradients that the last step left, by replay from the case's snapshot."""
    case.state.restore(case.snapshot)
    if step > case.snapshot.step:
        for _ in run_steps(case.state, case.stream, case.snapshot.step, step, loader_threads=0):
            case.replayer.steps += 1
        return case.state.snapshot(gradients=True)
    return case.snapshot


def effect_of(case: Case, before: Snapshot, swaps: Sequence[Swap]) -> Effect:
    """Run the step that follows `before`, with swaps."""
    ingredients: Ingredients = with_swaps(case.stream, swaps)(before.step)
    case.state.restore(before)
    case.state.model.train()
    ingredients.code(case.state, ingredients, load_batch(ingredients, case.state.ranks))
    case.replayer.steps += 1
    after = case.state.snapshot(gradients=True).tensors
    gradients = {name.removeprefix("gradient/"): t for name, t in after.items() if name.startswith("gradient/")}
    return Effect({name: t for name, t in after.items() if not name.startswith("gradient/")}, gradients)


def edited(case: Case, before: Snapshot) -> dict[str, Tensor]:
    """The tensors of `before` after the edits of its step, without the step itself."""
    case.state.restore(before)
    for edit in case.stream(before.step).edits:
        edit(case.state)
    return case.state.snapshot().tensors


def ratio_of(actual: dict[str, Tensor], reference: dict[str, Tensor]) -> tuple[float, float]:
    """(k, error): `actual` is k times `reference`, up to an error relative to `actual`; L2 over all tensors."""
    dot = sum(float((actual[n].double() * reference[n].double()).sum()) for n in actual)
    square = sum(float(reference[n].double().square().sum()) for n in actual)
    k = dot / max(square, 1e-300)
    rest = norm(actual[n].double() - k * reference[n].double() for n in actual)
    return k, rest / max(norm(iter(actual.values())), 1e-300)
