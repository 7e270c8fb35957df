"""One ill trial, told: its curve, each diagnosis with its table of swaps and their replays, and how to run it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from infra.explanation import NONE, number, percent, plain, remedy_text
from infra.tracking_sweeps import SweptTrial
from pipelines.report_html.curves import Point, thinned
from pipelines.report_html.figures import Drawn, drawn_again, replay_frame, replayed_as_run, replays, single
from pipelines.report_html.reproduce import set_options
from pipelines.report_html.samples import named_samples
from pipelines.report_html.trials import diagnoses, onsets
from trainables.baseline import NON_FINITE_SCORE

NAMES_SHOWN = 8
"""Samples that a story names."""
AS_RUN, ALL_REFERENCE, REMEDY = "as run", "all reference", "remedy"
"""Replays of a diagnosis that are no row of its table."""


@dataclass(frozen=True)
class SwapRow:
    """A row of the necessary and sufficient table."""

    ingredient: str
    swap: str
    without: str
    necessary: str
    without_drawn: Markup
    alone: str
    sufficient: str
    alone_drawn: Markup
    evidence: str
    is_cause: bool


@dataclass(frozen=True)
class ToldDiagnosis:
    """One diagnosis."""

    head: str
    summary: str
    sure: str
    remedy: str
    options: str
    """The remedy as `--set` options; empty where it lies outside the config."""
    suspects: tuple[str, ...]
    """What the tests have not cleared, best first; empty where that is the verdict alone."""
    rows: tuple[SwapRow, ...]
    """The cause first, then what was replayed, then what is equal to its reference."""
    controls: tuple[tuple[str, str, Markup], ...]
    """(name, what came out, drawing)."""
    samples: tuple[str, ...]
    more_samples: int
    steps: str
    """Which steps were replayed."""


@dataclass(frozen=True)
class Story:
    """One ill trial."""

    trial: SweptTrial
    figure: Markup
    diagnoses: tuple[ToldDiagnosis, ...]
    style: str


def tell(trial: SweptTrial, style: str, mark: str, most_points: int) -> Story:
    """The story of a trial in the style of its cause, its curves at about `most_points` points."""
    found = diagnoses(trial)
    bands = [(int(one["symptom"]["onset"]), int(one["symptom"]["step"])) for one in found]
    curve = Drawn(trial.loss, style, "", onsets(trial), mark)
    label = f"Training loss of trial {trial.trial_id}, events at step {', '.join(map(str, onsets(trial))) or 'unknown'}"
    figure = single(curve, 2 * most_points, bands, label) if trial.loss else Markup("")
    told = tuple(_told(one, most_points, f"r{trial.trial_id}.{place}") for place, one in enumerate(found))
    return Story(trial, figure, told, style)


def _told(diagnosis: Mapping[str, Any], most_points: int, name: str) -> ToldDiagnosis:
    symptom = diagnosis["symptom"]
    drawing = _Drawing(diagnosis, most_points, name)
    names = [file for _, file in named_samples(diagnosis)]
    change = (diagnosis.get("remedy") or {}).get("change") or {}
    rows = [_row(row, drawing) for row in diagnosis.get("table") or ()]
    controls = diagnosis.get("controls") or {}
    start, seconds = controls.get("snapshot_step"), diagnosis.get("seconds")
    return ToldDiagnosis(
        head=f"{symptom['kind']} from step {symptom['onset']}, confirmed at step {symptom['step']} "
        f"(epoch {symptom['epoch']}): {diagnosis['cause']}",
        summary=plain(diagnosis.get("summary", "")),
        sure=percent(diagnosis["confidence"]),
        remedy=_remedy(diagnosis),
        options=set_options(change) if remedy_text(diagnosis) and change else "",
        suspects=tuple(_suspects(diagnosis)),
        rows=tuple(sorted(rows, key=lambda row: (not row.is_cause, not row.without_drawn))),
        controls=tuple(_controls(diagnosis, drawing)),
        samples=tuple(names[:NAMES_SHOWN]),
        more_samples=max(0, len(names) - NAMES_SHOWN),
        steps=f"{diagnosis.get('replayed_steps', 0)} steps were replayed in {number(seconds)} s, from step {start} on",
    )


def _remedy(diagnosis: Mapping[str, Any]) -> str:
    remedy = diagnosis.get("remedy") or {}
    if not remedy:
        return "none found by a replay"
    severity = number(remedy.get("severity"))
    if remedy.get("verified"):
        return f"{plain(remedy['text'])} - verified: a replay with it stays healthy (severity {severity})"
    return f"none verified; tried: {plain(remedy['text'])} (severity {severity})"


def _suspects(diagnosis: Mapping[str, Any]) -> list[str]:
    suspects = diagnosis.get("causes") or ()
    if [suspect["cause"] for suspect in suspects] == [diagnosis["cause"]]:
        return []
    return [
        f"{plain(one['cause'])}, confidence {percent(one['confidence'])}: {plain(one['evidence'])}".removesuffix(": ")
        for one in suspects
    ]


class _Drawing:
    """The replays of one diagnosis, in one frame."""

    def __init__(self, diagnosis: Mapping[str, Any], most_points: int, name: str) -> None:
        curves = diagnosis.get("curves") or {}
        points: dict[str, list[Point]] = {
            str(name): [(int(step), float(loss)) for step, loss in curve] for name, curve in curves.items() if curve
        }
        self._onset = onset = int(diagnosis["symptom"]["onset"])
        self._curves = {name: thinned(curve, most_points, {onset - 1, onset}) for name, curve in points.items()}
        self._frame = replay_frame(list(self._curves.values()))
        self._name, self._named = name, False

    def of(self, name: str, severity: float | None) -> Markup:
        """A replay above the run as it was; empty where its curve was not kept."""
        curve = self._curves.get(name)
        if curve is None:
            return Markup("")
        broke = severity is not None and severity >= NON_FINITE_SCORE
        # A curve holds finite losses only: it ends where the loss was not.
        tail = [(curve[-1][0] + 1, float("nan"))] if broke else []
        before = Markup("") if name == AS_RUN else self._before()
        drawn = Drawn([*curve, *tail], "after", "")
        return replays(drawn, before, self._frame, self._onset, f"Replay: {name}, severity {number(severity)}")

    def _before(self) -> Markup:
        if AS_RUN not in self._curves:
            return Markup("")
        if self._named:
            return drawn_again(self._name)
        self._named = True
        return replayed_as_run(self._curves[AS_RUN], self._frame, self._name)


def _row(row: Mapping[str, Any], drawing: _Drawing) -> SwapRow:
    name = str(row["ingredient"])
    without, alone = row.get("severity_without"), row.get("severity_alone")
    necessary, sufficient = str(row.get("necessary") or NONE), str(row.get("sufficient") or NONE)
    return SwapRow(
        ingredient=name.replace("_", " "),
        swap=plain(row.get("swap", "")),
        without=number(without),
        necessary=necessary,
        without_drawn=drawing.of(f"{name} swapped", without),
        alone=number(alone),
        sufficient=sufficient,
        alone_drawn=drawing.of(f"{name} alone", alone),
        evidence=plain(row.get("evidence", "")),
        is_cause=necessary == sufficient == "yes",
    )


def _controls(diagnosis: Mapping[str, Any], drawing: _Drawing) -> list[tuple[str, str, Markup]]:
    controls = diagnosis.get("controls") or {}
    if not controls:
        return []
    bits = {True: ", with the same bits", False: ", but with other bits", None: ""}[controls.get("exact_bits_equal")]
    exact, reference = controls.get("exact"), controls.get("all_reference")
    found = [("exact replay", f"severity {number(exact)}{bits}", drawing.of(AS_RUN, exact))]
    placebos: Sequence[float] = controls.get("placebo") or ()
    if placebos:
        told = f"severity {', '.join(map(number, placebos))}: harmless changes must keep the event"
        found.append(("placebos", told, Markup("")))
    if reference is not None:
        told = f"severity {number(reference)}: this must stay healthy"
        found.append(("everything at its reference", told, drawing.of(ALL_REFERENCE, reference)))
    remedy = diagnosis.get("remedy") or {}
    if remedy:
        told = f"severity {number(remedy.get('severity'))}"
        found.append(("with the remedy", told, drawing.of(REMEDY, remedy.get("severity"))))
    return found
