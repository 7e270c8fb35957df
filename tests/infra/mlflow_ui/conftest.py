"""A recorded sweep on a real MLflow server, two healthy trials and two that a diagnosis has ended; and a browser."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, expect, sync_playwright

from pipelines.report_html.build import attach

if TYPE_CHECKING:
    from tests.infra.conftest import Store, Sweep

PICTURES = "EPOCH14_PICTURES"
"""Variable that names the folder for the screenshots; without it they go with the test's other files."""
LIMIT_MS = 60_000
"""How long a click waits for what it is to find; a busy machine takes long."""
HOSTILE = '<img src=x onerror="alert(1)">|**bold** [link](javascript:alert(2)) $x$ http://host.example/'
"""A folder of images may be called this, and its class is then."""
STEPS, ONSET, ALARM, REPORT_EVERY = 120, 58, 61, 40
TRIALS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lr_jump", {"model.norm": "bn", "schedule": {"kind": "cosine"}, "optim.lr": 3.0}),
    ("", {"model.norm": "bn", "schedule": {"kind": "constant"}, "optim.lr": 0.1}),
    ("label_permutation", {"model.norm": "gn", "schedule": {"kind": "constant"}, "optim.lr": 3.0}),
    ("", {"model.norm": "gn", "schedule": {"kind": "cosine"}, "optim.lr": 0.1}),
)
"""Cause of each trial's end, and its point of the space."""
OURS_NOT = ("/mlflow/users/current", "ResizeObserver loop completed with undelivered notifications")
"""MLflow's own: it asks a server without passwords who the user is, and its charts resize each other."""


@dataclass(frozen=True)
class Recorded:
    """Where the sweep lies."""

    store: Store
    experiment_id: str
    parent: str
    """Run id of the sweep."""

    @property
    def page(self) -> str:
        """Address of the sweep's run."""
        return f"{self.store.uri}/#/experiments/{self.experiment_id}/runs/{self.parent}"


@dataclass(frozen=True)
class Visit:
    """A browser's page, and where its pictures go."""

    page: Page
    pictures: Path

    def picture(self, name: str) -> None:
        """Keep what there is to be seen, less the pane of MLflow's assistant."""
        pane = self.page.get_by_role("button", name="Close", exact=True)
        if pane.count() == 1:
            pane.click()
        self.page.screenshot(path=self.pictures / f"{name}.png")


@pytest.fixture(scope="session")
def recorded(server_store: Callable[[str], Store], one_diagnosis: dict[str, Any]) -> Recorded:
    """The sweep, as `run_sweep` records it, with its table and its report."""
    store = server_store("clicks")
    sweep = store.sweep()
    sweep.tracker.setup()
    found = {"": None, "lr_jump": one_diagnosis, "label_permutation": confused(one_diagnosis)}
    rows = [run(sweep, place, point, found[cause]) for place, (cause, point) in enumerate(TRIALS)]
    parent = sweep.tracker.parent_run_id
    assert sweep.tracker.finish(rows) is None
    attach(store.uri, parent)
    experiment = store.client.get_experiment_by_name(store.experiment)
    assert experiment is not None
    return Recorded(store, experiment.experiment_id, parent)


def run(sweep: Sweep, place: int, point: dict[str, Any], diagnosis: dict[str, Any] | None) -> dict[str, Any]:
    """Record a trial; returns its line of the final table."""
    trial = sweep.start(f"a1b2c_{place:05d}", point)
    stop, ended, symptom = (ALARM + 1, "stopped", "spike") if diagnosis else (STEPS, "finished", "")
    for start in range(0, stop, REPORT_EVERY):
        end = min(start + REPORT_EVERY, stop)
        history = [signals(step, point["optim.lr"], ONSET if diagnosis else STEPS) for step in range(start, end)]
        history[-1] |= {"val_top1": 0.5 * end / STEPS, "val_loss": history[-1]["loss"]}
        told: dict[str, Any] = {"history": history, "best_val_top1": 0.5 * end / STEPS}
        told |= {"system": {"system/cpu_utilization_percentage": 80.0 + place}}
        if end == stop:
            told |= {"phase": ended, "symptom": symptom, "diagnosis": diagnosis}
        sweep.report(trial, start, end, **told)
    sweep.complete(trial)
    row = {"trial_id": trial.trial_id, "name": f"trial {place}", "status": ended, "symptom": symptom}
    row |= {"best_val_top1": 0.5 * stop / STEPS, "cause": "", "confidence": 0.0, "remedy": "", "verified": False}
    if diagnosis:
        row |= {"cause": diagnosis["cause"], "confidence": diagnosis["confidence"], "verified": True}
        row["remedy"] = diagnosis["remedy"]["text"]
    return row


def signals(step: int, lr: float, onset: int) -> dict[str, float]:
    """What a trial tells of one step; from `onset` on its loss climbs."""
    ill = max(0, step - onset + 1)
    wiggle = math.sin(7.0 * step)
    row = {
        "step": step,
        "loss": (2.1 * math.exp(-step / 40 - lr / 30) + 0.2) * (1 + 0.05 * wiggle) + 0.8 * ill,
        "lr": lr * (10 if ill else 1),
        "grad_norm": 1.0 + 0.2 * wiggle + 3 * ill,
        "train_top1": 1 - math.exp(-step / 50),
    }
    if step % 10 == 0:
        row |= {"update_ratio": 0.002 * (1 + ill), "bn_drift": 0.02 * (1 + ill)}
    return row


def confused(diagnosis: dict[str, Any]) -> dict[str, Any]:
    """The diagnosis of a class whose labels are another's."""
    found = copy.deepcopy(diagnosis)
    found |= {"cause": "label_permutation", "group": "labels", "confidence": 0.88}
    found["summary"] = f"the images of {HOSTILE} carry another class's label"
    found["table"][1] |= {"ingredient": "labels", "swap": f"the labels of {HOSTILE}", "evidence": HOSTILE}
    found["remedy"] = {"change": {}, "text": f"leave out {HOSTILE}", "verified": True, "severity": 0.3}
    return found


@pytest.fixture(scope="session")
def hostile() -> str:
    """The name that must be shown as it is."""
    return HOSTILE


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    """The machine's own Chromium, without a window."""
    expect.set_options(timeout=LIMIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    """A page of a new visitor, in which at the end nothing may have gone wrong."""
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        told = f"{message.text} {message.location['url']}"
        if message.type == "error" and not any(known in told for known in OURS_NOT):
            complaints.append(told)

    def refuse(dialog: Dialog) -> None:
        complaints.append(f"a name was run as a script: {dialog.message}")
        dialog.dismiss()

    pictures = Path(os.environ.get(PICTURES) or tmp_path)
    pictures.mkdir(parents=True, exist_ok=True)
    context = browser.new_context(viewport={"width": 1500, "height": 950}, color_scheme="light")
    context.set_default_timeout(LIMIT_MS)
    context.on("console", listen)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("dialog", refuse)
    yield Visit(context.new_page(), pictures)
    context.close()
    assert complaints == []
