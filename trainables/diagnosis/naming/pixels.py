"""Which preprocessing fault it is, by comparing the run's input with the reference input of the same samples."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch

from trainables.diagnosis.culprits import listed
from trainables.diagnosis.naming.named import NamedCause
from trainables.ingredients import Ingredients
from trainables.recipe import Recipe

ALIKE = 0.05
"""Mean squared error, in units of the input's variance, below which a relation between two inputs is taken to hold."""
FEW = 0.5
"""Share of the samples up to which a fault is one of single samples."""


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
        return bool(self.foreign.any())

    @property
    def foreign(self) -> np.ndarray:
        """Which samples' input is not the reference's, bool [n]."""
        return np.asarray((self.actual != self.reference).flatten(1).any(dim=1).numpy())


def pixels_of(recipe: Recipe, i: Ingredients) -> Pixels:
    """Both inputs of a step."""
    images, raw = i.decode(i.sample_ids, i.epochs), recipe.source(i.step).fetch(i.sample_ids, i.epochs)
    return Pixels(i.sample_ids, images, raw, i.normalize(images), recipe.reference_normalization(raw))


def name_pixels(pixels: Pixels) -> NamedCause:
    """The relation of a step's input to the reference input; where single samples are foreign, which."""
    raw, reference, actual = pixels.raw, pixels.reference.double(), pixels.actual.double()
    if not bool(torch.isfinite(actual).all()):
        return NamedCause("non_finite_input", listed("samples", pixels.sample_ids[not_finite(actual)]))
    if not torch.equal(pixels.images, raw):
        changed = (pixels.images != raw).flatten(1).any(dim=1).numpy()
        return NamedCause("corrupt_images", listed("samples", pixels.sample_ids[changed]))
    if 0.0 < pixels.foreign.mean() <= FEW:
        times = float(actual.abs().amax() / reference.abs().amax().clamp_min(1e-12))
        ids = pixels.sample_ids[pixels.foreign]
        return NamedCause("outlier_samples", f"values {times:.3g} times as large, {listed('samples', ids)}")
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


def not_finite(images: torch.Tensor) -> np.ndarray:
    """Which images have a value that is not finite, bool [n]."""
    return np.asarray((~torch.isfinite(images)).flatten(1).any(dim=1).numpy())


def _affine_error(target: torch.Tensor, source: torch.Tensor) -> float:
    """1 - r^2 of the best line from `source` to `target`."""
    x, y = (source - source.mean()).flatten(), (target - target.mean()).flatten()
    correlation = (x @ y) / (x.norm() * y.norm()).clamp_min(1e-12)
    return float(1.0 - correlation**2)


def _means(images: torch.Tensor) -> list[float]:
    return [float(value) for value in images.mean(dim=(0, 2, 3))]
