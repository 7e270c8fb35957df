"""The plan of a diagnosis of an eval gap: train is fine, evaluation is not.

All of it is told from evaluations of the live state, each with some ingredients at their reference value, which is what
the model was trained with. Hardly anything is trained.

The score that val/ could have is the one with all references. What is missing then, against samples that the run has
trained on, is overfitting or a harder split, and no fault of the evaluation.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainables.detectors import Symptom
from trainables.diagnosis.case import Progress
from trainables.diagnosis.causes import group_of
from trainables.diagnosis.confidence import confidence_of
from trainables.diagnosis.evaluation_case import EvaluationCase, Reference, scored_ids
from trainables.diagnosis.evaluation_naming import Named, name_evaluation_cause
from trainables.diagnosis.evaluation_ranks import diagnose_ranks
from trainables.diagnosis.evaluation_references import (
    build_evaluation_references,
    confused_reference,
    statistics_references,
)
from trainables.diagnosis.evaluation_severity import GapSeverity, Score
from trainables.diagnosis.evaluation_statistics import own_statistics
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.swap_table import SwapResult, Thresholds, leading_cause
from trainables.diagnosis.verdict import Controls, Diagnosis, Remedy
from trainables.ingredients import EvaluationStream, Stream
from trainables.recipe import Recipe
from trainables.state import TrainState

log = logging.getLogger(__name__)

PLACEBO_BATCH = 96
"""Batch size of the evaluation that is the placebo; else it is 256."""
ROUNDING = 0.01
"""Relative difference of the loss that another batch size may make, in half precision."""
OWN_SHARE = 1.0 / 24.0
"""Unit of what training data lose in evaluation, against training mode with its augmentation and batches: an eighth of
the skill is no gap."""
KEPT = 0.25
"""Share of training's skill that even an overfitted model keeps on val/."""


@dataclass(frozen=True)
class Scores:
    """What the controls gave."""

    as_run: Score
    expected: Score
    """val/ with all references."""
    training_mode: Score
    """The latest steps' batches, in training mode."""
    train_as_run: Score
    """The same samples, evaluated as val/ was."""
    train_expected: Score
    """The same with all references."""

    def __str__(self) -> str:
        """One sentence."""
        return (
            f"top-1 on val/ is {self.as_run.top1:.3f}, with all references {self.expected.top1:.3f}; on training data "
            f"{self.train_as_run.top1:.3f} and {self.train_expected.top1:.3f}, in training mode "
            f"{self.training_mode.top1:.3f}"
        )


def diagnose_evaluation(
    recipe: Recipe,
    state: TrainState,
    evaluations: EvaluationStream,
    stream: Stream,
    symptom: Symptom,
    snapshots: SnapshotRing,
    progress: Progress = lambda label: None,
) -> Diagnosis:
    """Find the cause of an eval gap in the live state, which is put back afterwards, gradients included.

    stream: the run as a replay has it. Every rank of a worker group calls this together: the plan depends on sums over
    all ranks only, so all take the same decisions.
    """
    started, config = time.monotonic(), recipe.config
    before = state.snapshot(gradients=True)
    as_run = evaluations(state.step)
    case = EvaluationCase(
        config,
        recipe,
        state,
        stream,
        replace(as_run, sample_ids=scored_ids(recipe, as_run.sample_ids)),
        symptom,
        GapSeverity(len(recipe.index.classes), of_input=symptom.of_input),
        Thresholds(config.diagnosis.present_score, config.diagnosis.absent_score),
        progress,
        own=own_statistics(state),
        before=before,
    )
    try:
        diagnosis = examine(case, snapshots)
    finally:
        state.restore(before)
        state.model.train()
    return replace(diagnosis, replayed_steps=case.replayed_steps, seconds=round(time.monotonic() - started, 2))


def examine(case: EvaluationCase, snapshots: SnapshotRing) -> Diagnosis:
    """Ranks that differ; else controls, then one swap an ingredient; labels by confusion where all else is sound."""
    of_one_rank = diagnose_ranks(case, snapshots)
    if of_one_rank is not None:
        return of_one_rank
    references = build_evaluation_references(case)
    scores, controls, outcome = run_controls(case, references)
    if not outcome:
        return weigh(case, references, snapshots, scores, controls)
    if not any(reference.ingredient == "labels" for reference in references):
        even, odd = case.as_run.sample_ids[::2], case.as_run.sample_ids[1::2]
        permuted = confused_reference(case, references, even)
        if permuted is not None:
            case.as_run = replace(case.as_run, sample_ids=odd)
            found = [*references, permuted]
            scores, controls, outcome = run_controls(case, found)
            if not outcome:
                return weigh(case, found, snapshots, scores, controls)
    return abstain(case, controls, f"{outcome}: {scores}", screen(case, references, scores, controls.exact))


def run_controls(case: EvaluationCase, references: Sequence[Reference]) -> tuple[Scores, Controls, str]:
    """The evaluation repeated, at another batch size, and with all references; the last value says what failed."""
    as_run, again = case.score("as run", []), case.score("as run, again", [])
    placebo = case.score("placebo", [], batch_size=PLACEBO_BATCH)
    scores = Scores(
        as_run,
        case.score("all reference", references),
        case.score_training_mode(),
        case.score("training data as run", [], training=True),
        case.score("training data, all reference", references, training=True),
    )
    own_gap = replace(case.severity, share=OWN_SHARE)(scores.train_expected, scores.training_mode)
    severity = case.severity = case.severity.of_gap(as_run, scores.expected)
    controls = Controls(
        exact=severity(as_run, scores.expected),
        # nan is not itself, but here it is.
        exact_bits_equal=repr(as_run) == repr(again),
        snapshot_step=case.before.step,
        horizon=0,
        placebo=[severity(placebo, scores.expected)],
        all_reference=own_gap,
    )
    case.exact = controls.exact
    log.info("exact: severity %.2f; all reference, on training data: %.2f", controls.exact, own_gap)
    return scores, controls, objection(case, scores, controls, placebo)


def objection(case: EvaluationCase, scores: Scores, controls: Controls, placebo: Score) -> str:
    """Why the controls allow no verdict; empty where they do."""
    skill, thresholds, own_gap = case.severity.skill, case.thresholds, controls.all_reference
    assert own_gap is not None
    same_loss = np.isclose(placebo.loss, scores.as_run.loss, rtol=ROUNDING, atol=1e-4, equal_nan=True)
    learned = case.severity.has_learned(scores.training_mode)
    healed = skill(scores.expected) >= KEPT * skill(scores.train_expected)
    allowed = {
        "the same evaluation gives other scores: the device or non-determinism is the suspect": (
            controls.exact_bits_equal
        ),
        "the scores depend on the batch size of the evaluation": same_loss,
        "there is no gap, since training data are bad in training mode too": learned,
        "even training data are bad in evaluation with every ingredient at its reference value": (
            thresholds.is_absent(own_gap)
        ),
        "val/ stays bad with every ingredient at its reference value, where training data are good, as from "
        "overfitting or a split that is harder": healed,
        "the evaluation as run is about as good as with every ingredient at its reference value, so that a gap is "
        "overfitting or a split that is harder": thresholds.is_present(controls.exact),
        "another batch size of the evaluation removes the gap": thresholds.survives(controls.placebo),
    }
    return next((reason for reason, holds in allowed.items() if not holds), "")


def weigh(
    case: EvaluationCase,
    references: Sequence[Reference],
    snapshots: SnapshotRing,
    scores: Scores,
    controls: Controls,
) -> Diagnosis:
    """The table, the verdict, its confirmation, the name and the cure."""
    table = screen(case, references, scores, controls.exact)
    leader = leading_cause(table)
    if leader is None:
        return abstain(case, controls, f"no single ingredient is both necessary and sufficient: {scores}", table)
    guilty = next(reference for reference in references if reference.ingredient == leader.ingredient)
    agreed, total = confirm(case, guilty, references)
    confidence = confidence_of(agreed, total)
    named = name_evaluation_cause(case, guilty, references, snapshots, scores.as_run, scores.expected)
    table = [replace(row, evidence=named.cause.evidence) if row is leader else row for row in table]
    if confidence < case.config.diagnosis.min_confidence:
        reason = f"{named.cause.name} is the leading suspect, but only {agreed} of {total} evaluations agree: {scores}"
        return abstain(case, controls, reason, table, confidence)
    return Diagnosis(
        symptom=case.symptom,
        epoch=case.recipe.sampler.epoch(case.symptom.onset),
        cause=named.cause.name,
        group=group_of(named.cause.name, guilty.ingredient),
        confidence=round(confidence, 3),
        summary=(
            f"{case.symptom.kind} at step {case.symptom.onset}: {named.cause.name} ({named.cause.evidence}). Swapping "
            f"the {guilty.ingredient.replace('_', ' ')} alone heals the evaluation, and it alone makes the gap appear; "
            f"{agreed} of {total} evaluations agree. {str(scores).capitalize()}."
        ),
        table=table,
        controls=controls,
        remedy=prove(case, named, leader.severity_without),
    )


def screen(case: EvaluationCase, references: Sequence[Reference], scores: Scores, exact: float) -> list[SwapResult]:
    """Necessary, and where it may be, sufficient; ingredients that equal their reference have no part."""
    rows, thresholds = [], case.table_thresholds
    for reference in references:
        without = case.severity(case.score(f"{reference.ingredient} swapped", [reference]), scores.expected)
        necessary = thresholds.necessary(without)
        # The table's ingredients are declared with those of a training step.
        row = SwapResult(reference.ingredient, reference.swap.name, round(without, 2), necessary)
        if necessary != "no" and case.thresholds.is_present(exact):
            others = [other for other in references if other is not reference]
            alone = case.severity(case.score(f"{reference.ingredient} alone", others), scores.expected)
            sufficient = thresholds.sufficient(alone)
            row = replace(row, severity_alone=round(alone, 2), sufficient=sufficient)
        rows.append(row)
    return rows


def confirm(case: EvaluationCase, guilty: Reference, references: Sequence[Reference]) -> tuple[int, int]:
    """Both tests again on disjoint parts of val/, each with statistics that are counted over other samples.

    Returns how many agree, of how many, the two of the screening included.
    """
    agreed, total = 2, 2
    parts = case.config.diagnosis.replicates
    for i in range(parts):
        ids = case.as_run.sample_ids[i::parts]
        counted = statistics_references(case, draw=1 + i)
        drawn = [next((c for c in counted if c.ingredient == r.ingredient), r) for r in references]
        suspect = next(r for r in drawn if r.ingredient == guilty.ingredient)
        expected = case.score(f"all reference, part {i}", drawn, ids=ids)
        without = case.score(f"{guilty.ingredient} swapped, part {i}", [suspect], ids=ids)
        others = [r for r in drawn if r is not suspect]
        alone = case.score(f"{guilty.ingredient} alone, part {i}", others, ids=ids)
        agreed += case.table_thresholds.is_absent(case.severity(without, expected))
        agreed += case.table_thresholds.is_present(case.severity(alone, expected))
        total += 2
    return agreed, total


def prove(case: EvaluationCase, named: Named, severity_without: float) -> Remedy:
    """The cure; verified where an evaluation with it, after a replay where that is part of it, is healthy."""
    severity = severity_without if named.cured is None else named.cured
    return Remedy(named.change, named.cure, case.thresholds.is_absent(severity), round(severity, 2))


def abstain(
    case: EvaluationCase, controls: Controls, reason: str, table: list[SwapResult], confidence: float = 0.0
) -> Diagnosis:
    """An honest 'unexplained', with what was seen."""
    epoch = case.recipe.sampler.epoch(case.symptom.onset)
    return Diagnosis.unexplained(case.symptom, epoch, reason, table, controls, confidence)
