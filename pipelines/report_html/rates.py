"""Failure rates with intervals, and whether they differ between the levels of a factor by more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainables.rng import generator

Z_95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""
PERMUTATIONS = 1999


@dataclass(frozen=True)
class Rate:
    """How many trials of a group failed, and the 95 % interval of the rate behind it."""

    failed: int
    total: int

    @property
    def share(self) -> float:
        """The observed rate; NaN without trials."""
        return self.failed / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval, (low, high).

        Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

        >>> [round(bound, 3) for bound in Rate(8, 10).interval]
        [0.49, 0.943]
        """
        n = self.total
        if not n:
            return 0.0, 1.0
        centre = self.share + Z_95**2 / (2 * n)
        half = Z_95 * math.sqrt(self.share * (1 - self.share) / n + Z_95**2 / (4 * n * n))
        low, high = (centre - half) / (1 + Z_95**2 / n), (centre + half) / (1 + Z_95**2 / n)
        # At 0 and n the formula is exact, but not in floating point.
        return (0.0 if self.failed == 0 else low), (1.0 if self.failed == n else high)


def level_rates(failed: Sequence[bool], level_of: Sequence[int], num_levels: int) -> list[Rate]:
    """The rate of each level."""
    ill, level = np.asarray(failed, bool), np.asarray(level_of, int)
    return [Rate(int(ill[level == k].sum()), int((level == k).sum())) for k in range(num_levels)]


def explained_share(rates: Sequence[Rate]) -> float:
    """Share of the variance of failing that the levels explain (eta squared); 0 where all fail or none."""
    failed, total = sum(rate.failed for rate in rates), sum(rate.total for rate in rates)
    whole = failed * (total - failed) / total if total else 0.0
    within = sum(rate.failed * (rate.total - rate.failed) / rate.total for rate in rates if rate.total)
    return 1 - within / whole if whole else 0.0


def chance_of_difference(failed: Sequence[bool], level_of: Sequence[int], strata: Sequence[int] | None = None) -> float:
    """How often chance alone parts the levels at least as much: the p-value of a permutation test.

    Failures are shuffled among the trials of a stratum (by default one holds all trials), so that what parts the strata
    is no evidence. The statistic is the sum over levels of (observed - expected failures)^2 / variance, as Cochran,
    Mantel and Haenszel have it. The shuffles are a function of nothing, so that a report is the same each time.
    """
    ill, level = np.asarray(failed, float), np.asarray(level_of, int)
    stratum = np.zeros(len(ill), int) if strata is None else np.asarray(strata, int)
    order = np.argsort(stratum, kind="stable")
    ill, level, stratum = ill[order], level[order], stratum[order]
    expected = _stratum_means(ill, stratum)
    spread = expected * (1 - expected)
    members = (level[:, None] == np.arange(level.max(initial=0) + 1)).astype(float)
    variance = spread @ members
    tested = variance > 0
    if not tested.any():
        return 1.0
    rng = generator("report", "permutations")
    shuffled = np.empty((PERMUTATIONS, len(ill)))
    for part in np.unique(stratum):
        columns = np.flatnonzero(stratum == part)
        shuffled[:, columns] = rng.permuted(np.tile(ill[columns], (PERMUTATIONS, 1)), axis=1)

    def parted(outcome: np.ndarray) -> np.ndarray:
        """The statistic of each row, [rows]."""
        off = (outcome - expected) @ members
        return np.asarray((off[:, tested] ** 2 / variance[tested]).sum(axis=1))

    observed = parted(ill[None])[0]
    return float(1 + (parted(shuffled) >= observed * (1 - 1e-9)).sum()) / (PERMUTATIONS + 1)


def _stratum_means(values: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    means = np.empty(len(values))
    for part in np.unique(stratum):
        means[stratum == part] = values[stratum == part].mean()
    return means
