"""What a training step and an evaluation are made of, and swaps of them.

`Ingredients` is a small typed value; nothing in it is computed before the step asks. A `Swap` replaces one ingredient
over a span of steps. Faults (a bad value), probes (the reference value, in a replay) and remedies (the reference
value, kept) are all swaps, so this is the only seam into the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from trainables.data.mixing import Mix
from trainables.losses import Loss
from trainables.norms import NormSettings
from trainables.optim import Hyperparameters
from trainables.ranks import Ranks
from trainables.signals import StepRecord
from trainables.state import TrainState

Decode = Callable[[np.ndarray, np.ndarray], Tensor]
"""(sample ids [n], their epochs [n]) -> uint8 images [n, side, side, 3]."""
Normalize = Callable[[Tensor], Tensor]
"""uint8 [n, side, side, 3] -> float32 [n, 3, side, side]."""
Label = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(sample ids [n], their epochs [n]) -> int64 labels [n]."""


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


Edit = Callable[[TrainState], None]
"""Changes the state in place, or the gradients in it."""


class StepCode(Protocol):
    """The code of a step; the reference is `loop.train_step`."""

    def __call__(
        self, state: TrainState, ingredients: Ingredients, batch: Batch, /, *, notice: bool = False
    ) -> StepRecord:
        """Run one step on `state`."""


@dataclass(frozen=True)
class Ingredients:
    """One global step. Sample ids are those of all ranks together."""

    step: int
    optim: Hyperparameters
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
    norm: NormSettings | None
    """How batch norm takes its statistics; None: as the model's layers say."""
    loss: Loss
    mix: Mix | None
    """Mixup or CutMix with the neighbour in the batch; None: none."""
    amp: str
    """fp32, tf32, bf16 or fp16."""
    loss_scale: float | None
    """A fixed factor on the loss, taken out of the gradients again; None: the state's own, where it keeps one."""
    code: StepCode
    edits: tuple[Edit, ...] = ()
    """Changes of the state that the step starts from; the reference has none."""
    gradient_edits: tuple[Edit, ...] = ()
    """Changes of the gradients after the backward pass, on each rank by itself; the reference has none."""

    @property
    def learning_rate(self) -> float:
        """Of the step."""
        return self.optim.learning_rate

    @property
    def mixed_share(self) -> float:
        """Of each image and label, what is another one's; 0: not mixed."""
        return 0.0 if self.mix is None else self.mix.share

    def at_rate(self, learning_rate: float) -> Ingredients:
        """The same at another learning rate."""
        return replace(self, optim=replace(self.optim, learning_rate=learning_rate))

    def edited(self, edit: Edit) -> Ingredients:
        """The same from a state that `edit` changes before."""
        return replace(self, edits=(*self.edits, edit))


@dataclass(frozen=True)
class EvaluationIngredients:
    """What an evaluation after `step` steps is made of."""

    step: int
    sample_ids: np.ndarray
    """Of the evaluated split, all ranks together."""
    decode: Callable[[np.ndarray], tuple[Tensor, np.ndarray]]
    """sample ids [n] -> (uint8 images [m, side, side, 3], the ids [m] of those that decode)."""
    normalize: Normalize
    label: Callable[[np.ndarray], np.ndarray]
    """sample ids [n] -> int64 labels [n]."""
    metric: Callable[[Tensor, Tensor], Tensor]
    """(logits [n, classes], labels [n]) -> right at first, right among five: float64 [2], sums over the samples."""
    amp: str
    norm: NormSettings | None = None
    """As in `Ingredients`."""


Stream = Callable[[int], Ingredients]
"""step -> what that step is made of; random access."""
EvaluationStream = Callable[[int], EvaluationIngredients]
"""Steps done -> what an evaluation after them is made of."""
Change = Callable[[Ingredients], Ingredients]
EvaluationChange = Callable[[EvaluationIngredients], EvaluationIngredients]
Either = TypeVar("Either", Ingredients, EvaluationIngredients)


def unchanged(ingredients: Either) -> Either:
    """The change that changes nothing."""
    return ingredients


@dataclass(frozen=True)
class Swap:
    """Replaces an ingredient of the steps in [start, stop), of the evaluations after them, or of both."""

    name: str
    apply: Change = unchanged
    start: int = 0
    stop: int | None = None
    evaluation: EvaluationChange = unchanged
    live: bool = False
    """True: it is no property of the step, as a bit that flipped in the hardware: no replay brings it back."""

    def __call__(self, ingredients: Ingredients) -> Ingredients:
        """Apply the swap where the step is in its span."""
        return self.apply(ingredients) if self._spans(ingredients.step) else ingredients

    def of_evaluation(self, ingredients: EvaluationIngredients) -> EvaluationIngredients:
        """Apply the swap where the last step before the evaluation is in its span."""
        return self.evaluation(ingredients) if self._spans(ingredients.step - 1) else ingredients

    def _spans(self, step: int) -> bool:
        return self.start <= step and (self.stop is None or step < self.stop)


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


def with_evaluation_swaps(stream: EvaluationStream, swaps: Sequence[Swap]) -> EvaluationStream:
    """The evaluations with `swaps` applied in order; the stream itself where there are none."""
    if not swaps:
        return stream

    def swapped(step: int) -> EvaluationIngredients:
        ingredients = stream(step)
        for swap in swaps:
            ingredients = swap.of_evaluation(ingredients)
        return ingredients

    return swapped


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
