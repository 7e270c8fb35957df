"""The plan of a diagnosis, top to bottom: controls, one swap an ingredient, confirmation, remedy."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import numpy as np

from trainables.config import TrialConfig
from trainables.detectors import Symptom, SymptomKind
from trainables.detectors.broken import OF_ONE_STEP
from trainables.diagnosis.case import BudgetSpentError, Case, Progress
from trainables.diagnosis.causes import group_of
from trainables.diagnosis.confidence import confidence_of
from trainables.diagnosis.controls import Play, exact_control, placebo_control, reference_control
from trainables.diagnosis.corruption import DEVICE, find_corruption
from trainables.diagnosis.interaction import joint_cause
from trainables.diagnosis.naming import NamedCause, name_cause
from trainables.diagnosis.references import (
    Reference,
    choose_references,
    clean_ingredients,
    foreign_since,
    last_change_point,
    sample_pool,
)
from trainables.diagnosis.remedy import try_remedy
from trainables.diagnosis.replay import FROM_THE_START, LASTING, Replay, Replayer, Severity, first_other_bits
from trainables.diagnosis.screen import confirm, equal_rows, screen
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.swap_table import ABSENT_SHARE, SwapResult, Thresholds, leading_cause
from trainables.diagnosis.verdict import Controls, Diagnosis
from trainables.diagnosis.warm_up import doubted
from trainables.ingredients import Ingredients, Stream
from trainables.recipe import Recipe
from trainables.state import Snapshot, TrainState

log = logging.getLogger(__name__)

MARGIN = 3
"""Steps that a snapshot must lie before the onset."""
INPUT_SHARE = 0.5
"""Share of an input shift's severity that counts as absent: the largest of many windows is compared, and of a healthy
stretch some lie near the lower threshold."""
MAX_SNAPSHOTS = 3
"""Snapshots tried before the diagnosis abstains."""


def diagnose(
    recipe: Recipe,
    state: TrainState,
    stream: Stream,
    symptom: Symptom,
    snapshots: SnapshotRing,
    recorded: dict[int, float],
    progress: Progress = lambda label: None,
    clean: Ingredients | None = None,
) -> Diagnosis:
    """Find the cause of `symptom` by replay; the live state is put back afterwards, gradients included.

    recorded: losses of the run by step, for the exact control. clean: the fixed batch that shows damage to the weights;
    None: one of training samples. Every rank of a worker group calls this together: the
    plan depends on global signals only, so all take the same decisions.
    """
    started, config = time.monotonic(), recipe.config
    # A run that goes on does so with the very gradients that its code may look at.
    before = state.snapshot(gradients=True)
    pool = trusted_samples(recipe, stream, symptom)
    clean = clean or clean_ingredients(recipe, pool, state.ranks)
    replayer = Replayer(state, stream, clean, config.data.loader_threads)
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
        stop=last_step(config, symptom),
        known=foreign_since(recipe, stream, symptom.onset, state.ranks),
    )
    try:
        diagnosis = examine(case, choose_snapshots(case, snapshots), pool, recorded, before)
    finally:
        state.restore(before)
    return replace(
        diagnosis,
        replayed_steps=replayer.steps,
        seconds=round(time.monotonic() - started, 2),
        snapshot_bytes=snapshots.memory,
    )


def last_step(config: TrialConfig, symptom: Symptom) -> int:
    """Where replays end. Of a whole run no step comes after the confirmation: those losses are what was judged.

    Nor of an eval gap or a broken step, which were measured there.
    """
    if symptom.kind in FROM_THE_START or symptom.kind == "eval_gap" or symptom.kind in OF_ONE_STEP:
        return symptom.step + 1
    return max(symptom.onset + config.diagnosis.horizon, symptom.step + 1)


def lasts_longer(case: Case) -> bool:
    """Let replays of a level go on for one more of the windows that it is judged by; False: they do, or can't."""
    longest = last_step(case.config, case.symptom) + case.severity.window
    if case.symptom.kind not in LASTING or case.stop >= longest:
        return False
    case.stop = longest
    return True


def choose_snapshots(case: Case, snapshots: SnapshotRing) -> list[Snapshot]:
    """Candidates, best first: before the first step known to be foreign, then before the onset, then older ones.

    An event with no healthy stretch before it is replayed from step 0 only, and an old snapshot only where its replays
    fit into the budget.
    """
    onset = case.symptom.onset
    if case.symptom.kind in FROM_THE_START:
        return snapshots.before(0, margin=0)[-1:]
    if case.symptom.kind == "wrong_update":
        # It is wrong by itself, from whatever weights.
        return snapshots.before(onset, margin=0)[:MAX_SNAPSHOTS]
    usable = snapshots.before(onset, margin=MARGIN)
    known = [*case.known.values()]
    changed_at = last_change_point(case.stream, onset)
    known += [changed_at - 1] if changed_at is not None else []
    untouched = snapshots.before(min(known), margin=0) if known else []
    candidates = [*untouched[:1], *usable[:2], *usable[2:][-2:-1], usable[-1]]
    unique = list({snapshot.step: snapshot for snapshot in candidates}.values())
    longest = case.config.diagnosis.max_replayed_steps // 6
    return [s for s in unique if s is unique[0] or case.stop - s.step <= longest][:MAX_SNAPSHOTS]


def beside_the_event(declared: Thresholds, symptom: Symptom, exact: float) -> Thresholds:
    """The thresholds for so severe an event: of the input, or of what training makes of it."""
    if symptom.kind == "input_shift":
        return declared.beside(exact, INPUT_SHARE, rest=True)
    return declared.beside(exact, ABSENT_SHARE)


def examine(
    case: Case, snapshots: list[Snapshot], pool: np.ndarray, recorded: dict[int, float], live: Snapshot
) -> Diagnosis:
    """Controls from the best snapshot, from another one where they fail, then the swaps."""
    controls, outcome, declared = None, "", case.thresholds
    try:
        for snapshot in snapshots:
            case.snapshot = snapshot
            case.curves.clear()
            exact, controls = exact_control(case, recorded)
            case.thresholds = beside_the_event(declared, case.symptom, controls.exact)
            if not (case.thresholds if controls.exact_bits_equal else declared).is_present(controls.exact):
                if first_other_bits(exact, recorded) == snapshot.step and snapshot is not snapshots[-1]:
                    # Is it the device, or was the state changed just after the snapshot? An older one tells.
                    continue
                return not_back(case, exact, controls, recorded, live)
            controls = placebo_control(case, controls)
            if not case.thresholds.survives(controls.placebo) and lasts_longer(case):
                # A level that has only just risen: under a placebo it rises some steps later.
                _, controls = exact_control(case, recorded)
                controls = placebo_control(case, controls)
            if not case.thresholds.survives(controls.placebo):
                outcome = "a placebo (order within the batch, 1e-6 of weight noise) removes the event: it is chaotic"
                continue
            steps = range(snapshot.step, case.stop)
            references, equal = choose_references(case.recipe, case.state, case.stream, snapshot, steps, pool)
            references = [replace(r, since=case.known.get(r.ingredient, r.since)) for r in references]
            play, controls = reference_control(
                case, references, controls, guessing=may_guess(case.symptom.kind, references, snapshot, snapshots)
            )
            if play is not None:
                case.table[:] = equal_rows(equal, controls.exact)
                return weigh(case, references, play, controls)
            outcome = "the event stays with every ingredient at its reference value"
    except BudgetSpentError:
        budget = case.config.diagnosis
        outcome = f"the budget of {budget.max_replayed_steps} replayed steps or {budget.max_seconds:g} s is used up" + (
            f"; {outcome}" if outcome else ""
        )
    return abstain(case, controls, outcome)


def trusted_samples(recipe: Recipe, stream: Stream, symptom: Symptom) -> np.ndarray:
    """Ids that the run trained well on; all where it never did, since of a few that come again any label is learned."""
    return sample_pool(recipe, stream, 0 if symptom.kind in FROM_THE_START else symptom.onset)


def may_guess(kind: SymptomKind, references: list[Reference], snapshot: Snapshot, snapshots: list[Snapshot]) -> bool:
    """Whether to try rates that nothing names: where a config has values that are no practice, these come first.

    Of an old fault the damage is in a late snapshot already, where only another rate hides it. Of an eval
    gap they say nothing: who learns less never overfits.
    """
    if kind == "eval_gap":
        return False
    return snapshot is snapshots[-1] or all(reference.standing != "usual" for reference in references)


def not_back(case: Case, exact: Replay, controls: Controls, recorded: dict[int, float], live: Snapshot) -> Diagnosis:
    """The event did not come back: too weak, or the state was corrupted, or the replay is not exact."""
    if controls.exact_bits_equal:
        reason = "an exact replay has the run's own bits, but its event is too weak to be told from the noise before it"
        return abstain(case, controls, reason)
    corruption = find_corruption(case, exact, recorded, live)
    if corruption is None:
        return abstain(case, controls, DEVICE)
    named = corruption.named
    return Diagnosis(
        symptom=case.symptom,
        epoch=case.recipe.sampler.epoch(case.symptom.onset),
        cause=named.name,
        group=group_of(named.name, "state"),
        confidence=round(confidence_of(2, 2, "declared"), 3),
        summary=f"{case.symptom.kind} at step {case.symptom.onset}: {named.name} ({named.evidence}). Two exact replays "
        "agree with each other and do not bring the event back: the device is the suspect.",
        table=case.table,
        controls=controls,
        curves=case.curves,
        culprits=named.culprits,
    )


def weigh(case: Case, references: list[Reference], play: Play, controls: Controls) -> Diagnosis:
    """One swap an ingredient, the table, the verdict, its confirmation and the remedy."""
    table = screen(case, play, references)
    leader = leading_cause(table) or joint_cause(case, play, table)
    if leader is None:
        return abstain(case, controls, "no single ingredient is both necessary and sufficient")
    if leader.ingredient not in play.swaps:
        return abstain(case, controls, f"{leader.ingredient} is no part of what makes the run healthy")
    agreed, total, confidence = confirm(case, leader, play)
    reference = next(r for r in play.references if r.ingredient == leader.ingredient)
    named = name_cause(case, reference, play.rate)
    case.table[:] = [replace(row, evidence=named.evidence) if row is leader else row for row in table]
    if confidence < case.config.diagnosis.min_confidence:
        reason = f"{named.name} is the leading suspect, but only {agreed} of {total} replays agree"
        return abstain(case, controls, reason, confidence)
    remedy = try_remedy(case, leader, reference, play.rate)
    if named.name == "warmup_missing":
        named, remedy = doubted(case, leader, reference, named, remedy)
    return Diagnosis(
        symptom=case.symptom,
        epoch=case.recipe.sampler.epoch(case.symptom.onset),
        cause=named.name,
        group=group_of(named.name, leader.ingredient),
        confidence=round(confidence, 3),
        summary=verdict_text(case, leader, named, f"{agreed} of {total} replays agree"),
        table=case.table,
        controls=controls,
        curves=case.curves,
        remedy=remedy,
        culprits=named.culprits,
    )


def verdict_text(case: Case, leader: SwapResult, named: NamedCause, agreement: str) -> str:
    """One sentence on the symptom and the cause, one on the tests."""
    alone = f"it and the {leader.beside.replace('_', ' ')} make it appear together" if leader.beside else ""
    return (
        f"{case.symptom.kind} at step {case.symptom.onset}: {named.name} ({named.evidence}). Swapping the "
        f"{leader.ingredient.replace('_', ' ')} alone makes it vanish, and {alone or 'it alone makes it appear'}; "
        f"{agreement}."
    )


def abstain(case: Case, controls: Controls | None, reason: str, confidence: float = 0.0) -> Diagnosis:
    """An honest 'unexplained', with what was seen."""
    nothing = Controls(exact=case.symptom.severity, exact_bits_equal=False, snapshot_step=case.snapshot.step, horizon=0)
    epoch = case.recipe.sampler.epoch(case.symptom.onset)
    found = Diagnosis.unexplained(case.symptom, epoch, reason, case.table, controls or nothing, confidence)
    return replace(found, curves=case.curves)
