"""From the guilty ingredient to the name of the cause, by looking at the ingredient itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import dropwhile, permutations

import numpy as np
import torch

from trainables.diagnosis.references import Ingredient, RateReference
from trainables.ingredients import Ingredients, Stream
from trainables.recipe import Recipe

LOOK_BACK = 16
"""Steps before the confirmation in which the guilty ingredient's first foreign value is looked for."""
ALIKE = 0.05
"""Mean squared error, in units of the input's variance, below which a relation between two inputs is taken to hold."""


@dataclass(frozen=True)
class NamedCause:
    """A cause of CAUSES.md and the numbers that it was named by."""

    name: str
    evidence: str


def name_cause(
    ingredient: Ingredient, recipe: Recipe, stream: Stream, step: int, rate: RateReference | None
) -> NamedCause:
    """The cause behind `ingredient`, from what `step`, at which the symptom was confirmed, was made of."""
    match ingredient:
        case "learning_rate":
            assert rate is not None
            return name_rate(rate, stream, step)
        case "normalization":
            batch = recipe.config.global_batch_size
            over = recipe.config.model.ghost_batch_size if recipe.config.model.norm == "ghost_bn" else batch
            return NamedCause("bn_small_batch", f"statistics over {min(over, batch)} samples a step")
        case "pixels":
            past = (pixels_of(recipe, stream(k)) for k in range(step, max(-1, step - LOOK_BACK), -1))
            return name_pixels(next((p for p in past if p.differ), None) or pixels_of(recipe, stream(step)))
        case "labels":
            steps = [stream(k) for k in range(max(0, step - LOOK_BACK), step + 8)]
            return name_labels(recipe, from_first(steps, lambda i: labels_differ(recipe, i))[:8])
        case "samples":
            steps = [stream(k) for k in range(max(0, step - LOOK_BACK), step + 1)]
            return name_samples(recipe, from_first(steps, lambda i: order_differs(recipe, i))[:4])
        case "number_format":
            return NamedCause("bn_low_precision", f"{recipe.config.precision.amp} autocast")


def from_first(steps: list[Ingredients], differs: Callable[[Ingredients], bool]) -> list[Ingredients]:
    """`steps` from the first that is not as the recipe has it: those before the event are no evidence."""
    return list(dropwhile(lambda i: not differs(i), steps)) or steps[-4:]


def labels_differ(recipe: Recipe, i: Ingredients) -> bool:
    """Whether any label of the step is not the index's."""
    return not np.array_equal(i.label(i.sample_ids, i.epochs), recipe.true_labels(i.sample_ids, i.epochs))


def order_differs(recipe: Recipe, i: Ingredients) -> bool:
    """Whether the step's samples are not those that the sampler drew."""
    return not np.array_equal(i.sample_ids, recipe.sampler.sample_ids(i.step))


@dataclass(frozen=True)
class Pixels:
    """One step's images as the run had them and as the reference has them, before and after normalisation."""

    sample_ids: np.ndarray
    images: torch.Tensor
    raw: torch.Tensor
    actual: torch.Tensor
    reference: torch.Tensor

    @property
    def differ(self) -> bool:
        """Whether the step's input is not the reference's."""
        return not torch.equal(self.actual, self.reference)


def pixels_of(recipe: Recipe, i: Ingredients) -> Pixels:
    """Both inputs of a step."""
    images, raw = i.decode(i.sample_ids, i.epochs), recipe.source(i.step).fetch(i.sample_ids, i.epochs)
    return Pixels(i.sample_ids, images, raw, i.normalize(images), recipe.reference_normalization(raw))


def name_rate(rate: RateReference, stream: Stream, step: int) -> NamedCause:
    """A jump where a change point was undone, else too high (or the edge of stability: no probe here parts them)."""
    if rate.changed_at is None:
        now = stream(step).learning_rate
        return NamedCause("lr_too_high", f"rate {now:.4g}; {rate.rate:.4g} stays healthy")
    before, after = stream(rate.changed_at - 1).learning_rate, stream(rate.changed_at).learning_rate
    return NamedCause("lr_jump", f"the rate goes from {before:.4g} to {after:.4g} at step {rate.changed_at}")


def name_pixels(pixels: Pixels) -> NamedCause:
    """Compare the run's input with the reference input of the same samples."""
    raw, reference, actual = pixels.raw, pixels.reference.double(), pixels.actual.double()
    if not bool(torch.isfinite(actual).all()):
        return NamedCause("non_finite_input", _listed("samples", pixels.sample_ids[_not_finite(actual)]))
    if not torch.equal(pixels.images, raw):
        changed = (pixels.images != raw).flatten(1).any(dim=1).numpy()
        return NamedCause("corrupt_images", _listed("samples", pixels.sample_ids[changed]))
    ratio = float(actual.std(dim=(0, 2, 3)).mean() / reference.std(dim=(0, 2, 3)).mean().clamp_min(1e-12))
    if not 1 / 20 < ratio < 20:
        return NamedCause("scale_255", f"the input is {ratio:.3g} times as wide as the reference")
    order = best_channel_order(actual, raw)
    if order != (0, 1, 2):
        return NamedCause(
            "channel_swap", f"the channels come in the order {'RGB'[order[0]]}{'RGB'[order[1]]}{'RGB'[order[2]]}"
        )
    means = ", ".join(f"{a:.2f} instead of {r:.2f}" for a, r in zip(_means(actual), _means(reference), strict=True))
    return NamedCause("wrong_mean_std", f"channel means {means}")


def best_channel_order(actual: torch.Tensor, raw: torch.Tensor) -> tuple[int, ...]:
    """Which raw channel each input channel is an affine function of; the plain order where several fit alike."""
    source = raw.permute(0, 3, 1, 2).double()
    errors = {
        order: max(_affine_error(actual[:, c], source[:, order[c]]) for c in range(3))
        for order in permutations(range(3))
    }
    best = min(errors, key=lambda order: errors[order])
    return (0, 1, 2) if errors[(0, 1, 2)] <= max(ALIKE / 50, 2 * errors[best]) else best


def name_labels(recipe: Recipe, steps: list[Ingredients]) -> NamedCause:
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


def name_samples(recipe: Recipe, steps: list[Ingredients]) -> NamedCause:
    """Batches that the sampler did not draw are a shifted order; batches that it did draw are poisoned."""
    ids = np.concatenate([i.sample_ids for i in steps])
    drawn = np.concatenate([recipe.sampler.sample_ids(i.step) for i in steps])
    if not np.array_equal(ids, drawn):
        return NamedCause(
            "batch_shift", f"the order is not the sampler's from step {steps[0].step} on, {_listed('samples', ids)}"
        )
    return NamedCause("poisoned_batch", _listed("samples", ids))


def _affine_error(target: torch.Tensor, source: torch.Tensor) -> float:
    """1 - r^2 of the best line from `source` to `target`."""
    x, y = (source - source.mean()).flatten(), (target - target.mean()).flatten()
    correlation = (x @ y) / (x.norm() * y.norm()).clamp_min(1e-12)
    return float(1.0 - correlation**2)


def _means(images: torch.Tensor) -> list[float]:
    return [float(value) for value in images.mean(dim=(0, 2, 3))]


def _not_finite(images: torch.Tensor) -> np.ndarray:
    return np.asarray((~torch.isfinite(images)).flatten(1).any(dim=1).numpy())


def _listed(noun: str, ids: np.ndarray) -> str:
    shown = ", ".join(str(int(i)) for i in ids[:8])
    return f"{noun} {shown}" + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
