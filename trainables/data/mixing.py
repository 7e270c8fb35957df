"""Mixup and CutMix: each sample of a batch is mixed with its neighbour.

The partner of the sample at place p of the global batch is the one at place p ^ 1, and share and box are drawn once per
step: no rank needs the samples of another one as long as the shares of the ranks are even.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.rng import generator


@dataclass(frozen=True)
class Mix:
    """How the samples of one step are mixed."""

    lam: float
    """Share of a sample's own image and label, in [0, 1]; the rest is its neighbour's."""
    box: tuple[int, int, int, int] | None
    """CutMix: top, left, bottom and right, in pixels, of what comes from the neighbour; None: mixup."""

    @property
    def share(self) -> float:
        """Of an image and its label, what is another one's: at most a half, whichever of the two is called its own."""
        return min(self.lam, 1.0 - self.lam)


def draw_mix(seed: int, step: int, mixup_alpha: float, cutmix_alpha: float, side: int) -> Mix | None:
    """Draw the mix of a step; the box scales with the side, its other draws are the same for every side.

    Args:
        seed: keys the draw, with the step.
        step: the global step.
        mixup_alpha: Beta parameter of mixup, 0 or more; 0: no mixup.
        cutmix_alpha: Beta parameter of CutMix, 0 or more; 0: no CutMix. With both, each has an equal chance.
        side: of the images, in pixels.

    Returns:
        None where both parameters are 0. CutMix's `lam` is that of the box as cut: clipped, in whole pixels.

    Source: Zhang et al. 2018, "mixup: beyond empirical risk minimization"; Yun et al. 2019, "CutMix"; the rounding of
    the box is that of torchvision's `CutMix.make_params`.

    """
    if mixup_alpha == 0 and cutmix_alpha == 0:
        return None
    rng = generator(seed, "mix", step)
    # Drawn whether used or not: what follows then doesn't depend on whether there is another kind.
    coin = rng.random() < 0.5
    cut = coin if mixup_alpha > 0 and cutmix_alpha > 0 else cutmix_alpha > 0
    alpha = cutmix_alpha if cut else mixup_alpha
    lam = float(rng.beta(alpha, alpha))
    if not cut:
        return Mix(lam, None)
    half = int(0.5 * math.sqrt(1.0 - lam) * side)
    row, column = (int(rng.random() * side) for _ in range(2))
    top, bottom = max(row - half, 0), min(row + half, side)
    left, right = max(column - half, 0), min(column + half, side)
    return Mix(1.0 - (bottom - top) * (right - left) / side**2, (top, left, bottom, right))


def mix_images(images: Tensor, mix: Mix) -> Tensor:
    """Mix each image with its neighbour, on the images' device and without a wait of the host.

    Args:
        images: float [n, 3, side, side], n even; left as they are.
        mix: of the step.

    Returns:
        A new tensor of the same shape and memory layout.

    """
    if mix.box is None:
        return torch.lerp(_neighbours(images), images, mix.lam)
    top, left, bottom, right = mix.box
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = _neighbours(images[..., top:bottom, left:right])
    return mixed


def partner_labels(labels: Tensor) -> Tensor:
    """Labels of the neighbours: [n, ...] -> [n, ...], n even."""
    return _neighbours(labels)


def _neighbours(batch: Tensor) -> Tensor:
    """The batch with places p and p ^ 1 exchanged."""
    assert len(batch) % 2 == 0, f"{len(batch)} samples don't pair up"
    swapped: Tensor = batch.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return swapped
