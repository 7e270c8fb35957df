"""A diagnosis as people read it: Markdown, and a figure of the loss with the event marked.

The tracking store keeps both beside `diagnosis.json`; `epoch14 explain` prints the same Markdown in the terminal.
Texts of a diagnosis may hold class and file names, so all of them are escaped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Diagnosis = Mapping[str, Any]
Points = Sequence[tuple[int, float]]
"""(step, loss), by rising step; a loss may be non-finite."""
NONE = "-"
TABLE_HEAD = ("ingredient", "swapped for", "severity without it", "necessary", "severity alone", "sufficient")
MARKED = re.compile(r"([\\`*_\[\]|~#!])|(?<=\bwww)(?=\.)")
"""What Markdown (CommonMark with tables, strike-through and bare links) gives a meaning to."""
UNSLASHED = re.compile(r"[<>&$]|(?<=\w):(?=//)")
"""The same for HTML, formulas and bare links; before these MLflow's page shows the backslash too."""
INSIDE_WORD = re.compile(r"(?<=[A-Za-z0-9])\\_(?=[A-Za-z0-9])")
LOG_SCALE_FROM = 30.0
"""Ratio of highest to lowest loss from which the axis is logarithmic."""


def to_markdown(diagnosis: Diagnosis) -> str:
    """The story of one diagnosis: cause, symptom, remedy, the table of swaps, the evidence, the controls."""
    symptom = diagnosis["symptom"]
    cause = str(diagnosis["cause"])
    course = f"from step {symptom['onset']}, confirmed at step {symptom['step']}"
    severity = f"severity {number(symptom.get('severity'))}"
    lines = [
        f"# {escape(symptom['kind'])} at step {symptom['step']} (epoch {symptom['epoch']}): {escape(cause)}",
        "",
        f"**Cause:** {_cause(diagnosis)}",
        escape(diagnosis.get("summary", "")),
        "",
        f"**Symptom:** {escape(symptom['kind'])}, {course}, {severity}: {escape(symptom.get('detail', ''))}",
        "",
        f"**Remedy:** {_remedy(diagnosis.get('remedy'))}",
        *_suspects(diagnosis.get("causes") or (), cause),
        *_table(diagnosis.get("table") or ()),
        *_controls(diagnosis.get("controls") or {}),
    ]
    steps, seconds = diagnosis.get("replayed_steps"), diagnosis.get("seconds")
    if steps is not None and seconds is not None:
        lines += ["", f"{steps} steps were replayed in {number(seconds)} s."]
    return "\n".join(lines) + "\n"


def event_markdown(event: Mapping[str, Any]) -> str:
    """An event that the run went on after: what was done about it, and the story of its diagnosis."""
    if event["action"] == "rollback":
        back = f"{event['reached']} steps were done; the run went back to step {event['back_to']}"
        done = f"{back}, and on with {_code(event['text'])}"
    else:
        until = f"last seen at step {event['last_step']}" if event["last_step"] > event["step"] else "written down"
        done = f"{until}; the run went on as it was"
    head = f"**Event {event['number']}:** {done}."
    if event.get("diagnosis"):
        return f"{head}\n\n{to_markdown(event['diagnosis'])}"
    return f"{head}\n\n{escape(event['kind'])} from step {event['onset']}, not diagnosed.\n"


def _cause(diagnosis: Diagnosis) -> str:
    cause, group = str(diagnosis["cause"]), str(diagnosis["group"])
    within = f" ({_code(group)})" if group != cause else ""
    return f"{_code(cause)}{within}, confidence {percent(diagnosis['confidence'])}."


def remedy_text(diagnosis: Diagnosis) -> str:
    """The remedy that a replay proved, in plain text; empty where there is none."""
    remedy = diagnosis.get("remedy") or {}
    return plain(remedy.get("text", "")) if remedy.get("verified") else ""


def _remedy(remedy: Mapping[str, Any] | None) -> str:
    if not remedy:
        return "none found by a replay."
    change = ", ".join(_code(f"{key} = {value}") for key, value in (remedy.get("change") or {}).items())
    config = f" In the config: {change}." if change else ""
    severity = number(remedy.get("severity"))
    if remedy.get("verified"):
        return f"{escape(remedy['text'])}. Verified: a replay with it stays healthy (severity {severity}).{config}"
    return f"none verified. Tried: {escape(remedy['text'])}; a replay with it has severity {severity}."


def _suspects(causes: Sequence[Mapping[str, Any]], verdict: str) -> Iterator[str]:
    """What the tests have not cleared, best first, where it is more than the verdict."""
    if [suspect["cause"] for suspect in causes] in ([], [verdict]):
        return
    yield from ("", "## Suspects, best first", "")
    for place, suspect in enumerate(causes, start=1):
        evidence = f": {escape(suspect['evidence'])}" if suspect["evidence"] else ""
        yield f"{place}. {_code(suspect['cause'])}, confidence {percent(suspect['confidence'])}{evidence}"


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The necessary and sufficient table, and below it the evidence of each row."""
    if not rows:
        return
    yield from ("", "## One ingredient swapped at a time", "")
    yield f"| {' | '.join(TABLE_HEAD)} |"
    yield "|---|---|---:|---|---:|---|"
    for row in rows:
        cells = (
            _prose(row["ingredient"]),
            escape(row.get("swap", "")),
            number(row.get("severity_without")),
            escape(row.get("necessary") or NONE),
            number(row.get("severity_alone")),
            escape(row.get("sufficient") or NONE),
        )
        yield f"| {' | '.join(cells)} |"
    evidence = [row for row in rows if row.get("evidence")]
    if evidence:
        yield from ("", "## Evidence", "")
    for row in evidence:
        yield f"- {_prose(row['ingredient'])}: {escape(row['evidence'])}"


def _controls(controls: Mapping[str, Any]) -> Iterator[str]:
    if not controls:
        return
    yield from ("", "## Controls", "")
    bits = {True: ", with the same bits", False: ", but with other bits", None: ""}[controls.get("exact_bits_equal")]
    start, horizon = controls.get("snapshot_step"), controls.get("horizon")
    whence = f" from step {start}" if start is not None else ""
    whence += f", {horizon} steps past the onset" if horizon is not None else ""
    yield f"- exact replay{whence}: severity {number(controls.get('exact'))}{bits}"
    placebos = controls.get("placebo") or ()
    if placebos:
        yield f"- placebos (harmless changes, which must keep the event): severity {', '.join(map(number, placebos))}"
    if controls.get("all_reference") is not None:
        yield f"- everything at its reference (must stay healthy): severity {number(controls['all_reference'])}"


def plain(text: object) -> str:
    """One line of printable characters."""
    line = " ".join(str(text).split())
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def escape(text: object) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would act on."""
    slashed = INSIDE_WORD.sub("_", MARKED.sub(r"\\\1", plain(text)))
    return UNSLASHED.sub(lambda found: f"&#{ord(found[0])};", slashed)


def number(value: float | None) -> str:
    """Three digits; `non-finite` for what is no number, a dash for what was not measured."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return "non-finite"
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"


def percent(share: float | None) -> str:
    """A share as whole percent."""
    return NONE if share is None or not math.isfinite(share) else f"{100 * share:.0f} %"


def _prose(name: object) -> str:
    """A name of ours as words: `learning_rate` -> learning rate."""
    return escape(str(name).replace("_", " "))


def _code(text: object) -> str:
    """A code span, for text outside tables."""
    line = plain(text) or NONE
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def to_figure(diagnosis: Diagnosis, loss: Points) -> Figure:
    """The whole run with the event marked, and beside it the replays around the event."""
    from matplotlib.figure import Figure

    symptom = diagnosis["symptom"]
    curves: dict[str, Points] = {name: points for name, points in (diagnosis.get("curves") or {}).items() if points}
    figure = Figure(figsize=(11 if curves else 6.5, 4), layout="constrained")
    panels = figure.subplots(1, 1 + bool(curves), squeeze=False)[0]
    _draw_curve(panels[0], loss, "as run", "C0")
    panels[0].set_title(f"{symptom['kind']} at step {symptom['step']}", parse_math=False)
    if curves:
        for index, (name, points) in enumerate(curves.items()):
            _draw_curve(panels[1], points, plain(name), f"C{index % 10}")
        panels[1].set_title(f"replays: {plain(diagnosis['cause'])}", parse_math=False)
    shown = [value for points in (loss, *curves.values()) for _, value in points if math.isfinite(value) and value > 0]
    for panel in panels:
        if shown and max(shown) > LOG_SCALE_FROM * min(shown):
            panel.set_yscale("log")
        _mark_event(panel, symptom, (diagnosis.get("controls") or {}).get("snapshot_step"))
        panel.set_xlabel("step")
        panel.set_ylabel("training loss (nats)")
        for label in panel.legend(fontsize=7).get_texts():
            label.set_parse_math(False)
    return figure


def _draw_curve(panel: Axes, points: Points, name: str, colour: str) -> None:
    """A line over the finite losses; crosses at the top edge where the loss is not finite."""
    steps = [step for step, _ in points]
    panel.plot(steps, [y if math.isfinite(y) else math.nan for _, y in points], colour, lw=1, label=name)
    lost = [step for step, value in points if not math.isfinite(value)]
    if lost:
        panel.plot(lost, [1] * len(lost), "x", color=colour, transform=panel.get_xaxis_transform(), clip_on=False)


def _mark_event(panel: Axes, symptom: Mapping[str, Any], snapshot_step: int | None) -> None:
    panel.axvspan(symptom["onset"], symptom["step"], color="C3", alpha=0.15, lw=0, label="onset to alarm")
    panel.axvline(symptom["step"], color="C3", lw=1, ls="--")
    if snapshot_step is not None:
        panel.axvline(snapshot_step, color="0.5", lw=1, ls=":", label="snapshot of the replays")
