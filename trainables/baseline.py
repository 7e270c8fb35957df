"""What a healthy stretch looks like, and how far a step lies from it, in units of the stretch's own noise.

The detector and the replays of a diagnosis score with the same functions, so 'present' means the same to both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, pstdev
from typing import Any, Self

from trainables.step_signals import StepSignals

MAD_TO_STD = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""
NOISE_FLOOR = 0.02
"""Least noise scale of the loss, as a share of its level."""
FLOOR_LEVEL = 0.5
"""Level below which the floor no longer falls, as a share of chance: z = 6 is at least 0.4 nats on ImageNet."""
INPUT_FLOOR = 0.03
"""Least noise scale of the input's moments, in units of a channel's std."""
MEDIAN_EFFICIENCY = 1.2533
"""Standard error of a median over that of a mean, for a normal distribution: sqrt(pi / 2)."""
NON_FINITE_SCORE = 1e3
"""Severity of a step that is not finite."""
UPDATE_NOISE = 0.02
"""Noise scale of an update's error, which is rounding: at most 0.005 in sound runs."""
ERRATIC_LEVEL = 1.05
"""Mean loss, as a multiple of chance, over `erratic_window` steps that is worse than guessing."""
ERRATIC_SPREAD = 0.1
"""Standard deviation of the loss over that window, as a share of chance, that is erratic rather than stalled."""
ERRATIC_CAP = 4.0
"""Largest loss, as a multiple of chance, that counts: one batch of the window then moves its mean by a few percent."""
AT_CHANCE = 0.05
"""Distance from chance, as a share of it, that counts as chance level."""
DECLARED_SHIFT = 0.25
"""Largest departure of the first steps' input moments from the declared ones, in units of the normalised input."""


@dataclass(frozen=True)
class Baseline:
    """Frozen description of a healthy stretch: what later losses and inputs are measured against."""

    level: float
    """Median loss, in nats."""
    noise: float
    """Scale of one step's scatter around it, in nats."""
    chance: float
    """Loss of uniform guessing, ln(classes); 0 where the classes are not known."""
    input_mean: tuple[float, ...] = ()
    input_std: tuple[float, ...] = ()
    input_noise: float = INPUT_FLOOR
    mixing_cost: float = 0.0
    """What mixup and CutMix add to a loss, in nats a nat of their targets' entropy; level and noise are without it."""
    declared: bool = False
    """True: the moments are those that the data index promises, not those of earlier steps."""

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """The baseline that `dataclasses.asdict` made a mapping of, through JSON too."""
        means = {key: tuple(row[key]) for key in ("input_mean", "input_std")}
        return cls(**{**row, **means})

    def loss_score(self, loss: float) -> float:
        """Excess of `loss` over the baseline, in noise units; NON_FINITE_SCORE where it is not finite."""
        if not math.isfinite(loss):
            return NON_FINITE_SCORE
        return min(NON_FINITE_SCORE, (loss - self.level) / self.noise)

    def step_score(self, signals: StepSignals) -> float:
        """`loss_score` of a step, without what mixing costs; NON_FINITE_SCORE where the step is not finite."""
        return self.loss_score(signals.unmixed(self.mixing_cost).loss) if signals.finite else NON_FINITE_SCORE

    def plain_losses(self, steps: Sequence[StepSignals]) -> list[float]:
        """Losses of a stretch of finite steps without what mixing costs, which is nothing where it stands at chance."""
        losses = [signals.loss for signals in steps]
        if self.mixing_cost and not stands_at_chance(losses, self.chance):
            return [signals.unmixed(self.mixing_cost).loss for signals in steps]
        return losses

    def window_score(self, steps: Sequence[StepSignals]) -> float:
        """`loss_score` of the median of `plain_losses`."""
        return self.loss_score(median(self.plain_losses(steps)))

    def input_score(self, signals: StepSignals) -> float:
        """Largest departure of a channel's mean or log-std from the baseline, in noise units."""
        if not self.input_mean or not signals.input_mean:
            return 0.0
        return min(NON_FINITE_SCORE, moment_distance(signals, self.input_mean, self.input_std) / self.input_noise)

    def stretch_score(self, steps: Sequence[StepSignals]) -> float:
        """`input_score` of a stretch: pooled moments against declared ones, median moments against earlier ones."""
        return self.input_score(pooled_moments(steps) if self.declared else median_moments(steps))


def update_score(signals: StepSignals) -> float:
    """What of a step's update is not the optimizer's, in noise units; 0 where it was not measured, or not made."""
    if not signals.applied or not math.isfinite(signals.update_error):
        return 0.0
    return min(NON_FINITE_SCORE, signals.update_error / UPDATE_NOISE)


def apart_score(signals: StepSignals) -> float:
    """NON_FINITE_SCORE where ranks hold different weights, which no noise makes them; else 0."""
    return NON_FINITE_SCORE if signals.weight_checksum_spread > 0 else 0.0


def is_chance(loss: float, chance: float) -> bool:
    """Whether the loss is that of guessing; never where `chance` is 0, not known."""
    return chance > 0 and abs(loss - chance) < AT_CHANCE * chance


def stands_at_chance(losses: Sequence[float], chance: float) -> bool:
    """Whether a stretch of losses lies at that of guessing, with next to no scatter."""
    return is_chance(median(losses), chance) and pstdev(losses) < AT_CHANCE * chance


def moment_distance(signals: StepSignals, mean: tuple[float, ...], std: tuple[float, ...]) -> float:
    """Largest departure of any channel: |mean - mean0| / std0 or |log(std / std0)|."""
    distances = [0.0]
    for m, s, m0, s0 in zip(signals.input_mean, signals.input_std, mean, std, strict=True):
        scale = max(s0, 1e-6)
        distances += [abs(m - m0) / scale, abs(math.log(max(s, 1e-6) / scale))]
    return max(distances) if all(map(math.isfinite, distances)) else math.inf


def declared_baseline(
    chance: float, input_mean: tuple[float, ...], input_std: tuple[float, ...], first: Sequence[StepSignals]
) -> Baseline:
    """What a run without history is measured against: guessing, and the moments that the data index promises.

    `first` are the run's first steps; they say how far the moments of that many samples scatter. The noise of the
    loss makes twice chance a score of 6.
    """
    noise = DECLARED_SHIFT / 6.0
    if first and first[0].input_mean:
        noise = max(noise, channel_noise(first, median_moments(first)) / math.sqrt(len(first)))
    return Baseline(chance, chance / 6.0, chance, input_mean, input_std, noise, declared=True)


def build_baseline(steps: Sequence[StepSignals], chance: float, *, window: int) -> Baseline:
    """Robust level and noise of a stretch of finite steps.

    `window`: over how many steps the input moments will be averaged that are compared with it.
    """
    losses = [signals.loss for signals in steps]
    level = median(losses)
    scatter = MAD_TO_STD * median(abs(loss - level) for loss in losses)
    errors = [signals.loss_noise for signals in steps if math.isfinite(signals.loss_noise)]
    floor = NOISE_FLOOR * max(abs(level), FLOOR_LEVEL * chance)
    noise = max(scatter, median(errors) if errors else 0.0, floor, 1e-12)
    if not steps[0].input_mean:
        return Baseline(level, noise, chance)
    centre = median_moments(steps)
    single = channel_noise(steps, centre)
    averaged = single * MEDIAN_EFFICIENCY / math.sqrt(max(1, window))
    return Baseline(level, noise, chance, centre.input_mean, centre.input_std, max(averaged, INPUT_FLOOR))


def pooled_moments(steps: Sequence[StepSignals]) -> StepSignals:
    """The channel moments over all pixels of a stretch; only the moments are set.

    The std of a small batch leaves out what differs between batches, so it is pooled with the spread of the means.
    """
    means = [fmean(values) for values in zip(*(s.input_mean for s in steps), strict=True)]
    squares = [
        fmean(m * m + d * d for m, d in zip(ms, ds, strict=True))
        for ms, ds in zip(
            zip(*(s.input_mean for s in steps), strict=True),
            zip(*(s.input_std for s in steps), strict=True),
            strict=True,
        )
    ]
    stds = [math.sqrt(max(0.0, square - mean * mean)) for square, mean in zip(squares, means, strict=True)]
    return StepSignals(step=steps[-1].step, loss=0.0, input_mean=tuple(means), input_std=tuple(stds))


def median_moments(steps: Sequence[StepSignals]) -> StepSignals:
    """The channel moments of a stretch, one outlying batch notwithstanding; only the moments are set."""
    return StepSignals(
        step=steps[-1].step,
        loss=0.0,
        input_mean=tuple(median(values) for values in zip(*(s.input_mean for s in steps), strict=True)),
        input_std=tuple(median(values) for values in zip(*(s.input_std for s in steps), strict=True)),
    )


def channel_noise(steps: Sequence[StepSignals], centre: StepSignals) -> float:
    """Scatter of one step's channel moments in units of the channel's std: the noisiest channel's."""
    scatters = [0.0]
    for channel, (mean, std) in enumerate(zip(centre.input_mean, centre.input_std, strict=True)):
        scale = max(std, 1e-6)
        scatters.append(MAD_TO_STD * median(abs(s.input_mean[channel] - mean) / scale for s in steps))
        scatters.append(MAD_TO_STD * median(abs(math.log(max(s.input_std[channel], 1e-6) / scale)) for s in steps))
    return max(scatters)


def step_scatter(losses: Sequence[float]) -> float:
    """Robust scale of one step's scatter, from the changes from step to step, so that a trend is none."""
    changes = [abs(after - before) for before, after in pairwise(losses)]
    return MAD_TO_STD * median(changes) / math.sqrt(2.0) if changes else 0.0


def erratic_score(losses: list[float], chance: float) -> float:
    """How much worse than guessing a noisy stretch is on average; 0 for a calm one, however high.

    6 at `ERRATIC_LEVEL` times chance, 1 more for each further 2 % of chance. Losses count up to `ERRATIC_CAP`, so that
    one outlier is no stretch; the scatter is that of the changes from step to step, so that a smooth fall is none.
    """
    if len(losses) < 2 or not all(map(math.isfinite, losses)):
        return NON_FINITE_SCORE
    capped = [min(loss, ERRATIC_CAP * chance) for loss in losses]
    scatter = pstdev(after - before for before, after in pairwise(capped)) / math.sqrt(2.0)
    if scatter < ERRATIC_SPREAD * chance:
        return 0.0
    return max(0.0, 6.0 + (fmean(capped) / chance - ERRATIC_LEVEL) / NOISE_FLOOR)
