"""Spike and collapse: enough steps of the last few lie out of the baseline, or are back at guessing."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median, pstdev

from trainables.baseline import MEDIAN_EFFICIENCY, Baseline, build_baseline, step_scatter
from trainables.detectors.finding import Finding
from trainables.detectors.memory import Memory
from trainables.step_signals import StepSignals

BLOWN_UP = 2.0
"""Loss, as a multiple of chance, that is ill whatever came before, as a median over `min_history` steps, and whatever a
few samples of the batch did."""
OWN_ERRORS = 3.0
"""Standard errors of a batch's own mean that its excess must pass, up to `BLOWN_UP`: a few hard samples in a calm phase
are no spike."""
DOUBTFUL = 0.5
"""Share of the score that makes a step suspicious, from which one step of those that confirm a spike still counts: a
spike decays."""
LEARNED = 0.5
"""Loss, as a share of chance, up to which a run has learned so much that chance level is no noise of it."""
CALM_LEARNED = 0.8
"""The same where the loss stands still at chance: smoothed labels and mixing keep a sound loss above half of it."""
MEDIAN_ERRORS = 6.0
"""Standard errors by which two medians must differ: losses of a tiny batch lie on either side of anything."""
SURE = 0.75
"""Share of the way from the earlier level to chance that makes the event present: replays end a little short of it."""
CALM = 0.25
"""Share of the earlier scatter up to which a loss stands still: of a net that answers the same to all images little but
the labels of the batch is left to vary."""


def sudden(memory: Memory, signals: StepSignals) -> Finding | None:
    """Mark the step where it is suspicious; a finding once `confirm` of the last 2 * confirm steps are.

    One of them may be doubtful only. The last is suspicious.
    """
    config = memory.config
    if len(memory.accepted) < config.min_history:
        return None
    baseline = expected(memory, signals)
    if baseline.loss_score(signals.loss) < config.spike_score or few_explain(memory, signals, baseline.level):
        return None
    memory.suspicious.append(signals.step)
    scores = {s.step: baseline.loss_score(s.loss) for s in memory.recent}
    bad = [s.step for s in memory.recent if s.step in memory.suspicious]
    doubtful = [step for step, score in scores.items() if score >= DOUBTFUL * config.spike_score]
    if len(bad) < max(1, config.confirm - 1) or len({*bad, *doubtful}) < config.confirm:
        return None
    at_chance = memory.stands_at_chance(config.confirm)
    severity = median(scores[step] for step in bad)
    detail = f"loss {signals.loss:.3g} against {baseline.level:.3g} before, {severity:.1f} times the noise"
    return Finding("collapse" if at_chance else "spike", bad[0], severity, detail)


def collapsed(memory: Memory, _signals: StepSignals) -> Finding | None:
    """The last 2 * confirm losses lie at chance, after a stretch below half of it; where they stand still, below 0.8.

    A run whose history still holds its steep descent has a noise in which half of chance is little, and a level of long
    ago: as many steps just before count.
    """
    width = 2 * memory.config.confirm
    last = memory.last_whole(width)
    if len(last) < width or not memory.stands_at_chance(width):
        return None
    before = [s.loss for s in list(memory.accepted)[:-width]]
    if len(before) < memory.config.min_history:
        return None
    before = before[-width:]
    level, calm = median(before), pstdev(last) < CALM * pstdev(before)
    if level > (CALM_LEARNED if calm else LEARNED) * memory.chance:
        return None
    baseline = below_chance(memory, memory.step_before(width), level)
    detail = f"loss {median(last):.3g} over {width} steps, as guessing gives, against {level:.3g} before"
    return Finding("collapse", memory.step_before(width), baseline.loss_score(median(last)), detail, baseline)


def fallen_back(memory: Memory, _signals: StepSignals) -> Finding | None:
    """Most of the last `min_history` losses are back near guessing, after a stretch below half of it.

    An event in a steep descent drowns in its noise, and there is no best stretch yet to measure a drift against.
    """
    count, width, chance = memory.config.min_history, 2 * memory.config.confirm, memory.chance
    last = memory.last(count)
    if not chance or len(last) < count:
        return None
    first = memory.step_before(count)
    before = [s.loss for s in memory.accepted if s.step < first][-width:]
    if len(before) < width or median(before) > LEARNED * chance:
        return None
    level = median(before)
    error = MEDIAN_EFFICIENCY * step_scatter([*before, *last]) * math.sqrt(1.0 / count + 1.0 / width)
    if median(last) - level < max(SURE * (chance - level), MEDIAN_ERRORS * error):
        return None
    pairs = zip(memory.steps, memory.losses, strict=True)
    onset = next(step for step, loss in pairs if step >= first and loss > (level + chance) / 2.0)
    baseline = below_chance(memory, onset, level)
    detail = f"median loss {median(last):.3g} over {count} steps, {chance:.3g} is that of guessing; {level:.3g} before"
    return Finding("divergence", onset, baseline.loss_score(median(last)), detail, baseline)


def below_chance(memory: Memory, onset: int, level: float) -> Baseline:
    """The baseline before `onset` at the level just before it, in units that make guessing an event."""
    unit = min(LEARNED * memory.chance, SURE * (memory.chance - level)) / memory.config.spike_score
    return replace(memory.baseline_before(onset), level=level, noise=unit)


def expected(memory: Memory, signals: StepSignals) -> Baseline:
    """The accepted steps, or the best stretch at a rate that the schedule has come back to, where that is higher."""
    baseline = build_baseline(memory.accepted, memory.chance, window=2 * memory.config.confirm)
    earlier = memory.best.at(signals.learning_rate)
    if earlier is None or earlier.level <= baseline.level:
        return baseline
    return replace(baseline, level=earlier.level, noise=max(baseline.noise, earlier.noise))


def few_explain(memory: Memory, signals: StepSignals, level: float) -> bool:
    """Whether a few hard samples explain the batch's loss, which nothing does far above chance."""
    blown_up = memory.chance > 0 and signals.loss > BLOWN_UP * memory.chance
    return not blown_up and signals.loss < level + OWN_ERRORS * signals.loss_noise
