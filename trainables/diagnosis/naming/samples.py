"""Which fault of labels or of the choice of samples it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainables.diagnosis.culprits import NOBODY, Culprits, guilty_samples, listed
from trainables.diagnosis.naming.named import NamedCause
from trainables.diagnosis.naming.pixels import FEW
from trainables.ingredients import Ingredients
from trainables.recipe import Recipe

REPEATED = 0.5
"""Share of distinct ids in some batches below which they are the same few samples again and again."""
BLANK = 2.0
"""Standard deviation of an image's values, of 255, up to which it shows nothing."""


def labels_differ(recipe: Recipe, i: Ingredients) -> bool:
    """Whether any label of the step is not the index's."""
    return not np.array_equal(i.label(i.sample_ids, i.epochs), recipe.true_labels(i.sample_ids, i.epochs))


def order_differs(recipe: Recipe, i: Ingredients) -> bool:
    """Whether the step's samples are not those that the sampler drew."""
    return not np.array_equal(i.sample_ids, recipe.sampler.sample_ids(i.step))


def name_labels(recipe: Recipe, steps: Sequence[Ingredients]) -> NamedCause:
    """A fixed mapping between classes, or labels that have lost their relation to the truth."""
    given = np.concatenate([i.label(i.sample_ids, i.epochs) for i in steps])
    truth = np.concatenate([recipe.true_labels(i.sample_ids, i.epochs) for i in steps])
    wrong = float((given != truth).mean())
    mapping = {int(t): np.unique(given[truth == t]) for t in np.unique(truth)}
    offsets = np.unique((given - truth) % len(recipe.index.classes))
    seen_twice = len(truth) - len(mapping)
    if len(offsets) == 1 or (seen_twice >= 4 and all(len(targets) == 1 for targets in mapping.values())):
        return NamedCause(
            "label_offset", f"each class has become one other ({wrong:.0%} of the labels differ from the index)"
        )
    chance = 1.0 - 1.0 / len(recipe.index.classes)
    name = "label_shuffle" if wrong > 0.7 * chance else "label_noise"
    return NamedCause(name, f"{wrong:.0%} of the labels differ from the index")


def name_samples(recipe: Recipe, steps: Sequence[Ingredients]) -> NamedCause:
    """A few samples again and again, a shifted order, or batches that the sampler did draw.

    Of the last the samples themselves are looked at.
    """
    ids = np.concatenate([i.sample_ids for i in steps])
    if any(order_differs(recipe, i) for i in steps):
        if len(np.unique(ids)) < REPEATED * len(ids):
            return NamedCause(
                "poisoned_batch",
                f"the same {len(np.unique(ids))} samples in {len(ids)} places, {listed('samples', np.unique(ids))}",
                guilty_samples(recipe, ids, steps[0].step),
            )
        return NamedCause(
            "batch_shift",
            f"the order is not the sampler's from step {steps[0].step} on, {listed('samples', ids)}",
            Culprits(step=steps[0].step),
        )
    return name_drawn_samples(recipe, ids)


def name_drawn_samples(recipe: Recipe, ids: np.ndarray) -> NamedCause:
    """Samples that show nothing are corrupt on disk; else the batch is poisoned."""
    images = recipe.train.fetch(ids, None).double()
    blank = np.asarray((images.flatten(1).std(dim=1) <= BLANK).numpy())
    if blank.any() and blank.mean() <= FEW:
        return NamedCause(
            "corrupt_images", f"they show nothing: {listed('samples', ids[blank])}", guilty_samples(recipe, ids[blank])
        )
    return NamedCause("poisoned_batch", listed("samples", ids), guilty_samples(recipe, ids))


def foreign_labels(recipe: Recipe, steps: Sequence[Ingredients]) -> Culprits:
    """The samples of `steps` whose label is not the index's."""
    wrong = [i.sample_ids[i.label(i.sample_ids, i.epochs) != recipe.true_labels(i.sample_ids, i.epochs)] for i in steps]
    return guilty_samples(recipe, np.concatenate(wrong), steps[0].step) if wrong else NOBODY
