"""The events of a finished log: what the detector would have said, step by step, and when each event was over.

A log is rows of step and loss, with whatever else was written down. Rows may be out of order, twice there, far apart or
not finite. A run that was started anew writes steps that it had written before: such a log is several attempts, and
each is judged by itself, after the steps of the one before that it went on from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from statistics import median

from trainables.baseline import build_baseline, erratic_score
from trainables.config import DetectorConfig
from trainables.detectors import Detector, EvaluationSignals, Symptom, SymptomKind
from trainables.step_signals import StepSignals

HEALED_SHARE = 0.5
"""Share of the score that makes a step suspicious, up to which a median of `confirm` observations has healed."""
RESTARTS_PER_ROW = 0.01
"""Steps back per row up to which they are restarts; where there are more, the rows are out of order."""
NUMBERS = frozenset(f.name for f in fields(StepSignals) if f.type == "float") | {"step"}
"""What is read of a row, besides the scores of an evaluation."""

Row = Mapping[str, float | None]


@dataclass(frozen=True)
class Event:
    """One event of a log."""

    kind: SymptomKind
    step: int
    """Onset: its first step."""
    end_step: int
    """Its last step in the log."""
    severity: float
    """In units of the run's noise, when it was confirmed."""
    confirmed_step: int
    """Step at which the detector would have stopped the run."""
    detail: str
    healed: bool
    """Whether the loss came back to the baseline; else it settled elsewhere, or the log ended."""
    attempt: int = 0
    """Which of the log's attempts, from 0."""


def find_symptoms(
    rows: Iterable[Row], config: DetectorConfig | None = None, num_classes: int | None = None
) -> list[Event]:
    """Every event of a log, in the order of attempts and steps.

    Args:
        rows: mappings with `step` and `loss`, and any other number of `StepSignals`; `val_loss` and `val_top1` are an
            evaluation after the row's step. Missing and None are nan. A row without a loss is an evaluation alone.
        config: the thresholds; the same defaults as in training.
        num_classes: where known, chance level is too.

    """
    events: list[Event] = []
    config = config or DetectorConfig()
    for number, (rows_before, own) in enumerate(attempts(list(rows))):
        watch = Watch(Detector(config, num_classes), number)
        for row in rows_before:
            watch.take(row, final=False)
        watch.events.clear()
        for i, row in enumerate(own):
            watch.take(row, final=i + 1 == len(own))
        events += watch.finished()
    return events


def events_of(
    steps: Iterable[StepSignals], config: DetectorConfig | None = None, num_classes: int | None = None
) -> list[Event]:
    """Every event of one attempt whose steps are signals already; as `find_symptoms` otherwise."""
    watch = Watch(Detector(config or DetectorConfig(), num_classes), 0)
    for signals in steps:
        watch.see(signals)
    return watch.finished()


def attempts(rows: Sequence[Row]) -> list[tuple[list[Row], list[Row]]]:
    """(rows of earlier attempts that it went on from, its own rows) of each attempt; rows in the order of steps."""
    known = [row for row in rows if _number(row.get("step")) >= 0]
    cuts = [i for i, (a, b) in enumerate(pairwise(known), start=1) if _step(b) < _step(a)]
    restarts = cuts if len(cuts) <= max(1, RESTARTS_PER_ROW * len(known)) else []
    written = [_step(row) for row in known]
    restarts = [cut for cut in restarts if written[cut] in set(written[:cut])]
    parts = [known[a:b] for a, b in pairwise([0, *restarts, len(known)])]
    result: list[tuple[list[Row], list[Row]]] = []
    before: list[Row] = []
    for part in parts:
        own = in_order(part)
        before = [row for row in before if own and _step(row) < _step(own[0])]
        result.append((before, own))
        before = [*before, *own]
    return result


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Rows by step; of several with one step, what the later ones say counts."""
    merged: dict[int, dict[str, float | None]] = {}
    for row in rows:
        said = {key: value for key, value in row.items() if value is not None}
        merged.setdefault(_step(row), {}).update(said)
    return [merged[step] for step in sorted(merged)]


@dataclass
class Watch:
    """The detector on one attempt, and the event that is open."""

    detector: Detector
    attempt: int
    events: list[Event] = field(default_factory=list)
    open: Symptom | None = None
    last_bad: int = 0
    during: list[StepSignals] = field(default_factory=list)
    """Steps since the event was confirmed."""
    gap: Symptom | None = None
    """An open eval gap, which hides no event of the loss."""
    gap_end: int = 0
    """Step of the last evaluation."""

    def take(self, row: Row, *, final: bool) -> None:
        """Take the next row."""
        step = _step(row)
        if "loss" in row:
            signals = StepSignals(**{"step": step, **{k: _number(row.get(k)) for k in NUMBERS - {"step"}}})  # type: ignore[arg-type]
            self.see(signals)
        if not {"val_loss", "val_top1"}.isdisjoint(row):
            scores = (_number(row.get("val_loss")), _number(row.get("val_top1")))
            self._evaluate(EvaluationSignals(step, *scores, final=final))

    def finished(self) -> list[Event]:
        """The events, after the last row."""
        if self.open is not None:
            self._close(healed=False)
        if self.gap is not None:
            self.events.append(self._event(self.gap, self.gap_end, healed=False))
        return sorted(self.events, key=lambda event: event.step)

    def see(self, signals: StepSignals) -> None:
        """Take the signals of the next step."""
        if self.open is None:
            self._open(self.detector.update(signals))
            return
        self.during.append(signals)
        if self._score(signals) > HEALED_SHARE * self.detector.config.spike_score:
            self.last_bad = signals.step
        if self._healed():
            self._close(healed=True)
        elif self._settled():
            self._close(healed=False)

    def _score(self, signals: StepSignals) -> float:
        assert self.open is not None
        if self.open.kind == "input_shift":
            return self.open.baseline.input_score(signals)
        return self.open.baseline.step_score(signals)

    def _healed(self) -> bool:
        assert self.open is not None
        config = self.detector.config
        if self.open.kind == "instability":
            losses = [s.loss for s in self.during[-config.erratic_window :]]
            enough = len(losses) == config.erratic_window
            return enough and erratic_score(losses, self.detector.chance) < config.spike_score
        last = self.during[-config.confirm :]
        return len(last) == config.confirm and median(map(self._score, last)) <= HEALED_SHARE * config.spike_score

    def _settled(self) -> bool:
        """Whether the loss stands still at another level: its last `history` steps are a baseline of their own."""
        history = self.detector.config.history
        last = self.during[-history:]
        if len(last) < history or not all(s.finite for s in last):
            return False
        early, late = (
            build_baseline(half, self.detector.chance, window=1)
            for half in (last[: history // 2], last[history // 2 :])
        )
        return abs(late.level - early.level) <= late.noise

    def _open(self, symptom: Symptom | None) -> None:
        if symptom is not None:
            self.open, self.last_bad, self.during = symptom, symptom.step, []

    def _close(self, *, healed: bool) -> None:
        symptom, config = self.open, self.detector.config
        assert symptom is not None
        self.events.append(self._event(symptom, self.last_bad, healed=healed))
        if healed:
            self.detector.memory.forget_event()
        else:
            self.detector.memory.start_anew(self.during[-config.history :])
        self.open = None

    def _event(self, symptom: Symptom, end: int, *, healed: bool) -> Event:
        return Event(
            symptom.kind,
            symptom.onset,
            end,
            symptom.severity,
            symptom.step,
            symptom.detail,
            healed,
            self.attempt,
        )

    def _evaluate(self, evaluation: EvaluationSignals) -> None:
        symptom = self.detector.update_evaluation(evaluation)
        if self.gap is None:
            self.gap = symptom
        if self.gap is not None and self.detector.evaluations.bad_since is None:
            self.events.append(self._event(self.gap, self.gap_end, healed=True))
            self.gap = None
        self.gap_end = evaluation.step


def _step(row: Row) -> int:
    return int(_number(row["step"]))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
