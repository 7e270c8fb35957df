"""The plan of a diagnosis, top to bottom: controls, one swap an ingredient, confirmation, remedy."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from trainables.config import TrialConfig
from trainables.detectors import Symptom
from trainables.diagnosis.case import Case, Progress
from trainables.diagnosis.naming import name_cause
from trainables.diagnosis.references import (
    GROUP_OF,
    LADDER,
    Ingredient,
    RateReference,
    build_references,
    clean_ingredients,
    equals_reference,
    last_change_point,
    rate_before,
    rate_divided,
    sample_pool,
)
from trainables.diagnosis.remedy import try_remedy
from trainables.diagnosis.replay import Replayer, Severity, equal_bits
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.verdict import (
    UNEXPLAINED,
    Controls,
    Diagnosis,
    SwapResult,
    Thresholds,
    confidence_of,
    leading_cause,
)
from trainables.ingredients import Stream, Swap
from trainables.recipe import Recipe
from trainables.state import Snapshot, TrainState

log = logging.getLogger(__name__)

MARGIN = 3
"""Steps that a snapshot must lie before the onset."""
PLACEBOS = 2
MAX_SNAPSHOTS = 2
"""Snapshots tried before the diagnosis abstains."""


def diagnose(
    config: TrialConfig,
    recipe: Recipe,
    state: TrainState,
    stream: Stream,
    symptom: Symptom,
    snapshots: SnapshotRing,
    recorded: dict[int, float],
    progress: Progress = lambda label: None,
) -> Diagnosis:
    """Find the cause of `symptom` by replay; the live state is put back afterwards.

    recorded: losses of the run by step, for the exact control. Every rank of a worker group calls this together: the
    plan depends on global signals only, so all take the same decisions.
    """
    started = time.monotonic()
    before = state.snapshot()
    pool = sample_pool(recipe, stream, symptom.onset)
    replayer = Replayer(state, stream, clean_ingredients(recipe, pool, state.ranks), config.data.loader_threads)
    references = build_references(recipe, state, pool)
    changed_at = last_change_point(stream, symptom.onset)
    case = Case(
        config,
        recipe,
        state,
        stream,
        symptom,
        replayer,
        Severity(symptom, config.detector, config.diagnosis.present_score),
        Thresholds(config.diagnosis.present_score, config.diagnosis.absent_score),
        progress,
        snapshot=before,
        stop=max(symptom.onset + config.diagnosis.horizon, symptom.step + 1),
    )
    try:
        diagnosis = examine(case, references, changed_at, snapshots, recorded)
    finally:
        state.restore(before)
    return replace(diagnosis, replayed_steps=replayer.steps, seconds=round(time.monotonic() - started, 2))


def examine(
    case: Case,
    references: dict[Ingredient, Swap],
    changed_at: int | None,
    snapshots: SnapshotRing,
    recorded: dict[int, float],
) -> Diagnosis:
    """Controls from the latest usable snapshot, from an older one where they fail, then the swaps."""
    outcome = ""
    for snapshot in choose_snapshots(case, snapshots, changed_at):
        case.snapshot = snapshot
        case.curves.clear()
        rate, controls, outcome = run_controls(case, references, changed_at, recorded)
        if not outcome:
            return weigh(case, references, rate, controls)
        if case.thresholds.is_absent(controls.exact):
            break
    return abstain(case, controls, outcome)


def choose_snapshots(case: Case, snapshots: SnapshotRing, changed_at: int | None) -> list[Snapshot]:
    """Candidates, latest first: before the change point where the ring reaches back that far, else before the onset.

    An event with no healthy stretch before it is replayed from step 0 only.
    """
    if case.symptom.kind == "instability":
        return snapshots.before(0, margin=0)[-1:]
    before_jump = snapshots.before(changed_at, margin=1)[:-1] if changed_at is not None else []
    return (before_jump or snapshots.before(case.symptom.onset, margin=MARGIN))[:MAX_SNAPSHOTS]


def run_controls(
    case: Case, references: dict[Ingredient, Swap], changed_at: int | None, recorded: dict[int, float]
) -> tuple[RateReference | None, Controls, str]:
    """Exact replay, placebos, all-reference replay.

    Returns the rate reference that made the last one healthy (None: the run's own), the controls, and what failed.
    """
    thresholds = case.thresholds
    exact = case.replay("as run", [], keep=True)
    controls = Controls(
        exact=case.severity(exact),
        exact_bits_equal=equal_bits(exact, recorded),
        snapshot_step=case.snapshot.step,
        horizon=case.stop - case.symptom.onset,
    )
    log.info("exact replay: severity %.2f, bits equal: %s", controls.exact, controls.exact_bits_equal)
    if not thresholds.is_present(controls.exact):
        reason = (
            "an exact replay has the run's own bits, but its event is too weak to be told from the noise before it"
            if controls.exact_bits_equal
            else "an exact replay does not bring the event back: the device or non-determinism is the suspect"
        )
        return None, controls, reason
    placebo = [case.score(f"placebo {i}", [], placebo=i) for i in range(PLACEBOS)]
    controls = replace(controls, placebo=placebo)
    if not all(map(thresholds.is_present, placebo)):
        return (
            None,
            controls,
            "a placebo (order within the batch, 1e-6 of weight noise) removes the event: it is chaotic",
        )
    for rate in rate_candidates(case, changed_at):
        swaps = [*references.values(), *([rate.swap] if rate else [])]
        severity = case.score("all reference", swaps, keep=True)
        controls = replace(controls, all_reference=severity)
        if thresholds.is_absent(severity):
            return rate, controls, ""
    return None, controls, "the event stays with every ingredient at its reference value"


def rate_candidates(case: Case, changed_at: int | None) -> list[RateReference | None]:
    """Rates to try in the all-reference control: the one before the change point, or the run's own, then the ladder.

    The run's own rate comes first where there is no change point: if all else at reference is healthy at that rate,
    the rate alone is no cause, and dividing it would only hide others.
    """
    ladder = [rate_divided(case.stream, divisor, case.symptom.onset) for divisor in LADDER]
    return [rate_before(case.stream, changed_at) if changed_at is not None else None, *ladder]


def weigh(case: Case, references: dict[Ingredient, Swap], rate: RateReference | None, controls: Controls) -> Diagnosis:
    """One swap an ingredient, the table, the verdict, its confirmation and the remedy."""
    swaps = dict(references)
    if rate is not None:
        swaps = {"learning_rate": rate.swap, **swaps}
    table = [screen(case, ingredient, swaps, controls.exact) for ingredient in swaps]
    leader = leading_cause(table)
    if leader is None:
        return abstain(case, controls, "no single ingredient is both necessary and sufficient", table)
    agreed, total = confirm(case, leader.ingredient, swaps)
    confidence = confidence_of(agreed, total)
    named = name_cause(leader.ingredient, case.recipe, case.stream, case.symptom.step, rate)
    table = [replace(row, evidence=named.evidence) if row is leader else row for row in table]
    if confidence < case.config.diagnosis.min_confidence:
        reason = f"{named.name} is the leading suspect, but only {agreed} of {total} replays agree"
        return abstain(case, controls, reason, table, confidence)
    remedy = try_remedy(case, leader, swaps[leader.ingredient], rate)
    return Diagnosis(
        symptom=case.symptom,
        epoch=case.recipe.sampler.epoch(case.symptom.onset),
        cause=named.name,
        group=GROUP_OF[leader.ingredient],
        confidence=round(confidence, 3),
        summary=(
            f"{case.symptom.kind} at step {case.symptom.onset}: {named.name} ({named.evidence}). Swapping the "
            f"{leader.ingredient.replace('_', ' ')} alone makes it vanish, and it alone makes it appear; "
            f"{agreed} of {total} replays agree."
        ),
        table=table,
        controls=controls,
        curves=case.curves,
        remedy=remedy,
    )


def screen(case: Case, ingredient: Ingredient, swaps: dict[Ingredient, Swap], exact: float) -> SwapResult:
    """Necessary, and where it may be, sufficient. A swap that changes no value needs no replay: it is the exact one."""
    swap = swaps[ingredient]
    if equals_reference(ingredient, case.stream, swap, range(case.snapshot.step, case.stop), case.state.ranks):
        same = "equal to the reference at every replayed step"
        return SwapResult(ingredient, swap.name, round(exact, 2), "no", evidence=same)
    without = case.score(f"{ingredient} swapped", [swap], keep=True)
    necessary = case.thresholds.necessary(without)
    if necessary == "no":
        return SwapResult(ingredient, swap.name, round(without, 2), necessary)
    alone = case.score(f"{ingredient} alone", everything_but(ingredient, swaps), keep=True)
    return SwapResult(
        ingredient, swap.name, round(without, 2), necessary, round(alone, 2), case.thresholds.sufficient(alone)
    )


def confirm(case: Case, ingredient: Ingredient, swaps: dict[Ingredient, Swap]) -> tuple[int, int]:
    """Further replays of both tests, each under its own placebo.

    Returns how many agree, of how many, the two of the screening included.
    """
    agreed, total = 2, 2
    for i in range(case.config.diagnosis.replicates):
        key = 1000 + i
        without = case.score(f"{ingredient} swapped, replicate {i}", [swaps[ingredient]], placebo=key)
        alone = case.score(f"{ingredient} alone, replicate {i}", everything_but(ingredient, swaps), placebo=key)
        agreed += case.thresholds.is_absent(without) + case.thresholds.is_present(alone)
        total += 2
    return agreed, total


def everything_but(ingredient: Ingredient, swaps: dict[Ingredient, Swap]) -> list[Swap]:
    """All reference values, the suspect's excepted."""
    return [swap for other, swap in swaps.items() if other != ingredient]


def abstain(
    case: Case, controls: Controls, reason: str, table: list[SwapResult] | None = None, confidence: float = 0.0
) -> Diagnosis:
    """An honest 'unexplained', with what was seen."""
    return Diagnosis(
        symptom=case.symptom,
        epoch=case.recipe.sampler.epoch(case.symptom.onset),
        cause=UNEXPLAINED,
        group=UNEXPLAINED,
        confidence=round(confidence, 3),
        summary=f"{case.symptom.kind} at step {case.symptom.onset}: {reason}.",
        table=table or [],
        controls=controls,
        curves=case.curves,
    )
