"""From the guilty ingredient of an evaluation to the name of the cause and its cure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainables.diagnosis.evaluation_case import EvaluationCase, Reference
from trainables.diagnosis.evaluation_references import Paths, compare_paths, evaluated_eps, trained_eps
from trainables.diagnosis.evaluation_running import USUAL, is_foreign, name_running_statistics, sound_decay
from trainables.diagnosis.evaluation_severity import Score
from trainables.diagnosis.naming.named import NamedCause
from trainables.diagnosis.naming.pixels import Pixels, name_pixels
from trainables.diagnosis.snapshots import SnapshotRing


@dataclass(frozen=True)
class Named:
    """The cause, and the cure of an evaluation like this."""

    cause: NamedCause
    cure: str
    change: dict[str, Any] = field(default_factory=dict)
    """Dotted config keys and their new values; empty where the fault lies outside the config."""
    cured: float | None = None
    """Severity of a replay with the cure; None: that of the evaluation with the reference value."""


def name_evaluation_cause(
    case: EvaluationCase,
    guilty: Reference,
    references: Sequence[Reference],
    snapshots: SnapshotRing,
    as_run: Score,
    expected: Score,
) -> Named:
    """The cause behind `guilty`. as_run, expected: scores of val/ as the run had it, and with all `references`."""
    match guilty.ingredient:
        case "metric":
            text = f"top-1 is reported as {as_run.top1:.3g}, and {expected.top1:.3g} counted from the logits"
            return Named(NamedCause("metric_bug", text), "count the accuracy from the logits")
        case "evaluation_norm":
            text = f"epsilon is {_eps(evaluated_eps(case))} in evaluation, {_eps(trained_eps(case))} in training"
            return Named(NamedCause("norm_eps", text), "evaluate with the epsilon of training")
        case "labels":
            return name_evaluation_labels(case)
        case "running_statistics":
            others = [r for r in references if r is not guilty]
            return name_statistics(case, guilty, others, snapshots, expected)
    return name_paths(case, compare_paths(case))


def name_statistics(
    case: EvaluationCase, guilty: Reference, others: Sequence[Reference], snapshots: SnapshotRing, expected: Score
) -> Named:
    """The cause of bad running statistics, and a momentum or a recalibration as the cure."""
    assert guilty.statistics is not None
    cause = name_running_statistics(case, snapshots, others, guilty.statistics, expected)
    if cause.cured is None:
        return Named(cause.named, f"recalibrate: {guilty.swap.name}")
    if cause.named.name == "weight_decay":
        decay = sound_decay(case)
        change = {"optim.weight_decay": decay} if decay != case.config.optim.weight_decay else {}
        return Named(cause.named, f"train with a weight decay of {decay:g}", change, cause.cured)
    declared = is_foreign(case, case.config.model.bn_momentum)
    change = {"model.bn_momentum": USUAL.momentum} if declared else {}
    return Named(cause.named, f"set batch norm's momentum to {USUAL.momentum:g}", change, cause.cured)


def name_paths(case: EvaluationCase, paths: Paths) -> Named:
    """Training's pixels by their own fault; the evaluation's as a mismatch, and how they differ."""
    if paths.training_differs and not paths.evaluation_differs:
        named = name_pixels(Pixels(paths.sample_ids, paths.raw, paths.raw, paths.trained, paths.declared))
        text = f"in training alone: {named.evidence}"
        return Named(
            NamedCause(named.name, text), "evaluate with the pixels of training, or train on the declared ones"
        )
    named = name_pixels(Pixels(paths.sample_ids, paths.decoded, paths.raw, paths.evaluated, paths.trained))
    text = f"in evaluation alone: {named.name}, {named.evidence}"
    cure = f"decode and normalise as in training, with {case.recipe.declared_normalization.name} statistics"
    return Named(NamedCause("train_eval_mismatch", text), cure)


def name_evaluation_labels(case: EvaluationCase) -> Named:
    """Whose labels are not the index's, and how many."""
    index, ids = case.recipe.index, case.as_run.sample_ids
    in_training = float((case.trained_label(case.train_ids) != index.train.labels[case.train_ids]).mean())
    given = case.as_run.label(ids)
    in_evaluation = float((given != index.val.labels[ids]).mean())
    if in_training == in_evaluation == 0.0:
        text = "the predictions show a permutation of the classes between train/ and val/; the labels are the index's"
        return Named(NamedCause("label_offset", text), "give train/ and val/ one order of the classes")
    text = f"{in_training:.0%} of the labels in training and {in_evaluation:.0%} in evaluation are not the index's"
    if in_evaluation == 0.0 or _is_map(index.val.labels[ids], given):
        return Named(NamedCause("label_offset", f"the classes are permuted; {text}"), "use one order of the classes")
    return Named(NamedCause("label_shuffle", text), "evaluate against the labels of the index")


def _is_map(truth: np.ndarray, given: np.ndarray) -> bool:
    return all(len(np.unique(given[truth == label])) == 1 for label in np.unique(truth))


def _eps(value: float | None) -> str:
    return "not the same everywhere" if value is None else f"{value:g}"
