"""The report of a sweep as one HTML text that needs nothing beside it. Names are text in it, whatever they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2
from markupsafe import Markup

from infra.explanation import NONE, percent
from infra.tracking_sweeps import RecordedSweep, SweptTrial
from pipelines.progress.pace import duration
from pipelines.report import answer
from pipelines.report_html.answer import FoundCause, found_causes
from pipelines.report_html.compute import Compute, compute_of, total, workers
from pipelines.report_html.explained import explain_failures, in_percent
from pipelines.report_html.factors import setting
from pipelines.report_html.figures import Drawn, overview, shape_of, style_of, swatch, whisker
from pipelines.report_html.reproduce import COMMON_FILE, common_leaves, common_yaml, train_again
from pipelines.report_html.samples import find_samples
from pipelines.report_html.stories import Story, tell
from pipelines.report_html.trials import as_row, as_rows, cause, is_ill, onsets, short_id

TEMPLATES = Path(__file__).parents[1] / "templates"
OVERVIEW_POINTS = 40_000
"""Points of all curves of the overview together."""
STORY_POINTS = 12_000
"""Points of one curve of each story, all stories together: a thousand diagnoses are drawn more coarsely than ten."""
HEALTHY = "healthy"


@dataclass(frozen=True)
class Line:
    """A trial's line in the table of all trials."""

    trial: SweptTrial
    short_id: str
    symptom: str
    step: str
    cause: str
    style: str
    sure: str
    top1: str
    cost: Compute
    seed: object
    again: str
    told: bool


def to_html(sweep: RecordedSweep, uri_option: str = "") -> str:
    """The report. `uri_option` is added to the commands that read the store; empty: the store is the default one.

    Undecodable bytes of file names are written as escapes.
    """
    causes = found_causes(sweep)
    places = {found.name: place for place, found in enumerate(causes)}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "whisker": whisker, "thousands": _thousands}
    environment.filters |= {"firm": _firm, "percent": in_percent}
    lines = _lines(sweep, places)
    surest, others = _stories(sweep, causes)
    html = environment.get_template("report.html").render(
        sweep=sweep,
        started=datetime.fromtimestamp(sweep.started_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        answer=answer(as_rows(sweep)),
        causes=causes,
        explanation=explain_failures(sweep),
        overview=_overview(sweep, places),
        legend=_legend(sweep, causes),
        lines=lines,
        endings=sorted({line.trial.status for line in lines}),
        surest=surest,
        others=others,
        gallery=find_samples(sweep.trials),
        cost=total(sweep.trials),
        symptom_cost=total([trial for trial in sweep.trials if trial.status == "stopped"]),
        workers=workers(sweep),
        common_file=COMMON_FILE,
        common_yaml=common_yaml(sweep),
        uri_option=uri_option,
    )
    return html.encode("utf-8", "backslashreplace").decode("utf-8")


def _thousands(count: int) -> str:
    return f"{count:,}"


def _firm(text: str) -> str:
    """`text` in which no line ends between a number and its per cent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _lines(sweep: RecordedSweep, places: dict[str, int]) -> list[Line]:
    common = common_leaves(sweep)
    return [_table_line(trial, places, train_again(trial, common)) for trial in sweep.trials]


def _table_line(trial: SweptTrial, places: dict[str, int], again: str) -> Line:
    row, name = as_row(trial), cause(trial)
    first = onsets(trial)[:1]
    return Line(
        trial=trial,
        short_id=short_id(trial),
        symptom=row.symptom or ("none" if trial.status == "finished" else NONE),
        step=str(first[0]) if first else NONE,
        cause=name or NONE,
        style=style_of(places[name]) if name else "",
        sure=percent(row.confidence) if row.cause else NONE,
        top1=f"{100 * trial.best_val_top1:.1f} %" if trial.best_val_top1 is not None else NONE,
        cost=compute_of(trial),
        seed=setting(trial.config, "seed"),
        again=again,
        told=is_ill(trial),
    )


def _overview(sweep: RecordedSweep, places: dict[str, int]) -> Markup:
    """The healthy trials first, so that the ill ones are drawn above them."""
    drawn = [
        Drawn(trial.loss, HEALTHY, f"{trial.trial_id} {trial.changed}")
        for trial in sweep.trials
        if trial.loss and not is_ill(trial)
    ]
    for trial in sweep.trials:
        if trial.loss and is_ill(trial):
            place = places[cause(trial)]
            title = f"{trial.trial_id} {trial.changed}: {cause(trial)}"
            drawn.append(Drawn(trial.loss, style_of(place), title, onsets(trial), shape_of(place)))
    if not drawn:
        return Markup("")
    ill = sum(map(is_ill, sweep.trials))
    label = f"Training loss by step of {len(drawn)} trials; {ill} fell ill, a mark shows where"
    return overview(drawn, max(24, min(200, OVERVIEW_POINTS // len(drawn))), label)


def _legend(sweep: RecordedSweep, causes: Sequence[FoundCause]) -> list[tuple[Markup, str]]:
    entries = [
        (swatch(style_of(place), shape_of(place)), f"{found.name} ({found.trials})")
        for place, found in enumerate(causes)
    ]
    healthy = sum(not is_ill(trial) for trial in sweep.trials)
    return [*entries, *([(swatch(HEALTHY, ""), f"no event ({healthy})")] if healthy else [])]


def _stories(sweep: RecordedSweep, causes: Sequence[FoundCause]) -> tuple[list[Story], list[Story]]:
    """The surest diagnosis of each cause, and all others by trial id."""
    places = {found.name: place for place, found in enumerate(causes)}
    surest = {found.surest.trial_id for found in causes}
    ill = [trial for trial in sweep.trials if is_ill(trial)]
    points = max(12, min(60, STORY_POINTS // max(1, len(ill))))
    told: dict[bool, list[Story]] = {True: [], False: []}
    for trial in sorted(ill, key=lambda trial: places[cause(trial)] if trial.trial_id in surest else 0):
        place = places[cause(trial)]
        story = tell(trial, style_of(place), shape_of(place), points)
        told[trial.trial_id in surest].append(story)
    return told[True], told[False]
