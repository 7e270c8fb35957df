"""The reference value of every ingredient of an evaluation: what the model was trained with.

Which side of a difference is at fault, training or evaluation, the config and the data index say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trainables.diagnosis.causes import Ingredient
from trainables.diagnosis.evaluation_case import EvaluationCase, Reference
from trainables.diagnosis.evaluation_statistics import recalibrate, training_batches
from trainables.ingredients import EvaluationIngredients, Swap
from trainables.losses import count_right
from trainables.norms import NormSettings, batch_norms

COMPARED = 64
"""Samples of which the two ways to the model's input are compared."""
AGREED = 0.5
"""Share of a class's predictions that must agree on one class for a permutation to be tried."""
LABELS = 65_536
"""Training samples at most whose labels are compared with the index."""


@dataclass(frozen=True)
class Paths:
    """The same samples of val/ through three ways to the model's input, float32 [n, 3, side, side]."""

    sample_ids: np.ndarray
    raw: Tensor
    """The reference decode, uint8 [n, side, side, 3]."""
    decoded: Tensor
    """The evaluation's."""
    declared: Tensor
    evaluated: Tensor
    trained: Tensor
    """Reference decode, then the normalisation of the last step."""

    @property
    def evaluation_differs(self) -> bool:
        """Whether the evaluation's is not the declared one."""
        return not torch.equal(self.evaluated, self.declared)

    @property
    def training_differs(self) -> bool:
        """Whether the training's is not."""
        return not torch.equal(self.trained, self.declared)


def compare_paths(case: EvaluationCase) -> Paths:
    """Decode and normalise some samples in each way."""
    recipe, as_run = case.recipe, case.as_run
    raw, ids = recipe.val.fetch_sound(as_run.sample_ids[:COMPARED])
    decoded, _ = as_run.decode(ids)
    return Paths(
        ids,
        raw,
        decoded,
        recipe.declared_normalization(raw),
        as_run.normalize(decoded),
        case.trained.normalize(raw),
    )


def build_evaluation_references(case: EvaluationCase, draw: int = 0) -> list[Reference]:
    """References of all ingredients that differ from the run's, cheapest first; statistics are counted by `draw`."""
    found = [metric_reference(case), norm_reference(case), labels_reference(case), pixels_reference(case)]
    references = [reference for reference in found if reference is not None]
    return [*references, *statistics_references(case, draw)]


def statistics_references(case: EvaluationCase, draw: int) -> list[Reference]:
    """Recalibrated running statistics; none where the model has no batch norm."""
    if not batch_norms(case.state.model):
        return []
    batches = training_batches(case.recipe, case.stream, case.last_step, draw)
    case.progress(f"recalibration over {len(batches)} batches")
    swap = Swap(f"running statistics over {sum(len(b.sample_ids) for b in batches)} training samples")
    return [Reference("running_statistics", swap, recalibrate(case.state, batches))]


def metric_reference(case: EvaluationCase) -> Reference | None:
    """The accuracy counted from the logits."""
    if case.as_run.metric is count_right:
        return None
    return Reference("metric", Swap("counted from the logits", evaluation=lambda i: replace(i, metric=count_right)))


def norm_reference(case: EvaluationCase) -> Reference | None:
    """Batch norm's epsilon of the training steps."""
    if trained_eps(case) == evaluated_eps(case):
        return None
    settings = case.trained.norm
    return Reference(
        "evaluation_norm", Swap("batch norm as in training", evaluation=lambda i: replace(i, norm=settings))
    )


def trained_eps(case: EvaluationCase) -> float | None:
    """Of the last step; None: the layers' own."""
    return _effective(case, case.trained.norm)


def evaluated_eps(case: EvaluationCase) -> float | None:
    """Of the evaluation; None: the layers' own."""
    return _effective(case, case.as_run.norm)


def _effective(case: EvaluationCase, norm: NormSettings | None) -> float | None:
    own = {layer.eps for layer in batch_norms(case.state.model)}
    if norm is None:
        return own.pop() if len(own) == 1 else None
    return norm.eps if own else None


def pixels_reference(case: EvaluationCase) -> Reference | None:
    """The reference decode, normalised as in training; which side is foreign makes the ingredient's name."""
    paths = compare_paths(case)
    if torch.equal(paths.evaluated, paths.trained):
        return None
    foreign_training = paths.training_differs and not paths.evaluation_differs
    ingredient: Ingredient = "pixels" if foreign_training else "evaluation_pixels"
    decode, normalize = case.recipe.val.fetch_sound, case.trained.normalize
    change = Swap(
        "decoded as the index has it, normalised as in training",
        evaluation=lambda i: replace(i, decode=decode, normalize=normalize),
    )
    return Reference(ingredient, change)


def labels_reference(case: EvaluationCase) -> Reference | None:
    """The index's labels of val/, as the classes are called in training."""
    ids, index = case.as_run.sample_ids, case.recipe.index.val.labels
    mapping = trained_mapping(case)
    foreign = not np.array_equal(case.as_run.label(ids), index[ids])
    if mapping is None:
        return Reference("labels", _relabelled("labels of the index", index)) if foreign else None
    return Reference("labels", _relabelled("labels as the classes are called in training", mapping[index]))


def trained_mapping(case: EvaluationCase) -> np.ndarray | None:
    """Class of the index -> class that training calls it, int64 [classes]; None where they are the same, or no map."""
    labels = case.recipe.index.train.labels
    ids = np.arange(0, len(labels), -(-len(labels) // LABELS))
    truth, given = labels[ids], case.trained_label(ids)
    mapping = np.arange(len(case.recipe.index.classes))
    for label in np.unique(truth):
        names = np.unique(given[truth == label])
        if len(names) > 1:
            return None
        mapping[label] = names[0]
    return None if np.array_equal(mapping, np.arange(len(mapping))) or not _is_permutation(mapping) else mapping


def confused_reference(case: EvaluationCase, references: list[Reference], ids: np.ndarray) -> Reference | None:
    """A permutation of the classes that most predictions of each class agree on, from the samples `ids`.

    None where there is none but the identity. It says nothing about the samples that it was found on.
    """
    counts = count_confusion(case, references, ids)
    best = counts.argmax(axis=1)
    agreed = counts.max(axis=1) >= AGREED * counts.sum(axis=1)
    seen = counts.sum(axis=1) > 0
    # A class that no sample is of stays as it is where its place is free.
    mapping = np.where(seen, best, np.arange(len(best)))
    if not agreed[seen].all() or not _is_permutation(mapping) or np.array_equal(mapping, np.arange(len(best))):
        return None
    labels = mapping[case.recipe.index.val.labels]
    return Reference("labels", _relabelled("labels by the permutation that the predictions show", labels))


def count_confusion(case: EvaluationCase, references: list[Reference], ids: np.ndarray) -> np.ndarray:
    """Samples by their class in val/ and by their predicted class, int64 [classes, classes], of all ranks."""
    classes = len(case.recipe.index.classes)
    counts = torch.zeros(classes * classes, dtype=torch.float64, device=case.state.device)

    def metric(logits: Tensor, labels: Tensor) -> Tensor:
        counts.add_(torch.bincount(labels * classes + logits.argmax(dim=1), minlength=classes * classes))
        return count_right(logits, labels)

    def change(ingredients: EvaluationIngredients) -> EvaluationIngredients:
        return replace(ingredients, metric=metric)

    case.score("confusion", [*references, Reference("metric", Swap("confusion", evaluation=change))], ids=ids)
    return np.asarray(case.state.ranks.sum(counts).cpu().numpy().reshape(classes, classes).astype(np.int64))


def _relabelled(name: str, labels: np.ndarray) -> Swap:
    return Swap(name, evaluation=lambda i: replace(i, label=labels.__getitem__))


def _is_permutation(mapping: np.ndarray) -> bool:
    return bool(np.array_equal(np.sort(mapping), np.arange(len(mapping))))
