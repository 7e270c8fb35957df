"""Markdown and figure of a diagnosis."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from matplotlib.image import imread

from infra.explanation import Points, escape, number, percent, remedy_text, to_figure, to_markdown

HOSTILE = (
    "class_a|b",
    "*stars* and _lines_",
    "<script>alert(1)</script>",
    "[link](javascript:x)",
    "`tick",
    "$x^2$ & ~~gone~~ # ! \\",
    "http://host.example/a_b",
    "line one\nline two\r\n| cell |",
)


def render(markdown: str) -> str:
    """HTML as a page with tables would show it."""
    return str(MarkdownIt("commonmark").enable("table").enable("strikethrough").render(markdown))


def texts(markdown: str) -> list[str]:
    """The inline texts of the rendered page, mark-up taken away."""
    tokens = MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(markdown)
    inlines = [token for token in tokens if token.type == "inline"]
    return ["".join(child.content for child in token.children or []) for token in inlines]


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_reads_as_it_was(text: str) -> None:
    """Whatever a class or a file is called, the page shows its characters and nothing else."""
    html = render(escape(text))

    assert texts(escape(text)) == [" ".join(text.split())]
    assert not any(tag in html for tag in ("<script", "<a ", "<em", "<strong", "<code", "<s>", "<h1"))


def test_escaped_text_holds_no_control_characters() -> None:
    """A file name can't send escape codes to a terminal, nor break the file's encoding."""
    assert escape("a\x1b[31mb\udcff") == "a\N{REPLACEMENT CHARACTER}\\[31mb\N{REPLACEMENT CHARACTER}"


def test_markdown_tells_the_whole_story(diagnosis: dict[str, Any]) -> None:
    """Cause, group, confidence, symptom, remedy, every swap, the evidence and the controls are in the Markdown."""
    page = texts(to_markdown(diagnosis))
    story = "\n".join(page)

    for part in (
        "spike at step 61 (epoch 1): lr_jump",
        "lr_jump (learning_rate), confidence 93 %",
        "the rate rose tenfold at step 60",
        "spike, from step 58, confirmed at step 61, severity 14.2: loss 3.1 is 14.2 noise units above its median 0.4",
        "hold the learning rate at 0.03 after step 60. Verified: a replay with it stays healthy (severity 0.3).",
        "schedule.gamma = 1.0",
        "exact replay from step 50, 24 steps past the onset: severity 14.2, with the same bits",
        "13.9, 14.4",
        "240 steps were replayed in 41 s",
    ):
        assert part in story
    row = page.index("learning rate")
    assert page[row : row + 6] == ["learning rate", "0.03 held from before step 60", "0.4", "yes", "13.8", "yes"]


def test_class_and_file_names_break_no_table(diagnosis: dict[str, Any]) -> None:
    """A pipe, a tag or a line break in a name stays inside its cell."""
    for text in HOSTILE:
        diagnosis["table"][1].update(swap=text, evidence=text)
        diagnosis["symptom"]["detail"] = text
        html = render(to_markdown(diagnosis))

        assert html.count("<td") == 6 * len(diagnosis["table"])
        assert "<script" not in html
        assert "<a " not in html


def test_an_unverified_remedy_is_not_advised(diagnosis: dict[str, Any]) -> None:
    """Without a replay that proves it, a remedy is told as tried, never as what to do."""
    diagnosis["remedy"] = {"change": {"optim.lr": 0.1}, "text": "lower the rate", "verified": False, "severity": 9.0}
    story = "\n".join(texts(to_markdown(diagnosis)))

    assert "none verified. Tried: lower the rate; a replay with it has severity 9." in story
    assert "optim.lr" not in story
    assert remedy_text(diagnosis) == ""


def test_an_unexplained_diagnosis_can_be_told(diagnosis: dict[str, Any]) -> None:
    """Without remedy, table, controls or curves, what there is is told and drawn."""
    bare = {"symptom": diagnosis["symptom"], "cause": "unexplained", "group": "unexplained", "confidence": 0.0}
    bare |= {"summary": "", "table": [], "controls": {}, "curves": {}, "remedy": None}
    story = "\n".join(texts(to_markdown(bare)))

    assert "Cause: unexplained, confidence 0 %" in story
    assert "Remedy: none found by a replay." in story
    assert len(to_figure(bare, [(0, 1.0)]).axes) == 1


def test_suspects_are_listed_where_there_is_more_than_the_verdict(diagnosis: dict[str, Any]) -> None:
    """Best first, with their confidence and numbers; a verdict alone is not said twice."""
    verdict = {"cause": "lr_jump", "group": "learning_rate", "confidence": 0.93, "evidence": "0.3 without it"}
    other = {"cause": "samples", "group": "data", "confidence": 0.02, "evidence": "severity 2 without it|alone"}
    alone, both = ("\n".join(texts(to_markdown(diagnosis | {"causes": c}))) for c in ([verdict], [verdict, other]))
    assert "Suspects" not in alone
    assert "Suspects, best first\nlr_jump, confidence 93 %: 0.3 without it\nsamples, confidence 2 %" in both
    assert "severity 2 without it|alone" in both


def test_numbers_that_are_none_are_said_to_be_none() -> None:
    """NaN and infinity are called non-finite; what was not measured is a dash."""
    assert [number(x) for x in (None, math.nan, math.inf)] == ["-", "non-finite", "non-finite"]
    assert [number(x) for x in (14.249, 1000.0, 3e9)] == ["14.2", "1000", "3e+09"]
    assert [percent(x) for x in (None, math.nan, 0.934)] == ["-", "-", "93 %"]


@pytest.mark.parametrize(
    "loss",
    [
        [(step, 2.0 / (1 + step)) for step in range(80)],
        [(step, math.nan if step > 60 else 1e9 if step == 60 else 0.5) for step in range(80)],
        [(0, math.inf), (1, math.nan)],
        [(0, 0.0)],
        [],
    ],
    ids=["healthy", "spike then NaN", "nothing finite", "zero", "empty"],
)
def test_figure_marks_the_event_on_any_curve(diagnosis: dict[str, Any], loss: Points) -> None:
    """The run and the replays are drawn, and the alarm is a line at its step, whatever the losses are."""
    figure = to_figure(diagnosis, loss)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=50)

    image.seek(0)
    assert imread(image).ndim == 3
    assert len(figure.axes) == 2
    for panel in figure.axes:
        dashed = [np.asarray(line.get_xdata()) for line in panel.get_lines() if line.get_linestyle() == "--"]
        assert [xs.tolist() for xs in dashed] == [[61, 61]]


def test_figure_takes_hostile_curve_names(diagnosis: dict[str, Any]) -> None:
    """A formula or an underscore in a curve's name is shown, not interpreted."""
    diagnosis["curves"] = {"$\\frac{": [[50, 0.4], [51, 0.5]], "_hidden": [[50, 0.4]]}

    to_figure(diagnosis, [(50, 0.4)]).savefig(io.BytesIO(), format="png", dpi=50)
