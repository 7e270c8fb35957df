"""All cases, in an order whose every beginning is a broad cut."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from itertools import zip_longest

from tests.benchmarks.diagnosis.bases import BASES, Base, Part
from tests.benchmarks.diagnosis.below import BELOW_THE_SEAM
from tests.benchmarks.diagnosis.controls import CONTROLS
from tests.benchmarks.diagnosis.seam import SEAM
from tests.benchmarks.diagnosis.variant import Case, Variant
from trainables.config import TrialConfig

VARIANTS: tuple[Variant, ...] = (*SEAM, *BELOW_THE_SEAM, *CONTROLS)


def select(
    parts: Iterable[Part],
    seeds: Sequence[int],
    *,
    only: str = "*",
    variants: Iterable[Variant] = VARIANTS,
    bases: Iterable[Base] = BASES,
) -> list[Case]:
    """Cases of the bases that are here, whose name fits the glob `only`.

    The first of each variant come first, then the second ones; bases and seeds of each in an order of their own.
    """
    there = [found for found in bases if found.part in parts and found.available()]
    configs = {found.name: TrialConfig.parse(found.values(0)) for found in there}
    columns = [
        sorted((Case(b, v, s) for b in there if v.fits(configs[b.name]) for s in seeds), key=shuffled) for v in variants
    ]
    rounds = zip_longest(*columns)
    return [case for cases in rounds for case in cases if case is not None and fnmatch(case.name, only)]


def case_named(name: str) -> Case:
    """BASE/FAULT/SEED -> the case: names go from process to process, what variants hold doesn't."""
    base, variant, seed = name.split("/")
    return Case(
        next(found for found in BASES if found.name == base),
        next(found for found in VARIANTS if found.name == variant),
        int(seed),
    )


def shuffled(case: Case) -> str:
    """A key that orders cases by chance, the same way each time."""
    return hashlib.sha256(case.name.encode()).hexdigest()
