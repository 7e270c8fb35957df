"""What a verdict points at: samples, a layer, a rank, a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.recipe import Recipe

MOST_LISTED = 4096
"""Samples that a diagnosis lists at most."""


@dataclass(frozen=True)
class Culprits:
    """The guilty parts that could be singled out; empty and None where there are none."""

    sample_ids: tuple[int, ...] = ()
    """Of train/, in ascending order."""
    files: tuple[str, ...] = ()
    """Their names, relative to the data set."""
    layer: str = ""
    """Name of the parameter or module."""
    rank: int | None = None
    step: int | None = None
    """The first step with the foreign value: where the schedule changed, the state was edited, the code was another."""


NOBODY = Culprits()


def guilty_samples(recipe: Recipe, ids: np.ndarray, step: int | None = None) -> Culprits:
    """Samples by id and file name."""
    unique = np.unique(ids)[:MOST_LISTED].tolist()
    names = recipe.index.train.store.names
    return Culprits(tuple(unique), tuple(names[i] for i in unique), step=step)


def listed(noun: str, ids: np.ndarray) -> str:
    """`samples 3, 5, 8 and 4 more`."""
    shown = ", ".join(str(int(i)) for i in ids[:8])
    return f"{noun} {shown}" + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
