"""The plan of a guard's diagnosis, top to bottom: controls, one swap an ingredient, confirmation, remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from trainables.detectors import Symptom
from trainables.diagnosis.causes import UNEXPLAINED
from trainables.diagnosis.confidence import confidence_of
from trainables.diagnosis.swap_table import TestedSwap, Thresholds, sole_cause
from trainables.diagnosis_config import DiagnosisConfig
from trainables.guard.history import History
from trainables.guard.references import (
    LADDER,
    LoopRate,
    References,
    build_references,
    clipped,
    last_jump,
    rate_before,
    rate_divided,
    skipped,
)
from trainables.guard.replay import GuardSwap, LoopReplay, LoopReplayer, LoopSeverity
from trainables.guard.state import LoopSnapshot
from trainables.guard.stepper import Stepper
from trainables.guard.verdict import (
    GuardControls,
    GuardDiagnosis,
    GuardRemedy,
    Ingredient,
)

MARGIN = 3
"""Steps that a snapshot should lie before the onset."""
PLACEBOS = 2
MAX_SNAPSHOTS = 2
"""Snapshots tried before the diagnosis abstains."""
LONGER = 2
"""A cure is replayed over this many times the horizon: a lower rate must not merely delay the event."""
OTHER_CAUSES = {
    "optimizer_state": ("optimizer_state", "the momentum of before the event"),
    "number_format": ("low_precision", "the float32 step stays healthy"),
    "normalization": ("batch_statistics", "the running statistics stay healthy"),
}
"""(cause, evidence) where the guilty ingredient says no more about itself."""


@dataclass
class GuardCase:
    """One diagnosis under way."""

    symptom: Symptom
    history: History
    stepper: Stepper
    replayer: LoopReplayer
    severity: LoopSeverity
    thresholds: Thresholds
    config: DiagnosisConfig
    stop: int
    snapshot: LoopSnapshot | None = None
    references: References = field(default_factory=lambda: References({}, {}))
    rate: LoopRate | None = None
    """The rate that made the all-reference replay healthy; None: the loop's own."""
    healthy_norm: float = math.nan
    """Largest gradient norm before the event."""

    def replay(self, swaps: Sequence[GuardSwap] = (), *, placebo: int | None = None) -> LoopReplay:
        """One replay of the case's stretch."""
        assert self.snapshot is not None
        settled = self.severity.settled
        return self.replayer.run(self.snapshot, self.stop, swaps, placebo=placebo, settled=settled)

    def score(self, swaps: Sequence[GuardSwap] = (), *, placebo: int | None = None) -> float:
        """Severity of one replay."""
        return self.severity(self.replay(swaps, placebo=placebo).signals)

    @property
    def swaps(self) -> dict[Ingredient, GuardSwap]:
        """A reference for each ingredient."""
        rate: dict[Ingredient, GuardSwap] = {"learning_rate": self.rate.swap} if self.rate else {}
        return {**rate, **self.references.swaps}


def examine(case: GuardCase) -> tuple[GuardDiagnosis, GuardSwap | None]:
    """Find the cause; also the swap that cures it, where a longer replay with it stays healthy and it can go on."""
    jump = last_jump(case.history, case.symptom.onset)
    controls, outcome = None, "no snapshot lies before the event"
    for snapshot in choose_snapshots(case, jump):
        case.snapshot = snapshot
        case.references = build_references(case.stepper, case.history, case.symptom.onset, snapshot.step)
        controls, outcome = run_controls(case, jump)
        if not outcome:
            return weigh(case, controls)
    return abstain(case, controls, outcome), None


def choose_snapshots(case: GuardCase, jump: int | None) -> list[LoopSnapshot]:
    """Candidates: before the rate's jump where they reach back that far, else well before the onset, else before it."""
    before_jump = case.history.usable(jump - 1) if jump is not None else []
    return (before_jump or case.history.usable(case.symptom.onset - MARGIN) or case.history.usable(case.symptom.onset))[
        :MAX_SNAPSHOTS
    ]


def run_controls(case: GuardCase, jump: int | None) -> tuple[GuardControls, str]:
    """Exact replay, placebos, all-reference replay; also what failed, empty where nothing did."""
    assert case.snapshot is not None
    exact = case.replay()
    controls = GuardControls(
        snapshot_step=case.snapshot.step,
        exact=case.severity(exact.signals),
        first_difference=case.replayer.first_difference(exact),
    )
    before = [norm for step, norm in exact.grad_norms.items() if step < case.symptom.onset and math.isfinite(norm)]
    case.healthy_norm = max(before, default=math.nan)
    if not case.thresholds.is_present(controls.exact):
        at = controls.first_difference
        return controls, (
            "an exact replay has the run's own bits, but its event is too weak to be told from the noise before it"
            if at is None
            else f"an exact replay does not bring the event back, its losses differ from step {at} on: something that "
            "the guard does not put back, or the device, is the suspect"
        )
    placebo = tuple(case.score(placebo=i) for i in range(PLACEBOS))
    controls = replace(controls, placebo=placebo)
    if not all(map(case.thresholds.is_present, placebo)):
        return controls, "a placebo (1e-6 of weight noise) removes the event: it is chaotic"
    severity = find_reference(case, jump)
    controls = replace(controls, all_reference=severity)
    if case.thresholds.is_absent(severity):
        return controls, ""
    return controls, "the event stays with every ingredient at its reference value"


def find_reference(case: GuardCase, jump: int | None) -> float:
    """Severity of the first healthy all-reference replay, which settles the case's rate and references.

    The loop's own rate comes first where it has no jump, then the ladder. Running statistics, and momentum from zero,
    are no reference where they are unhealthy by themselves, so both are left out next.
    """
    own = rate_before(case.replayer, jump) if jump is not None else None
    rates = [own, *(rate_divided(case.replayer, divisor, case.symptom.onset) for divisor in LADDER)]
    severity = math.nan
    for references in (case.references, without_doubtful(case.references)):
        for rate in rates:
            swaps = [*references.swaps.values(), *([rate.swap] if rate else [])]
            severity = case.score(swaps)
            if case.thresholds.is_absent(severity):
                case.rate, case.references = rate, references
                return severity
        if references.swaps == without_doubtful(references).swaps:
            break
    return severity


def without_doubtful(references: References) -> References:
    """The references without those that may make a healthy stretch unhealthy."""
    doubtful = [name for name in ("normalization", "optimizer_state") if name in references.swaps]
    reason = "with its reference value the all-reference replay is not healthy"
    return References(
        {name: swap for name, swap in references.swaps.items() if name not in doubtful},
        {**references.not_tested, **dict.fromkeys(doubtful, reason)},
    )


def weigh(case: GuardCase, controls: GuardControls) -> tuple[GuardDiagnosis, GuardSwap | None]:
    """One swap an ingredient, the table, the verdict, its confirmation and the remedy."""
    table = tuple(screen(case, ingredient) for ingredient in case.swaps)
    leader = sole_cause(table)
    clipping = try_clipping(case)
    if leader is None:
        reason = "no single ingredient is both necessary and sufficient"
        return replace(abstain(case, controls, reason), table=table, clipping=clipping), None
    agreed, total = confirm(case, leader.ingredient)
    confidence = round(confidence_of(agreed, total), 3)
    batches = guilty_batches(case) if leader.ingredient == "samples" else ()
    cause, evidence = name_cause(case, leader.ingredient, batches)
    if confidence < case.config.min_confidence:
        reason = f"{cause} is the leading suspect, but only {agreed} of {total} replays agree"
        unsure = abstain(case, controls, reason)
        return replace(unsure, table=table, clipping=clipping, confidence=confidence), None
    remedy, cure = try_remedy(case, leader.ingredient, batches)
    what = leader.ingredient.replace("_", " ")
    summary = (
        f"{case.symptom.kind} at step {case.symptom.onset}: {cause} ({evidence}). Swapping the {what} alone makes it "
        f"vanish, and it alone makes it appear; {agreed} of {total} replays agree."
    )
    found = GuardDiagnosis(
        case.symptom, cause, confidence, summary, table, not_tested(case), controls, batches, remedy, clipping
    )
    return found, cure


def screen(case: GuardCase, ingredient: Ingredient) -> TestedSwap[Ingredient]:
    """Necessary, and where it may be, sufficient."""
    swap = case.swaps[ingredient]
    without = case.score([swap])
    necessary = case.thresholds.necessary(without)
    if necessary == "no":
        return TestedSwap(ingredient, swap.name, round(without, 2), necessary)
    alone = case.score(everything_but(case, ingredient))
    return TestedSwap(
        ingredient, swap.name, round(without, 2), necessary, round(alone, 2), case.thresholds.sufficient(alone)
    )


def confirm(case: GuardCase, ingredient: Ingredient) -> tuple[int, int]:
    """Further replays of both tests under placebos: how many agree, of how many, the screening's two included."""
    agreed, total = 2, 2
    for i in range(case.config.replicates):
        without = case.score([case.swaps[ingredient]], placebo=1000 + i)
        alone = case.score(everything_but(case, ingredient), placebo=1000 + i)
        agreed += case.thresholds.is_absent(without) + case.thresholds.is_present(alone)
        total += 2
    return agreed, total


def everything_but(case: GuardCase, ingredient: Ingredient) -> list[GuardSwap]:
    """All reference values, the suspect's excepted."""
    return [swap for other, swap in case.swaps.items() if other != ingredient]


def guilty_batches(case: GuardCase) -> tuple[int, ...]:
    """Batches of the stretch, and of the remedy's longer one, whose loss is bad already at the snapshot's weights."""
    assert case.snapshot is not None
    guilty = []
    for step in range(case.snapshot.step, longer_stop(case)):
        batch = case.replayer.plan(step).batch
        case.replayer.state.restore(case.snapshot)
        signals = case.replayer.step(step)
        score = case.symptom.baseline.step_score(signals) if signals else 0.0
        if batch is not None and case.thresholds.is_present(score):
            guilty.append(batch)
    return tuple(dict.fromkeys(guilty))


def name_cause(case: GuardCase, ingredient: Ingredient, batches: tuple[int, ...]) -> tuple[str, str]:
    """(cause, evidence) behind the guilty ingredient."""
    if ingredient == "learning_rate":
        assert case.rate is not None
        return case.rate.cause, case.rate.evidence
    if ingredient == "samples":
        shown = ", ".join(map(str, batches[:8])) + (f" and {len(batches) - 8} more" if len(batches) > 8 else "")
        return "poisoned_batch", f"batches {shown}" if batches else "no batch is bad at the snapshot's weights"
    return OTHER_CAUSES[ingredient]


def longer_stop(case: GuardCase) -> int:
    """Where a cure's replay ends."""
    return case.symptom.onset + LONGER * (case.stop - case.symptom.onset)


def try_remedy(
    case: GuardCase, ingredient: Ingredient, batches: tuple[int, ...]
) -> tuple[GuardRemedy, GuardSwap | None]:
    """The loop with only the guilty ingredient put right, over a longer stretch, and the swap where it can go on."""
    assert case.snapshot is not None
    swap, cure, text = case.swaps[ingredient], None, f"{case.swaps[ingredient].name} instead"
    if ingredient == "samples" and batches:
        swap = cure = skipped(batches)
        text = f"skip batches {', '.join(map(str, batches))}"
    elif ingredient == "learning_rate" and case.rate is not None and case.rate.cap is not None:
        swap = cure = GuardSwap(case.rate.swap.name, case.rate.cap)
        text = f"learning rate: {swap.name}"
    replay = case.replayer.run(case.snapshot, longer_stop(case), [swap], settled=case.severity.settled)
    severity = case.severity(replay.signals)
    verified = case.thresholds.is_absent(severity)
    return GuardRemedy(text, verified, round(severity, 2)), cure if verified else None


def try_clipping(case: GuardCase) -> GuardRemedy | None:
    """Gradients clipped to the largest norm before the event; None where no such norm is known."""
    assert case.snapshot is not None
    if not math.isfinite(case.healthy_norm):
        return None
    swap = clipped(case.healthy_norm)
    replay = case.replayer.run(case.snapshot, longer_stop(case), [swap], settled=case.severity.settled)
    severity = case.severity(replay.signals)
    return GuardRemedy(swap.name, case.thresholds.is_absent(severity), round(severity, 2))


def not_tested(case: GuardCase) -> dict[str, str]:
    """What no replay has swapped, and why."""
    missing = dict(case.references.not_tested)
    if case.rate is None and case.references.swaps:
        missing["learning_rate"] = "everything else at its reference is healthy at the loop's own rate"
    return missing


def abstain(case: GuardCase, controls: GuardControls | None, reason: str) -> GuardDiagnosis:
    """An honest 'unexplained', with what was seen."""
    summary = f"{case.symptom.kind} at step {case.symptom.onset}: {reason}."
    return GuardDiagnosis(case.symptom, UNEXPLAINED, 0.0, summary, not_tested=not_tested(case), controls=controls)
