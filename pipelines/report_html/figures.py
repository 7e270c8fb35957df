"""The drawings of a report, as inline SVG. Colour is never the only code: each line has a dash, each event a shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from infra.explanation import number
from pipelines.report_html.curves import Frame, Point, frame_of, lost_steps, path_of, thinned
from pipelines.report_html.rates import Rate

STYLES = 6
"""Lines that the style sheet tells apart: classes k0 to k5; the last is for all others."""
SHAPES = (
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "m-4-4h8v8h-8z",
    "m0-5l5 9h-10z",
    "m0-5l5 5-5 5-5-5z",
    "m0 5l5-9h-10z",
    "m-4-4l8 8m0-8l-8 8",
)
"""A mark of each style, from its middle: circle, square, triangle, diamond, triangle upside down, cross."""
CROWDED = 60
"""Curves from which on each is drawn thin and see-through."""
CROSS = "m-3-3l6 6m0-6l-6 6"


@dataclass(frozen=True)
class Drawn:
    """One curve of a drawing."""

    points: Sequence[Point]
    style: str
    """Class in the style sheet."""
    title: str
    marks: Sequence[int] = ()
    """Steps at which an event began."""
    mark: str = ""
    """Path of their shape."""


def style_of(place: int) -> str:
    """Class of the cause at this place in the order of the causes."""
    return f"k{min(place, STYLES - 1)}"


def shape_of(place: int) -> str:
    """Its mark."""
    return SHAPES[min(place, STYLES - 1)]


def overview(curves: Sequence[Drawn], most_points: int, label: str) -> Markup:
    """The losses of all trials in one frame, the ill ones above the healthy, with a mark where an event began."""
    thin = [thinned(curve.points, most_points, curve.marks) for curve in curves]
    frame = frame_of(thin, left=56, top=10, width=880, height=280)
    lines = Markup("").join(_line(curve, points, frame) for curve, points in zip(curves, thin, strict=True))
    marks = Markup("").join(_marks(curve, frame) for curve in curves)
    crowd = Markup('<g class="{}">{}</g>').format("dense" if len(curves) > CROWDED else "", lines + marks)
    return _svg(960, 340, label, _axes(frame) + crowd)


def single(curve: Drawn, most_points: int, bands: Sequence[tuple[int, int]], label: str) -> Markup:
    """The losses of one trial; each band spans an event, from its onset to the alarm."""
    points = thinned(curve.points, most_points, curve.marks)
    frame = frame_of([points], left=56, top=10, width=560, height=150)
    back = Markup("").join(_band(frame, onset, alarm) for onset, alarm in bands)
    return _svg(640, 210, label, _axes(frame) + back + _line(curve, points, frame) + _marks(curve, frame))


def replays(curve: Drawn, before: Markup, frame: Frame, onset: int, label: str) -> Markup:
    """A replay around an event above the run as it was, small, to be compared with others in the same frame."""
    x = frame.x(onset)
    begin = Markup('<path class="onset" d="M{} {}v{}"/>').format(x, frame.top, frame.height) if x > frame.left else ""
    size = Markup('<svg class="replay" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    content = begin + before + _line(curve, curve.points, frame)
    return size.format(frame.width + 2 * frame.left, frame.height + 2 * frame.top, label, content)


def replayed_as_run(points: Sequence[Point], frame: Frame, name: str) -> Markup:
    """The run as it was, to be drawn below replays by its name: its path stands in the file once."""
    return Markup('<path id="{}" class="line before" d="{}"/>').format(name, path_of(points, frame))


def drawn_again(name: str) -> Markup:
    """What was drawn under this name."""
    return Markup('<use href="#{}"/>').format(name)


def replay_frame(curves: Sequence[Sequence[Point]]) -> Frame:
    """The frame that all replays of a diagnosis share."""
    return frame_of(curves, left=4, top=4, width=150, height=48)


def whisker(rate: Rate) -> Markup:
    """A failure rate as a dot in its interval, between 0 and 100 %."""
    low, high = rate.interval
    label = f"{100 * rate.share:.0f} %, 95 % interval {100 * low:.0f} to {100 * high:.0f} %" if rate.total else "none"
    frame = Markup('<path class="axis" d="M10 12h200M10 8v8M110 9v6M210 8v8"/>')
    bar = Markup('<path class="interval" d="M{} 12H{}"/>').format(10 + round(200 * low), 10 + round(200 * high))
    dot = (
        Markup('<circle class="dot" cx="{}" cy="12" r="5"/>').format(10 + round(200 * rate.share)) if rate.total else ""
    )
    return _svg(220, 24, label, frame + bar + dot, small=True)


def swatch(style: str, mark: str) -> Markup:
    """A piece of a line with its mark, for a legend."""
    line = Markup('<path class="line {}" d="M2 8h36"/>').format(style)
    shape = Markup('<path class="mark {}" d="M20 8{}"/>').format(style, mark) if mark else ""
    return Markup('<svg class="swatch" viewBox="0 0 40 16" width="40" height="16" aria-hidden="true">{}</svg>').format(
        line + shape
    )


def _svg(width: int, height: int, label: str, content: Markup, *, small: bool = False) -> Markup:
    kind = "small" if small else "chart"
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}"').format(kind, width, height, label)
    size = Markup(' width="{}" height="{}"').format(width, height) if small else ""
    return head + size + Markup(">{}</svg>").format(content)


def _line(curve: Drawn, points: Sequence[Point], frame: Frame) -> Markup:
    title = Markup("<title>{}</title>").format(curve.title) if curve.title else ""
    path = Markup('<path class="line {}" d="{}">{}</path>').format(curve.style, path_of(points, frame), title)
    lost = "".join(f"M{frame.x(step)} {frame.top}{CROSS}" for step in lost_steps(points)[:1])
    return path + (Markup('<path class="lost {}" d="{}"/>').format(curve.style, lost) if lost else "")


def _marks(curve: Drawn, frame: Frame) -> Markup:
    """A mark at each event, at the height of the loss there."""
    known = dict(curve.points) if curve.marks else {}
    data = "".join(
        f"M{frame.x(step)} {frame.y(known.get(step, float('inf')))}{curve.mark}" for step in curve.marks if curve.mark
    )
    shape = Markup('<path class="mark {}" d="{}"><title>{}</title></path>')
    return shape.format(curve.style, data, curve.title) if data else Markup("")


def _band(frame: Frame, onset: int, alarm: int) -> Markup:
    left, right = frame.x(onset), frame.x(alarm)
    band = Markup('<rect class="band" x="{}" y="{}" width="{}" height="{}"><title>event</title></rect>')
    return band.format(left, frame.top, max(2, right - left), frame.height)


def _axes(frame: Frame) -> Markup:
    """Ticks, their numbers and the names of both axes."""
    bottom, right = frame.top + frame.height, frame.left + frame.width
    parts = [Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(frame.left, frame.top, bottom, right)]
    text = Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>')
    grid = Markup('<path class="grid" d="M{} {}h{}"/>')
    steps = _ticks(*frame.steps, log=False)
    parts += [text.format(frame.x(step), bottom + 16, "middle", f"{step:,.0f}") for step in steps]
    for loss in _ticks(frame.low, frame.high, log=frame.log):
        parts.append(grid.format(frame.left, frame.y(loss), frame.width))
        parts.append(text.format(frame.left - 6, frame.y(loss) + 4, "end", number(loss)))
    parts.append(text.format(right, bottom + 32, "end", "step"))
    scale = ", logarithmic" if frame.log else ""
    parts.append(text.format(frame.left, bottom + 32, "start", f"training loss (nats{scale})"))
    return Markup("").join(parts)


def _ticks(low: float, high: float, *, log: bool) -> list[float]:
    from matplotlib.ticker import LogLocator, MaxNLocator

    if high <= low:
        return [low]
    locator = LogLocator(subs=(1.0, 3.0)) if log else MaxNLocator(6, steps=[1, 2, 5, 10], integer=high - low > 6)
    return [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]
