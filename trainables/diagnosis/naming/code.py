"""Which fault of the code it is: one step of it is run beside one of the reference, from one state on one batch."""

from __future__ import annotations

from trainables.diagnosis.case import Case
from trainables.diagnosis.culprits import Culprits
from trainables.diagnosis.naming.effects import effect_of, ratio_of, state_before
from trainables.diagnosis.naming.named import NamedCause
from trainables.diagnosis.references import Reference

ALIKE = 0.02
"""Relative error up to which two gradients are a multiple of each other."""
MORE = 1.3
"""Factor from which a gradient, or an update, is larger than the reference's."""


def name_code(case: Case, reference: Reference) -> NamedCause:
    """Gradients that hold the step before's, a multiple of the gradient, or a larger update from the same gradient."""
    since = case.snapshot.step if reference.since is None else max(reference.since, case.snapshot.step)
    culprits = Culprits(step=reference.since)
    before = state_before(case, since + 1)
    actual, plain = effect_of(case, before, []), effect_of(case, before, [reference.swap])
    factor, error = ratio_of(actual.gradients, plain.gradients)
    at = f"at step {before.step}"
    if error > ALIKE:
        stale = {n: before.tensors[f"gradient/{n}"] for n in actual.gradients if f"gradient/{n}" in before.tensors}
        if len(stale) == len(actual.gradients):
            left = {n: actual.gradients[n] - plain.gradients[n] for n in actual.gradients}
            share, rest = ratio_of(left, stale)
            if rest < ALIKE and share > ALIKE:
                text = f"{at} the gradient is the step's own and {share:.2f} times the one before"
                return NamedCause("missing_zero_grad", text, culprits)
        return NamedCause(reference.ingredient, f"{at} the gradient differs by {error:.0%}", culprits)
    if not 1 / MORE < abs(factor) < MORE:
        text = f"{at} the gradient is {factor:.3g} times that of the batch's mean loss"
        return NamedCause("accumulation_unscaled", text, culprits)
    moved = actual.change(before) / max(plain.change(before), 1e-30)
    if moved > MORE:
        text = f"{at} the gradient is the reference's and the update {moved:.2f} times as large"
        return NamedCause("double_step", text, culprits)
    return NamedCause(reference.ingredient, f"{at} the update is {moved:.2f} times the reference's", culprits)
