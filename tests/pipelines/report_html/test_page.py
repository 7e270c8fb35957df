"""The HTML of a report: what stands in it, what is text in it, and how large it gets."""

from __future__ import annotations

import math
import re
import shlex
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.tracking_sweeps import RecordedSweep
from pipelines.report_html.compute import compute_of, total
from pipelines.report_html.curves import frame_of, path_of, thinned
from pipelines.report_html.page import to_html
from pipelines.report_html.reproduce import common_leaves, common_yaml, train_again
from pipelines.train import find_training
from tests.conftest import TinyImages

if TYPE_CHECKING:
    from tests.pipelines.report_html.conftest import MakeSweep

NASTY = "<script>alert(1)</script>\"'&.png"


class Elements(HTMLParser):
    """The elements of a page, and the text outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it."""
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        """Keep what a reader sees."""
        if self._open not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every such element."""
        return [attributes for name, attributes in self.tags if name == tag]


def with_samples(sweep: RecordedSweep, path: str, ids: list[int], files: list[str]) -> RecordedSweep:
    """The sweep, all of whose diagnoses name these samples of that data set."""
    trials = []
    for trial in sweep.trials:
        config = {**trial.config, "data": {**trial.config["data"], "path": path}}
        diagnosis = trial.diagnosis and {**trial.diagnosis, "culprits": {"sample_ids": ids, "files": files}}
        trials.append(replace(trial, config=config, diagnosis=diagnosis))
    return replace(sweep, trials=tuple(trials))


def test_the_page_is_whole_and_accessible(make_sweep: MakeSweep) -> None:
    """One h1, a skip link, named sections, labelled drawings, scoped heads; every link goes to a part of the page."""
    page = Elements(to_html(make_sweep(12)))
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert len(page.all("h1")) == 1
    assert page.all("a")[0] == {"class": "skip", "href": "#answer"}
    assert all((link["href"] or "").removeprefix("#") in ids for link in page.all("a"))
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    assert all("aria-label" in drawing or drawing.get("aria-hidden") == "true" for drawing in page.all("svg"))
    assert all(section["aria-labelledby"] in ids for section in page.all("section"))
    for part in ("The answer", "Which factor explains", "Loss curves", "diagnosed trials", "Compute", "All trials"):
        assert part in page.text


def test_nothing_is_fetched(make_sweep: MakeSweep) -> None:
    """No element refers to anything outside the file, and the style sheet imports nothing."""
    html = to_html(make_sweep(12))
    sources = [attributes.get(key) or "" for _, attributes in Elements(html).tags for key in ("src", "href")]
    assert all(source.startswith(("#", "data:")) or not source for source in sources)
    assert not re.search(r"https?:|@import|url\(", html)


def test_made_up_records_are_marked(make_sweep: MakeSweep) -> None:
    """A report of synthetic records says so at its head; one of a real sweep doesn't."""
    sweep = make_sweep(1)
    assert "Synthetic records: nothing here was trained" in to_html(sweep)
    assert "Synthetic" not in to_html(replace(sweep, synthetic=False))


def test_the_answer_comes_first(make_sweep: MakeSweep) -> None:
    """Causes with their confidence and the command of the cured config stand before all else."""
    text = Elements(to_html(make_sweep(12), " --uri sqlite:///x.db")).text
    answer = text[: text.index("Which factor explains")]
    assert "6 of 12 trials fell ill: lr_jump (5), bn_small_batch (1)" in answer
    assert "lr_jump: 5 trials, confidence 86 to 91\N{NO-BREAK SPACE}%" in answer
    assert "epoch14 train madeup_00011 --set optim.lr=0.01 --uri sqlite:///x.db" in answer


def test_every_swap_is_drawn(make_sweep: MakeSweep) -> None:
    """Each row of a table of swaps has the replay beside the run, and the cause both of its replays."""
    labels = [drawing.get("aria-label") or "" for drawing in Elements(to_html(make_sweep(2))).all("svg")]
    replays = [label for label in labels if label.startswith("Replay: ")]
    assert "Replay: normalization swapped, severity 0.2" in replays
    assert "Replay: normalization alone, severity 29.8" in replays
    assert sum("swapped" in label for label in replays) == 8
    assert {"Replay: as run, severity 31.5", "Replay: all reference, severity 0.1"} < set(replays)


def test_suspects_are_ranked_where_they_are_several(make_sweep: MakeSweep) -> None:
    """What the tests have not cleared is listed best first with its numbers; the verdict alone is not repeated."""
    first, ill = make_sweep(2).trials
    assert ill.diagnosis is not None
    verdict = {"cause": ill.diagnosis["cause"], "group": "", "confidence": 0.81, "evidence": "made up"}
    other = {"cause": "pixels", "group": "", "confidence": 0.12, "evidence": ""}
    for causes, listed in (([verdict], False), ([verdict, other], True)):
        trial = replace(ill, diagnosis={**ill.diagnosis, "causes": causes})
        text = Elements(to_html(replace(make_sweep(2), trials=(first, trial)))).text
        assert ("Suspects, best first" in text) is listed
        assert ("pixels, confidence 12 %\n" in text) is listed


def test_names_are_text_whatever_they_hold(make_sweep: MakeSweep, tiny_images: TinyImages) -> None:
    """Script tags and quotes in the names of files, classes, trials and configs, and in errors, make no element."""
    folder = tiny_images(("cat<b>", "dog"), suffix=".png")
    odd = folder / "train" / "cat<b>" / "000 \"'&<script>.png"
    (folder / "train" / "cat<b>" / "000.png").rename(odd)
    sweep = with_samples(make_sweep(2), str(folder), [0], [f"train/cat<b>/{odd.name}"])
    plain = Elements(to_html(sweep))
    first, second = sweep.trials
    assert second.diagnosis is not None
    diagnosis = {**second.diagnosis, "summary": NASTY, "cause": NASTY}
    nasty = replace(second, name=NASTY, changed=NASTY, siblings=NASTY, error=NASTY, diagnosis=diagnosis)
    page = Elements(to_html(replace(sweep, name=NASTY, trials=(replace(first, error=NASTY), nasty))))
    assert len(page.all("script")) == len(plain.all("script")) == 1
    assert len(page.all("b")) == 0
    assert page.text.count(NASTY) > 5
    assert f"train/cat<b>/{odd.name}" in page.text
    (image,) = page.all("img")
    assert image["alt"] == "cat<b>"
    assert (image["src"] or "").startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("path", "ids", "why"),
    [
        ("no/such/folder", [0], "the images are not where they were"),
        ("s3://bucket/images", [0], "the images lie elsewhere"),
        ("{images}", [1], "the data set is not the one that was trained on"),
        ("{images}", [99], "the data set is not the one that was trained on"),
    ],
)
def test_images_that_are_gone_are_said_to_be(
    path: str, ids: list[int], why: str, make_sweep: MakeSweep, tiny_images: TinyImages
) -> None:
    """A sample whose image is not at hand, or is another one by now, keeps its name and gets a reason."""
    folder = str(tiny_images())
    page = Elements(to_html(with_samples(make_sweep(2), path.format(images=folder), ids, ["train/cat/000.png"])))
    assert page.all("img") == []
    assert why in page.text
    assert "train/cat/000.png" in page.text


def test_a_thousand_trials_fit(make_sweep: MakeSweep) -> None:
    """A report of 1,000 synthetic trials, half of them diagnosed, is below 10 MB; the time grows as the trials."""
    hundred, thousand = make_sweep(100), make_sweep(1000)
    to_html(hundred)
    started = time.process_time()
    to_html(hundred)
    between = time.process_time()
    html = to_html(thousand)
    assert len(html.encode()) < 10e6
    assert (time.process_time() - between) / (between - started) < 30
    assert html.count('<details class="story"') > 400
    assert "Synthetic records" in html


def test_a_thousand_diagnoses_fit_too(make_sweep: MakeSweep) -> None:
    """A report of 1,000 synthetic trials that are all diagnosed, and name 4,096 samples each, is below 10 MB."""
    ill = [trial for trial in make_sweep(80).trials if trial.diagnosis]
    trials = tuple(replace(ill[place % len(ill)], trial_id=f"madeup_{place:05d}") for place in range(1000))
    names = [f"train/class_{place % 1000:04d}/image_{place:08d}.jpeg" for place in range(4096)]
    sweep = replace(make_sweep(1), trials=trials)
    html = to_html(with_samples(sweep, "no/such/folder", list(range(4096)), names))
    assert html.count('<details class="story"') == 1000
    assert len(html.encode()) < 10e6


def test_a_trial_runs_again_from_the_report_alone(make_sweep: MakeSweep, tmp_path: Path) -> None:
    """The common YAML with a trial's own options is that trial's config, key by key."""
    sweep = make_sweep(12)
    file = tmp_path / "common.yaml"
    file.write_text(common_yaml(sweep), encoding="utf-8")
    common = common_leaves(sweep)
    for trial in sweep.trials:
        words = shlex.split(train_again(trial, common))
        assert words[:3] == ["epoch14", "train", "common.yaml"]
        training = find_training(str(file), words[4::2], "sqlite:///none.db")
        expected = {**trial.config, "checkpoint": {**trial.config["checkpoint"], "every": trial.config["max_steps"]}}
        again = {**training.config.trial, "data": {**training.config.trial["data"], "path": "digits"}}
        assert again == expected


def test_the_account_adds_up(make_sweep: MakeSweep) -> None:
    """Steps done and saved make the plan; the saved time is that of the steps not taken, at the trial's own speed."""
    sweep = make_sweep(12)
    cost = total(sweep.trials)
    assert cost.steps + cost.saved_steps == 12 * 200
    stopped = next(trial for trial in sweep.trials if trial.status == "stopped")
    one = compute_of(stopped)
    assert one.saved_steps == 200 - stopped.steps
    assert one.saved_seconds == pytest.approx(0.4 * one.saved_steps)
    assert (one.replayed_steps, one.replay_seconds) == (400, 41.0)
    assert compute_of(replace(stopped, status="interrupted")).saved_steps == 0
    assert compute_of(replace(stopped, config={}, loss=(), seconds=None)).steps == 0


def test_thinning_keeps_the_peaks_and_what_is_not_finite() -> None:
    """One step of a spike among 10,000, the steps asked for, and the first NaN outlive a thinning to 40 points."""
    curve = [(step, 1.0 + 1e-6 * step) for step in range(10_000)]
    curve[4321] = (4321, 9.0)
    curve[7000] = (7000, math.nan)
    thin = thinned(curve, 40, [1234])
    assert {(4321, 9.0), (1234, 1.0 + 1e-6 * 1234), curve[0], curve[-1]} <= set(thin)
    assert any(step == 7000 for step, _ in thin)
    assert len(thin) <= 44


def test_a_line_breaks_where_the_loss_is_not_finite() -> None:
    """Two pieces around a NaN; the path has no letters that are not SVG's."""
    curve = [(0, 1.0), (1, 2.0), (2, math.inf), (3, 2.0), (4, 1.0)]
    path = path_of(curve, frame_of([curve], left=0, top=0, width=100, height=50))
    assert path == "M0 50l0 0 25-50M75 0l0 0 25 50"
