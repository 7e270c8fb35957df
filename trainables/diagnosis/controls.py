"""Replays that must come out as expected before any swap is blamed: exact, placebos, all at reference."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from trainables.diagnosis.case import Case
from trainables.diagnosis.causes import Ingredient
from trainables.diagnosis.references import RateReference, Reference, rate_candidates
from trainables.diagnosis.references.choose import Standing
from trainables.diagnosis.references.sound import trusted_subset
from trainables.diagnosis.replay import FROM_THE_START, Replay, equal_bits
from trainables.diagnosis.verdict import Controls
from trainables.ingredients import Swap

log = logging.getLogger(__name__)

PLACEBOS = 2
TINY = 0.15
"""Share of a sound rate that is the suspect before the data are."""
PROOF = 16
"""Steps from step 0 on whose bits prove that the recorded losses of a whole run are what a replay would give."""


@dataclass(frozen=True)
class Play:
    """The smallest set of references found that makes the run healthy, and the rate among them."""

    references: tuple[Reference, ...]
    rate: RateReference | None

    @property
    def swaps(self) -> dict[Ingredient, Swap]:
        """By ingredient."""
        return {reference.ingredient: reference.swap for reference in self.references}


def exact_control(case: Case, recorded: dict[int, float]) -> tuple[Replay, Controls]:
    """Replay the run as it was.

    A whole run whose losses are all on record is replayed for PROOF steps only: a step is a pure function, so that the
    rest of the bits follow.
    """
    steps = range(case.stop)
    whole = case.symptom.kind in FROM_THE_START and case.snapshot.step == 0 and all(k in recorded for k in steps)
    if whole and case.stop > PROOF:
        case.progress("as run")
        first = case.replayer.run(case.snapshot, PROOF)
        case.update_ratio = first.signals[0].update_ratio
        exact = case.replayer.as_recorded(recorded, steps) if equal_bits(first, recorded) else case.replay("as run", [])
        case.replays[case.key([], None)] = exact
        case.curves["as run"] = exact.curve()
    else:
        exact = case.replay("as run", [], keep=True)
    controls = Controls(
        exact=case.severity(exact),
        exact_bits_equal=equal_bits(exact, recorded),
        snapshot_step=case.snapshot.step,
        horizon=case.stop - case.symptom.onset,
    )
    log.info("exact replay: severity %.2f, bits equal: %s", controls.exact, controls.exact_bits_equal)
    return exact, controls


def placebo_control(case: Case, controls: Controls) -> Controls:
    """Replay with what can't matter changed; a whole run once, since it costs as much as all that follows."""
    count = 1 if case.symptom.kind in FROM_THE_START else PLACEBOS
    placebo = [case.score(f"placebo {i}", [], placebo=i) for i in range(count)]
    return replace(controls, placebo=placebo)


def reference_control(
    case: Case, references: list[Reference], controls: Controls, *, guessing: bool = True
) -> tuple[Play | None, Controls]:
    """Replay with more and more at reference until it is healthy; None: it never is.

    guessing: whether rates are tried that nothing names.
    """
    for play in plays(case, references, guessing=guessing):
        severity = case.score("all reference", list(play.swaps.values()), keep=True)
        controls = replace(controls, all_reference=severity)
        if case.thresholds.is_absent(severity):
            return play, controls
    return None, controls


def plays(case: Case, references: list[Reference], *, guessing: bool) -> Iterator[Play]:
    """First what the run did not do as declared, then practice's values, then other draws, then other rates.

    These alone: all else at reference was not enough, and where more than the rate is needed no single cause is left.
    """
    foremost, *others = rate_candidates(case.recipe, case.stream, case.symptom, case.update_ratio)
    by_rate = [as_reference(foremost)] if foremost is not None else []
    tried: set[tuple[Reference, ...]] = {()}
    for standings in (("declared",), ("declared", "usual"), ("declared", "usual", "drawn")):
        chosen = (*by_rate, *(r for r in references if r.standing in standings))
        if chosen not in tried:
            tried.add(chosen)
            yield Play(chosen, foremost)
    rates = [rate for rate in others if rate is not None] if guessing else []
    alone = [Play((as_reference(rate),), rate) for rate in rates]
    if case.symptom.kind in FROM_THE_START:
        # Where the same rate trains on val/, it is the data of train/; of updates that are far too small, the rate.
        trusted = Play((Reference("samples", trusted_subset(case.recipe), "usual"),), None)
        alone.insert(len(alone) if any(rate.divisor < TINY for rate in rates) else 0, trusted)
    yield from alone


def as_reference(rate: RateReference) -> Reference:
    """A rate among the references."""
    standing: Standing = "declared" if rate.changed_at is not None else "usual"
    return Reference("learning_rate", rate.swap, standing, rate.changed_at)
