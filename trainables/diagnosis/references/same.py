"""Whether a swap changes anything: what it leaves as it is needs no replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from trainables.diagnosis.causes import Ingredient
from trainables.ingredients import Ingredients, Stream, Swap, load_batch
from trainables.ranks import Ranks

MOST_COMPARED = 64
"""Steps of a long stretch whose pixels are decoded twice and compared."""

Same = Callable[[Ingredients, Ingredients, Ranks], bool]


def same_labels(one: Ingredients, other: Ingredients, _ranks: Ranks) -> bool:
    """Whether both give their samples the same labels."""
    return np.array_equal(one.label(one.sample_ids, one.epochs), other.label(other.sample_ids, other.epochs))


def same_input(one: Ingredients, other: Ingredients, ranks: Ranks) -> bool:
    """Whether the model would see the same bits, in this rank's share."""
    return torch.equal(one.normalize(load_batch(one, ranks).images), other.normalize(load_batch(other, ranks).images))


def by_value(value: Callable[[Ingredients], object]) -> Same:
    """Compare what `value` takes out of both."""
    return lambda one, other, _ranks: value(one) == value(other)


SAME: Mapping[Ingredient, Same] = {
    "learning_rate": by_value(lambda i: i.optim.learning_rate),
    "weight_decay": by_value(lambda i: i.optim.weight_decay),
    "moments": by_value(lambda i: (i.optim.momentum, i.optim.betas, i.optim.eps)),
    "state": by_value(lambda i: i.edits),
    "gradients": by_value(lambda i: i.gradient_edits),
    "step_code": by_value(lambda i: i.code),
    "loss": by_value(lambda i: i.loss),
    "norm_settings": by_value(lambda i: i.norm),
    "number_format": by_value(lambda i: (i.amp, i.loss_scale)),
    "scales": by_value(lambda i: i.edits),
    "rank_state": by_value(lambda i: i.edits),
    "labels": same_labels,
    "pixels": same_input,
    "samples": lambda one, other, _ranks: np.array_equal(one.sample_ids, other.sample_ids),
    "normalization": by_value(lambda i: None if i.companions is None else tuple(i.companions)),
}


def first_difference(ingredient: Ingredient, stream: Stream, swap: Swap, steps: range, ranks: Ranks) -> int | None:
    """The first of `steps` that the swap changes, on any rank; None where it changes none.

    Of pixels at most MOST_COMPARED steps are compared, the last ones.
    """
    same = SAME[ingredient]
    looked_at = steps[-MOST_COMPARED:] if ingredient == "pixels" else steps
    mine = next((k for k in looked_at if not same(stream(k), swap(stream(k)), ranks)), None)
    found = [step for step in ranks.gather(mine) if step is not None]
    return min(found) if found else None
