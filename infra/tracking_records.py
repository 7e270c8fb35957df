"""What is to be written into the tracking store, as values that can wait in a queue or in a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SweepStart:
    """A sweep begins, or goes on in the run that it has; `params` is its config, `tags` are a new run's."""

    params: dict[str, Any]
    parent_run_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialStart:
    """A trial begins or goes on.

    `params` are the config's dotted keys, `changed` its point of the space in words, `config` the config itself. One
    that is `over` is told again after a restore: its records are written only where its run is not closed.
    """

    trial_id: str
    name: str
    params: dict[str, str]
    changed: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    over: bool = False


@dataclass(frozen=True)
class Report:
    """One row of a trial, as `run_trial` reports it; its steps were taken between two times (ms since 1970)."""

    trial_id: str
    row: dict[str, Any]
    since_ms: int
    until_ms: int


@dataclass(frozen=True)
class Siblings:
    """What the events of a sweep's other trials say about a trial's, in a sentence."""

    trial_id: str
    text: str


@dataclass(frozen=True)
class TrialEnd:
    """A trial is over. `status` is MLflow's: FINISHED, FAILED or KILLED (stopped before its last step)."""

    trial_id: str
    status: str
    error: str = ""


@dataclass(frozen=True)
class SweepEnd:
    """A sweep is over; `rows` are those of its final table, if it came to one."""

    rows: list[dict[str, Any]]
    status: str


Record = SweepStart | TrialStart | Report | Siblings | TrialEnd | SweepEnd
KINDS: dict[str, type[Record]] = {
    kind.__name__: kind for kind in (SweepStart, TrialStart, Report, Siblings, TrialEnd, SweepEnd)
}


def to_json(record: Record) -> str:
    """One line; NaN and infinities are written as Python's json does and `from_json` reads."""
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return json.dumps({"kind": type(record).__name__, **fields}, default=str)


def from_json(line: str) -> Record:
    """The record of one line; raises ValueError if it is none."""
    values = json.loads(line)
    if not isinstance(values, Mapping) or values.get("kind") not in KINDS:
        raise ValueError(f"no record of a sweep: {line[:80]!r}")
    return KINDS[values["kind"]](**{key: value for key, value in values.items() if key != "kind"})
