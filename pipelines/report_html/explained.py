"""Which factor explains the failures of a sweep, or an honest word that its trials can't tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from infra.tracking_sweeps import RecordedSweep, SweptTrial
from pipelines.report_html.factors import Factor, find_factors
from pipelines.report_html.rates import Rate, chance_of_difference, explained_share, level_rates
from pipelines.report_html.separable import Separation, confounded_with, separation
from pipelines.report_html.trials import cause, counts, is_ill

SIGNIFICANT = 0.05
"""Chance below which a difference counts, shared out among the factors (Bonferroni)."""


@dataclass(frozen=True)
class Level:
    """One level of a factor."""

    name: str
    rate: Rate
    causes: tuple[tuple[str, int], ...]
    """(cause, trials), the most frequent first."""


@dataclass(frozen=True)
class Effect:
    """What a factor has to do with the failures."""

    factor: Factor
    levels: tuple[Level, ...]
    share: float
    """Share of the variance of failing that it explains, from 0 to 1."""
    chance: float
    """How often chance alone would part the levels as much."""
    confounded: tuple[str, ...]
    """What it can't be told from, each in a sentence; empty: the design tells it from all others."""


@dataclass(frozen=True)
class Explanation:
    """The factors, those that explain most first, and what follows."""

    effects: tuple[Effect, ...]
    failed: int
    total: int
    left_out: int
    """Trials that ended before anyone could know: pruned, failed with an error, interrupted."""
    verdict: str


def explain_failures(sweep: RecordedSweep) -> Explanation:
    """Failure rates by factor, what the design can't part, and a verdict of one or two sentences."""
    trials = [trial for trial in sweep.trials if counts(trial)]
    factors = find_factors(sweep.config.get("space") or {}, trials)
    failed = [is_ill(trial) for trial in trials]
    effects = sorted((_effect(factor, factors, trials, failed) for factor in factors), key=_strength)
    verdict = _verdict(effects, failed)
    return Explanation(tuple(effects), sum(failed), len(trials), len(sweep.trials) - len(trials), verdict)


def _effect(factor: Factor, factors: Sequence[Factor], trials: Sequence[SweptTrial], failed: Sequence[bool]) -> Effect:
    rates = level_rates(failed, factor.level_of, len(factor.levels))
    causes = [Counter[str]() for _ in factor.levels]
    for trial, level in zip(trials, factor.level_of, strict=True):
        if is_ill(trial):
            causes[level][cause(trial)] += 1
    levels = zip(factor.levels, rates, causes, strict=True)
    return Effect(
        factor,
        tuple(Level(name, rate, tuple(count.most_common())) for name, rate, count in levels),
        explained_share(rates),
        chance_of_difference(failed, factor.level_of),
        tuple(_confounded(factor, [other for other in factors if other is not factor])),
    )


def _strength(effect: Effect) -> tuple[float, float]:
    return effect.chance, -effect.share


def _confounded(factor: Factor, others: Sequence[Factor]) -> list[str]:
    pairs = confounded_with(factor, others)
    told = [f"{how} from {other.name}: {_why(how, other)}" for other, how in pairs]
    together = separation(factor, others)
    if not told and together != Separation.FULL:
        told = [f"{together} from the other factors together: too few of their combinations were tried"]
    return told


def _why(how: Separation, other: Factor) -> str:
    if how == Separation.NONE:
        return f"whoever knows a trial's {other.name} knows this too"
    return f"some levels were only ever tried with one level of {other.name}"


def _verdict(effects: Sequence[Effect], failed: Sequence[bool]) -> str:
    if not failed:
        return "No trial came far enough to be counted."
    if not any(failed):
        return f"None of {len(failed)} trials fell ill: there is nothing to explain."
    if all(failed):
        which = "The only trial fell ill" if len(failed) == 1 else f"All {len(failed)} trials fell ill"
        return f"{which}: whatever the sweep varied does not part the ill from the healthy."
    if not effects:
        return "The sweep varied nothing that could explain who fell ill."
    first, *others = effects
    if first.chance > SIGNIFICANT / len(effects):
        return (
            f"No factor explains the failures by more than chance: {sum(failed)} of {len(failed)} trials fell ill, and "
            f"even {first.factor.name}, the strongest, would part them as much {in_percent(first.chance)} of the time "
            "by chance. More trials would tell."
        )
    return " ".join([_leading(first), *_aliases(first), *_within(first, others, failed)])


def _leading(effect: Effect) -> str:
    ranked = sorted(effect.levels, key=lambda level: (-level.rate.share, -level.rate.total))
    worst, best = ranked[0], ranked[-1]
    return (
        f"Who falls ill goes with {effect.factor.name}: {_of(worst)} against {_of(best)}. It explains "
        f"{in_percent(effect.share)} of the differences between trials; by chance that happens "
        f"{in_percent(effect.chance)} of the time."
    )


def _aliases(effect: Effect) -> list[str]:
    return [f"But it is {text}." for text in effect.confounded]


def _within(first: Effect, others: Sequence[Effect], failed: Sequence[bool]) -> list[str]:
    """What else matters among trials of the same level of the first factor."""
    strata = first.factor.level_of
    chances = [(other, chance_of_difference(failed, other.factor.level_of, strata)) for other in others]
    more = [f"{other.factor.name} ({in_percent(p)})" for other, p in chances if p <= SIGNIFICANT / (1 + len(others))]
    if more:
        return [f"Among trials with the same {first.factor.name} there is also a difference by {', '.join(more)}."]
    apart = [other for other, _ in chances if separation(other.factor, [first.factor]) != Separation.NONE]
    if not apart:
        return []
    names = ", ".join(other.factor.name for other in apart)
    return [f"Among trials with the same {first.factor.name}, {names} shows no more difference than chance."]


def _of(level: Level) -> str:
    return f"{level.rate.failed} of {level.rate.total} with {level.name}"


def in_percent(share: float) -> str:
    """A share as percent, with what is below one told exactly."""
    return f"{100 * share:.0f} %" if share >= 0.0095 else f"{100 * share:.1g} %"
