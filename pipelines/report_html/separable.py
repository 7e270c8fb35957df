"""Which factors the trials of a sweep can tell apart, whatever came out: a property of the design alone.

A factor's effect can be told from the others' where its indicator columns add their full rank to the design matrix of
the others (estimability of main effects, e.g. Searle 1971, "Linear Models", chapter 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from pipelines.report_html.factors import Factor


class Separation(StrEnum):
    """How far a factor can be told from others."""

    FULL = "separable"
    PARTLY = "only partly separable"
    NONE = "not separable"


def separation(factor: Factor, others: Sequence[Factor]) -> Separation:
    """Whether the effect of `factor` can be told from those of `others` taken together."""
    trials = len(factor.level_of)
    base = np.hstack([np.ones((trials, 1)), *(_indicators(other) for other in others)])
    rank = int(np.linalg.matrix_rank(base))
    gain = int(np.linalg.matrix_rank(np.hstack([base, _indicators(factor)]))) - rank
    if gain == len(factor.levels) - 1:
        return Separation.FULL
    return Separation.PARTLY if gain else Separation.NONE


def confounded_with(factor: Factor, others: Sequence[Factor]) -> list[tuple[Factor, Separation]]:
    """The single factors that `factor` is not, or only partly, separable from."""
    found = [(other, separation(factor, [other])) for other in others]
    return [(other, how) for other, how in found if how != Separation.FULL]


def _indicators(factor: Factor) -> np.ndarray:
    """A column for each level but the first, [trials, levels - 1]."""
    columns = np.asarray(factor.level_of)[:, None] == np.arange(1, len(factor.levels))
    return np.asarray(columns, dtype=float)
