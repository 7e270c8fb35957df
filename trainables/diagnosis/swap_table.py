"""The necessary / sufficient table, and the rule that picks the cause in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from trainables.diagnosis.causes import Ingredient

Answer = Literal["yes", "no", "inconclusive", "not tested"]


MOST = 0.7
"""Share of a weak event's severity that counts as the event: another draw of the same is seldom just as severe."""
ABSENT_SHARE = 0.25
"""Share of an event's severity that counts as absent, within bounds."""
SEVERE = 4.0
"""Multiple of the upper threshold from which an event is very severe."""
REST = 0.9
"""Share of the upper threshold up to which what a very severe event leaves is absent."""


@dataclass(frozen=True)
class Thresholds:
    """Severity at which an event counts as present, and up to which it counts as absent."""

    present: float
    absent: float

    def is_present(self, severity: float) -> bool:
        """Whether the event is there."""
        return severity >= self.present

    def is_absent(self, severity: float) -> bool:
        """Whether it is not; between the two a replay has no vote."""
        return severity <= self.absent

    def survives(self, placebos: Sequence[float]) -> bool:
        """Whether the event outlives what can't matter: it is absent in no placebo, and present in half of them."""
        return not any(map(self.is_absent, placebos)) and 2 * sum(map(self.is_present, placebos)) >= len(placebos)

    def beside(self, exact: float, share: float, *, rest: bool = False) -> Thresholds:
        """Those for an event of severity `exact`: most of it is present, `share` of it absent.

        Each moves up to half-way between the two, the lower one up and the upper one down. `rest`: what an event that
        is `SEVERE` leaves is absent up to `REST` of the upper one; not where training goes on, and what is left grows.
        """
        half_way = (self.absent + self.present) / 2.0
        highest = REST * self.present if rest and exact >= SEVERE * self.present else half_way
        present = max(half_way, min(MOST * exact, self.present))
        return Thresholds(present, max(self.absent, min(share * exact, highest)))

    def necessary(self, severity_without: float) -> Answer:
        """Swapping the ingredient out makes the event vanish."""
        return (
            "yes" if self.is_absent(severity_without) else "no" if self.is_present(severity_without) else "inconclusive"
        )

    def sufficient(self, severity_alone: float) -> Answer:
        """The ingredient alone, in an otherwise reference run, makes the event appear."""
        return "yes" if self.is_present(severity_alone) else "no" if self.is_absent(severity_alone) else "inconclusive"


Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class TestedSwap(Generic[Name]):
    """One row of a necessary / sufficient table."""

    __test__ = False
    ingredient: Name
    swap: str
    severity_without: float
    """Severity with this ingredient alone swapped for its reference."""
    necessary: Answer
    severity_alone: float | None = None
    """Severity with every other ingredient swapped for its reference; None: not tested."""
    sufficient: Answer = "not tested"

    @property
    def is_cause(self) -> bool:
        """Both necessary and sufficient."""
        return self.necessary == "yes" and self.sufficient == "yes"


@dataclass(frozen=True)
class SwapResult(TestedSwap[Ingredient]):
    """A row of a diagnosis's table."""

    evidence: str = ""
    standing: str = ""
    """declared, usual or drawn, as `references` has it; empty: equal to the run's own value."""
    beside: Ingredient | None = None
    """The ingredient beside whose own value alone it is sufficient; None: it needs none."""


Row = TypeVar("Row", bound=TestedSwap[Any])


def sole_cause(table: Sequence[Row]) -> Row | None:
    """The one ingredient that is both necessary and sufficient; None where there is none, or more than one."""
    causes = [row for row in table if row.is_cause]
    return causes[0] if len(causes) == 1 else None


def leading_cause(table: Sequence[SwapResult]) -> SwapResult | None:
    """The one ingredient that is both necessary and sufficient.

    Where several are, the one whose value is proven to be foreign: it is the more specific. None where nothing parts
    them, or there is none.
    """
    causes = [row for row in table if row.is_cause]
    for standing in ("declared", "usual"):
        if len(causes) > 1 and any(row.standing == standing for row in causes):
            causes = [row for row in causes if row.standing == standing]
    return sole_cause(causes)
