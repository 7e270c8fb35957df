"""MLflow's own pages in a real browser: what a person sees of a sweep, and finds by clicking."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from tests.infra.mlflow_ui.conftest import Recorded, Visit

CAUSE = "tags.`diagnosis.cause`"
DRAWN = (
    "[...document.querySelectorAll('.js-plotly-plot')].flatMap(c => c.data ?? []).map(line => [line.metricKey, line.x])"
)
"""Metric and steps of every line of the charts."""


def follow(visit: Visit, link: str) -> Visit:
    """The page that a link of the current one opens beside it."""
    with visit.page.context.expect_page() as opened:
        visit.page.get_by_role("link", name=link).click()
    return dataclasses.replace(visit, page=opened.value)


def causes(page: Page) -> list[str]:
    """The column of the causes, from top to bottom."""
    cells = page.locator(f".ag-center-cols-container [col-id='{CAUSE}']")
    read = "cells => cells.map(c => [Number(c.closest('[row-index]').getAttribute('row-index')), c.innerText])"
    return [text for _, text in sorted(cells.evaluate_all(read))]


def wait_for_causes(page: Page, expected: list[str]) -> None:
    """Wait until the column reads so."""
    page.locator(f".ag-center-cols-container [col-id='{CAUSE}']").nth(len(expected) - 1).wait_for()
    for _ in range(100):
        if causes(page) == expected:
            return
        page.wait_for_timeout(100)
    assert causes(page) == expected


def test_a_person_finds_out_why(visit: Visit, recorded: Recorded, hostile: str) -> None:
    """From the sweep's page to its trials by cause, sorted either way, and on to a run that explains itself.

    A hostile class name is text wherever it stands.
    """
    visit.page.goto(recorded.page)
    visit.page.get_by_role("link", name="Trials by cause").wait_for()
    visit.picture("sweep")
    visit = follow(visit, "Trials by cause")
    page = visit.page
    wait_for_causes(page, ["label_permutation", "lr_jump", "-", "-"])
    visit.picture("trials")
    page.get_by_role("button", name="Sort: diagnosis.cause").click()
    page.get_by_role("button", name="Sort descending").click()
    wait_for_causes(page, ["lr_jump", "label_permutation", "-", "-"])
    page.keyboard.press("Escape")

    page.get_by_role("link", name="resnet18 gn b32 constant lr3").click()
    expect(page.get_by_role("heading", name="spike at step 61 (epoch 1): label_permutation")).to_be_visible()
    page.get_by_role("button", name="Expand description").click()
    row = page.get_by_role("row").filter(has_text="the labels of")
    expect(row).to_contain_text(f"the labels of {hostile}")
    expect(row.get_by_role("cell")).to_have_count(6)
    page.get_by_role("heading", name="spike at step 61").scroll_into_view_if_needed()
    visit.picture("run")
    assert page.locator("img[src='x'], a[href*='javascript'], a[href*='host.example'], .katex").count() == 0
    page.get_by_role("tab", name="System metrics").click()
    page.locator(".js-plotly-plot").wait_for()
    visit.picture("system")
    assert next(key for key, _ in page.evaluate(DRAWN)) == "system/cpu_utilization_percentage"


def test_the_charts_mark_the_event(visit: Visit, recorded: Recorded) -> None:
    """Loss, rate and the other curves of all trials stand in sections; the loss is marked from onset to alarm."""
    visit.page.goto(recorded.page)
    visit = follow(visit, "their charts")
    page = visit.page
    page.wait_for_function(f"{DRAWN}.some(([key]) => key === 'lr')")
    visit.picture("charts")
    drawn = page.evaluate(DRAWN)
    assert {key for key, _ in drawn} >= {"loss", "event/loss", "lr"}
    assert {tuple(steps) for key, steps in drawn if key == "event/loss"} == {(58, 59, 60, 61)}
    heads = page.get_by_test_id("experiment-view-compare-runs-section-header")
    assert [text.split()[0] for text in heads.all_inner_texts()][:3] == ["Event", "Course", "Factors"]
    heads.nth(2).evaluate("head => head.scrollIntoView({block: 'start'})")
    expect(page.locator(".parcoords")).to_be_visible()
    visit.picture("factors")


def test_the_report_is_shown_in_place(visit: Visit, recorded: Recorded, hostile: str) -> None:
    """Among the sweep's files the report opens inside the page, by light, by night, and on a narrow screen."""
    page = visit.page
    page.goto(recorded.page)
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("report.html").first.click()
    head = page.frame_locator("iframe").get_by_role("heading", level=1)
    expect(head).to_have_text(re.compile("first-light"))
    expect(page.frame_locator("iframe").locator("body")).to_contain_text(f"leave out {hostile}")
    visit.picture("report-light")
    page.emulate_media(color_scheme="dark")
    expect(head).to_be_visible()
    visit.picture("report-dark")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 600, "height": 950})
    expect(head).to_be_visible()
    visit.picture("report-narrow")
