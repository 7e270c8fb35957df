"""`epoch14 compare`: two trials side by side, as the tracking store has them.

Where the configs differ, how the runs ended, and the first step at which their losses part. Steps are compared where
both trials take the same samples at the same step: same data, seed and global batch size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from infra.explanation import number, percent, plain, remedy_text
from infra.tracking_names import flatten
from infra.tracking_search import TrialRecord, find_trial, recorded_config, recorded_losses
from trainables.errors import ConfigError, complaint

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ORDER_KEYS = ("seed", "global_batch_size", "data.path")
"""What the samples of step k depend on."""
PLAIN_WIDTH = 100
"""Columns where there is no terminal to ask."""
NOTHING = "-"


@dataclass(frozen=True)
class Side:
    """One of the two trials."""

    record: TrialRecord
    config: dict[str, Any]
    """Dotted key -> value: the trial's config, and the `resources` of its sweep."""
    losses: dict[int, float]
    """Step -> training loss (nats), by rising step; NaN where it was not finite."""

    @property
    def final_loss(self) -> float | None:
        """The loss of the last step; None before the first one."""
        return next(reversed(self.losses.values()), None)


@dataclass(frozen=True)
class Parting:
    """The first step at which the losses of two trials differ."""

    step: int
    loss_a: float
    loss_b: float

    @property
    def difference(self) -> float:
        """B less A, in nats."""
        return self.loss_b - self.loss_a


@dataclass(frozen=True)
class Comparison:
    """Two trials, and what differs between them."""

    a: Side
    b: Side
    other_order: tuple[str, ...]
    """Keys that give the two other samples at the same step; empty: the losses of a step can be compared."""
    common_steps: int
    """Steps that both have a loss of."""
    parting: Parting | None
    """None: no common step differs, or steps can't be compared."""

    @property
    def changed(self) -> list[str]:
        """Dotted keys whose values differ, in A's order and then B's. Empty and absent count as equal."""
        keys = dict.fromkeys([*self.a.config, *self.b.config])
        return [key for key in keys if _value(self.a, key) != _value(self.b, key)]

    def to_dict(self) -> dict[str, Any]:
        """Plain types: a key that one config lacks is missing on that side."""
        sides = {"a": self.a, "b": self.b}
        parting = None if self.parting is None else asdict(self.parting) | {"difference": self.parting.difference}
        return {
            **{name: _outcome(side) for name, side in sides.items()},
            "config": [
                {"key": key, **{name: side.config[key] for name, side in sides.items() if key in side.config}}
                for key in self.changed
            ],
            "losses": {
                "same_samples": not self.other_order,
                "other_order": list(self.other_order),
                "common_steps": self.common_steps,
                "first_difference": parting,
            },
        }


def compare(a: str, b: str, uri: str) -> Comparison:
    """Read both trials from the store at `uri`; each is a trial id, a run name or a run id.

    Raises ConfigError for a trial that is unknown, for twice the same one, and where a run holds no config;
    TrackingError if there is no store.
    """
    first, second = find_trial(uri, a), find_trial(uri, b)
    if first.run_id == second.run_id:
        allowed = f"another trial than A; both are run {first.run_id}"
        raise ConfigError(complaint("B", b, allowed, "name a trial by its trial id or run id"))
    return contrast(_side(uri, first), _side(uri, second))


def contrast(a: Side, b: Side) -> Comparison:
    """Compare two trials that were read."""
    other_order = tuple(key for key in ORDER_KEYS if a.config.get(key) != b.config.get(key))
    common = [step for step in a.losses if step in b.losses]
    partings = (Parting(step, a.losses[step], b.losses[step]) for step in common)
    parting = None if other_order else next((found for found in partings if _differ(found)), None)
    return Comparison(a, b, other_order, len(common), parting)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print who is compared, the keys that differ, the outcomes, and a sentence on the losses."""
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    sides = (comparison.a, comparison.b)
    for name, side in zip("AB", sides, strict=True):
        record = side.record
        line = f"{name}  {plain(record.trial_id)}  {plain(record.name)}; sweep {plain(record.sweep)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        if record.namesakes:
            newest = f"   the newest of {record.namesakes + 1} trials that this fits; others go by their trial id"
            console.print(newest, markup=False, highlight=False, soft_wrap=True)
    changed = comparison.changed
    if changed:
        rows = [(key, _shown(comparison.a, key), _shown(comparison.b, key)) for key in changed]
        console.print(_table("config", rows))
    else:
        console.print("\nThe configs are equal.\n", markup=False, highlight=False)
    console.print(_table("outcome", list(_outcome_rows(*sides))))
    console.print(_losses(comparison), markup=False, highlight=False)


def _side(uri: str, record: TrialRecord) -> Side:
    trial, sweep = recorded_config(uri, record.run_id)
    config = dict(flatten({**trial, "resources": sweep.get("resources") or {}}))
    return Side(record, config, recorded_losses(uri, record.run_id))


def _differ(parting: Parting) -> bool:
    both_lost = math.isnan(parting.loss_a) and math.isnan(parting.loss_b)
    return parting.loss_a != parting.loss_b and not both_lost


def _value(side: Side, key: str) -> object:
    value = side.config.get(key)
    return None if value in ([], {}) else value


def _shown(side: Side, key: str) -> str:
    return str(side.config[key]) if key in side.config else NOTHING


def _outcome(side: Side) -> dict[str, Any]:
    """How a trial ended; None for what it has not got."""
    record = side.record
    diagnosis = record.diagnosis or {}
    return {
        "trial_id": record.trial_id,
        "name": record.name,
        "run_id": record.run_id,
        "sweep": record.sweep,
        "status": record.status,
        "best_val_top1": record.best_val_top1,
        "final_loss": side.final_loss,
        "last_step": record.last_step,
        "symptom": record.symptom or None,
        "cause": diagnosis.get("cause"),
        "confidence": diagnosis.get("confidence"),
        "verified_remedy": remedy_text(diagnosis) or None,
        "went_back_and_on_with": [event["text"] for event in record.events if event["action"] == "rollback"],
    }


def _outcome_rows(a: Side, b: Side) -> Iterator[tuple[str, str, str]]:
    """Name of a figure, and its values as they are shown."""
    ends = [_outcome(side) for side in (a, b)]
    cells: list[Mapping[str, str]] = [
        {
            "best val top-1": NOTHING if end["best_val_top1"] is None else f"{100 * end['best_val_top1']:.1f} %",
            "final loss": number(end["final_loss"]),
            "last step": NOTHING if end["last_step"] is None else str(end["last_step"]),
            "symptom": end["symptom"] or "none",
            "cause": end["cause"] or NOTHING,
            "confidence": percent(end["confidence"]),
            "verified remedy": end["verified_remedy"] or NOTHING,
            "went back, and on with": "; ".join(end["went_back_and_on_with"]) or NOTHING,
            "status": end["status"],
        }
        for end in ends
    ]
    for name in cells[0]:
        values = (cells[0][name], cells[1][name])
        if name != "went back, and on with" or values != (NOTHING, NOTHING):
            yield (name, *values)


def _losses(comparison: Comparison) -> str:
    if comparison.other_order:
        keys = ", ".join(comparison.other_order)
        return f"Losses: not compared step by step, since the samples of a step differ with {keys}."
    steps = comparison.common_steps
    if not steps:
        return "Losses: there is no step that both trials have taken."
    found = comparison.parting
    if found is None:
        return f"Losses: equal to the last bit on all {steps} common steps."
    by = "" if math.isnan(found.difference) else f", a difference of {found.difference:+.3g}"
    losses = f"{_exact(found.loss_a)} in A, {_exact(found.loss_b)} in B{by}"
    before = "" if found.step == 0 else "; equal to the last bit before"
    return f"Losses: on the same samples they differ from step {found.step} on: {losses}{before}."


def _exact(loss: float) -> str:
    """Nine digits tell any two float32 numbers apart."""
    return f"{loss:.9g}" if math.isfinite(loss) else number(loss)


def _table(head: str, rows: Sequence[tuple[str, str, str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in (head, "A", "B"):
        table.add_column(name, overflow="fold")
    for key, a, b in rows:
        table.add_row(
            *(Text(plain(cell)) for cell in (key, a, b)), style="bold" if head == "outcome" and a != b else ""
        )
    return table
