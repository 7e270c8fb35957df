"""The detector and published rules on real training logs, against events labelled by eye.

    make bench-curves ARGS="--margins"

Logs: ../shared/data/curves beside the repository; labels: tests/data/curves_events.csv. An event is hit where the
onset of an alarm lies between its first and its last step; an alarm elsewhere is false, but for excursions that the
labels call brief. Published rules are re-implemented from their descriptions; of theirs the alarm's step counts, and
alarms less than 50 observations apart are one. Exits 1 where the detector alarms on a quiet run.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.published import RULES, Rule, olmo_core_with_norms  # noqa: E402 - after the path

CURVES = ROOT.parent / "shared" / "data" / "curves" / "train.parquet"
LABELS = ROOT / "tests" / "data" / "curves_events.csv"
APART = 50
CLASSES = 1000

Alarm = tuple[int, int, int]
"""Onset, step of the alarm, attempt."""
Rows = Sequence[Mapping[str, float | None]]
Finder = Callable[[Rows], Iterator[int]]
"""Rows of an attempt -> places of a rule's alarms."""


@dataclass(frozen=True)
class Label:
    """A stretch of a run that was labelled by eye."""

    first_step: int
    last_step: int
    kind: str


@dataclass
class Tally:
    """What a rule did on a set of runs."""

    events: int = 0
    hit: int = 0
    event_runs: int = 0
    event_runs_hit: int = 0
    quiet_runs: int = 0
    quiet_runs_alarmed: int = 0
    false_alarms: int = 0
    brief_alarms: int = 0
    delays: tuple[int, ...] = ()

    def add(self, labels: Sequence[Label], alarms: Sequence[Alarm]) -> None:
        """Take a run."""
        owed = [label for label in labels if label.kind != "brief"]
        hits = [[a for a in alarms if label.first_step <= a[0] <= label.last_step] for label in owed]
        outside = [a for a in alarms if not any(label.first_step <= a[0] <= label.last_step for label in owed)]
        brief = [a for a in outside if any(near(label, a) for label in labels)]
        self.events += len(owed)
        self.hit += sum(map(bool, hits))
        self.event_runs += bool(owed)
        self.event_runs_hit += any(hits)
        self.quiet_runs += not owed
        self.quiet_runs_alarmed += not owed and len(outside) > len(brief)
        self.false_alarms += len(outside) - len(brief)
        self.brief_alarms += len(brief)
        self.delays += tuple(h[0][1] - label.first_step for h, label in zip(hits, owed, strict=True) if h)


def near(label: Label, alarm: Alarm) -> bool:
    """Whether the alarm belongs to a brief excursion."""
    return label.kind == "brief" and label.first_step - 200 <= alarm[0] <= label.last_step + 200


def values(rows: Rows, key: str) -> list[float]:
    """A column; 0 where nothing was logged."""
    return [float(row.get(key) or 0.0) for row in rows]


def by_loss(rule: Rule) -> Finder:
    """A rule that looks at the loss alone."""
    return lambda rows: rule(values(rows, "loss"))


PUBLISHED: dict[str, Finder] = {
    **{name: by_loss(rule) for name, rule in RULES.items()},
    "OLMo-core skip-step, loss and gradient norm": lambda rows: olmo_core_with_norms(
        values(rows, "loss"), values(rows, "grad_norm")
    ),
}


def alarms_of(rule: Finder, rows: Rows) -> list[Alarm]:
    """Alarms of a published rule, by their places, on each attempt of a log."""
    from trainables.timeline import attempts

    found: list[Alarm] = []
    for number, (_, own) in enumerate(attempts(rows)):
        last = -math.inf
        for place in rule(own):
            if place - last > APART:
                step = int(own[place]["step"] or 0)
                found.append((step, step, number))
            last = place
    return found


def detector_alarms(
    rows: Sequence[dict[str, float]], num_classes: int | None, changes: dict[str, float]
) -> list[Alarm]:
    """Alarms of epoch14's detector, at its defaults but for `changes`."""
    from trainables.config import DetectorConfig
    from trainables.timeline import find_symptoms

    events = find_symptoms(rows, DetectorConfig.parse(changes), num_classes)
    return [(event.step, event.confirmed_step, event.attempt) for event in events]


def read_runs(path: Path = CURVES) -> dict[str, list[dict[str, float]]]:
    """Rows of each run, as they were logged."""
    runs: dict[str, list[dict[str, float]]] = {}
    for row in pq.read_table(path, columns=["run", "step", "loss", "grad_norm"]).to_pylist():
        runs.setdefault(row.pop("run"), []).append(row)
    return runs


def read_labels(path: Path = LABELS) -> dict[str, list[Label]]:
    """Labelled stretches of each run; none for a quiet one."""
    labels: dict[str, list[Label]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            mine = labels.setdefault(row["run"], [])
            if row["first_step"]:
                mine.append(Label(int(row["first_step"]), int(row["last_step"]), row["kind"]))
    return labels


def tally(alarms: Callable[[str, list[dict[str, float]]], list[Alarm]], names: Sequence[str] | None = None) -> Tally:
    """What a rule does on the runs."""
    total, labels = Tally(), read_labels()
    for name, rows in read_runs().items():
        if names is None or name in names:
            total.add(labels[name], alarms(name, rows))
    return total


def epoch14(classes: int | None = CLASSES, **changes: float) -> Callable[[str, list[dict[str, float]]], list[Alarm]]:
    """The detector; the classes are those of ImageNet, a language model's are not given."""
    return lambda name, rows: detector_alarms(rows, classes if name.startswith("algoperf/") else None, changes)


def show(name: str, total: Tally) -> None:
    """One line of the table."""
    delay = f"{median(total.delays):g}" if total.delays else "-"
    print(
        f"| {name} | {total.hit}/{total.events} | {total.event_runs_hit}/{total.event_runs} "
        f"| {total.quiet_runs_alarmed}/{total.quiet_runs} | {total.false_alarms} | {total.brief_alarms} | {delay} |",
        flush=True,
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--margins", action="store_true", help="also move each threshold")
    arguments = parser.parse_args()
    if not CURVES.is_file():
        print(f"{CURVES} is absent: nothing to measure")
        return 2
    print("| rule | events hit | event runs hit | quiet runs alarmed | false alarms | on brief | median delay, steps |")
    print("|---|---|---|---|---|---|---|")
    own = tally(epoch14())
    show("epoch14, 1000 classes", own)
    show("epoch14, classes unknown", tally(epoch14(None)))
    names = sorted(read_runs())
    show("epoch14, even runs", tally(epoch14(), names[::2]))
    show("epoch14, odd runs", tally(epoch14(), names[1::2]))
    for name, rule in PUBLISHED.items():
        show(name, tally(lambda _, rows, rule=rule: alarms_of(rule, rows)))  # type: ignore[misc]
    if arguments.margins:
        moved = [{"spike_score": score} for score in (4.0, 5.0, 7.0, 8.0)]
        moved += [{"confirm": 3}, {"confirm": 5}, {"history": 30}, {"history": 60}]
        for changes in moved:
            show(f"epoch14, {changes}", tally(epoch14(CLASSES, **changes)))
    return 1 if own.quiet_runs_alarmed else 0


if __name__ == "__main__":
    sys.exit(main())
