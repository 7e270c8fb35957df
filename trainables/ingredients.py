"""What a training step is made of, and swaps of it.

`Ingredients` is a small typed value; nothing in it is computed before the step asks. A `Swap` replaces one ingredient
over a span of steps. Faults (a bad value), probes (the reference value, in a replay) and remedies (the reference
value, kept) are all swaps, so this is the only seam into the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables.data.mixing import Mix
from trainables.losses import Loss
from trainables.ranks import Ranks

Decode = Callable[[np.ndarray, np.ndarray], Tensor]
"""(sample ids [n], their epochs [n]) -> uint8 images [n, side, side, 3]."""
Normalize = Callable[[Tensor], Tensor]
"""uint8 [n, side, side, 3] -> float32 [n, 3, side, side]."""
Label = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(sample ids [n], their epochs [n]) -> int64 labels [n]."""


@dataclass(frozen=True)
class Ingredients:
    """One global step. Sample ids are those of all ranks together."""

    step: int
    learning_rate: float
    momentum: float
    clip_grad_norm: float | None
    agc: float | None
    """Adaptive gradient clipping; None: none."""
    sample_ids: np.ndarray
    epochs: np.ndarray
    decode: Decode
    normalize: Normalize
    label: Label
    companions: np.ndarray | None
    """Ids of further samples that only share normalisation statistics with the batch; None: the batch alone."""
    loss: Loss
    mix: Mix | None
    """Mixup or CutMix with the neighbour in the batch; None: none."""
    amp: str
    """fp32, tf32, bf16 or fp16."""


Stream = Callable[[int], Ingredients]
"""step -> what that step is made of; random access."""


@dataclass(frozen=True)
class Swap:
    """Replaces one ingredient for steps in [start, stop)."""

    name: str
    apply: Callable[[Ingredients], Ingredients]
    start: int = 0
    stop: int | None = None

    def __call__(self, ingredients: Ingredients) -> Ingredients:
        """Apply the swap where the step is in its span."""
        if ingredients.step < self.start or (self.stop is not None and ingredients.step >= self.stop):
            return ingredients
        return self.apply(ingredients)


def with_swaps(stream: Stream, swaps: Sequence[Swap]) -> Stream:
    """The stream with `swaps` applied in order; the stream itself where there are none."""
    if not swaps:
        return stream

    def swapped(step: int) -> Ingredients:
        ingredients = stream(step)
        for swap in swaps:
            ingredients = swap(ingredients)
        return ingredients

    return swapped


@dataclass(frozen=True)
class Batch:
    """One rank's share of one step, decoded: uint8 images [n, side, side, 3], int64 labels [n]."""

    images: Tensor
    labels: Tensor
    companions: Tensor | None

    def pinned(self) -> Batch:
        """The same in page-locked memory, from which a GPU copies while the host goes on."""
        companions = None if self.companions is None else self.companions.pin_memory()
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), companions)


def load_batch(ingredients: Ingredients, ranks: Ranks) -> Batch:
    """Decode this rank's share of the step."""
    share = ranks.share(len(ingredients.sample_ids))
    ids, epochs = ingredients.sample_ids[share], ingredients.epochs[share]
    companions = None
    if ingredients.companions is not None:
        extra = ingredients.companions[ranks.share(len(ingredients.companions))]
        companions = ingredients.decode(extra, np.full(len(extra), epochs[0]))
    labels = torch.from_numpy(np.ascontiguousarray(ingredients.label(ids, epochs), dtype=np.int64))
    return Batch(ingredients.decode(ids, epochs), labels, companions)
