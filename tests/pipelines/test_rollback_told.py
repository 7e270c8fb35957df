"""What a rollback did, and what siblings say, is told in MLflow, by `epoch14 explain` and in the sweep's reports."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient
from rich.console import Console

from pipelines.cli import main
from pipelines.config import SweepConfig
from pipelines.report import print_report
from pipelines.sweep import SweepResult, run_sweep

if TYPE_CHECKING:
    from tests.conftest import RayHere

SWEEP = """\
name: rolled_back
trial:
  max_steps: 24
  global_batch_size: 8
  threads: 1
  eval_every: 1000
  report_every: 5
  device: cpu
  model: {name: resnet18, width: 0.5, zero_init_last_gamma: false}
  data: {image_size: 16, augment: none}
  precision: {channels_last: false}
  schedule: {kind: constant}
  optim: {lr: 0.005}
  diagnosis: {replicates: 1, horizon: 2, on_event: rollback}
  faults: [{use: "trainables.faults:non_finite_input", start_step: 14}]
resources: {cpus_per_worker: 1}
space:
  global_batch_size: [8, 12]
"""


@pytest.fixture(scope="module")
def swept(
    ray_here: RayHere, digits_cache: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> SweepResult:
    """Two trials, at batches of which the samples of step 14 lie close together in the stream; both go back and on."""
    folder = tmp_path_factory.mktemp("rolled_back")
    shutil.copy(empty_store, folder)
    file = folder / "sweep.yaml"
    file.write_text(SWEEP, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH14_CACHE", str(digits_cache))
        ray_here.local()
        return run_sweep(SweepConfig.load(str(file), [f"storage={folder}"]), write=lambda line: None)


def test_both_go_back_and_on_to_the_end(swept: SweepResult) -> None:
    """The remedy is what they went on with; each cites the other, though neither ended in its event."""
    for row, other in zip(swept.rows, reversed(swept.rows), strict=True):
        assert (row.status, row.steps, row.symptom) == ("finished", 24, "")
        assert "pixels" in row.interventions
        assert other.trial_id in row.siblings
        assert "with another schedule or batch" in row.siblings


def test_the_run_in_mlflow_has_both(swept: SweepResult) -> None:
    """As tags, which its table shows."""
    client = MlflowClient(swept.tracking_uri)
    experiment = client.get_experiment_by_name(swept.experiment)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`diagnosis.events` != '0'")
    tags = [run.data.tags for run in runs if "diagnosis.events" in run.data.tags]
    assert [tag["diagnosis.events"] for tag in tags] == ["1", "1"]
    assert all("pixels" in tag["diagnosis.interventions"] for tag in tags)
    assert sorted(tag["diagnosis.siblings"] for tag in tags) == sorted(row.siblings for row in swept.rows)


def test_explain_tells_both(swept: SweepResult, capfd: pytest.CaptureFixture[str]) -> None:
    """The event with its cause and what was done, and the siblings."""
    row = swept.rows[0]
    assert main(["explain", row.trial_id, "--uri", swept.tracking_uri]) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "non_finite_input" in out
    assert "rollback" in out.lower() or "back to step" in out
    assert f"Siblings: 1 sibling ({swept.rows[1].trial_id})" in out


def test_the_report_of_the_sweep_tells_both(swept: SweepResult) -> None:
    """A line each below the table."""
    file = io.StringIO()
    print_report(swept, Console(width=400, file=file))
    text = file.getvalue()
    for row in swept.rows:
        assert f"went back and on with {row.interventions}" in text
        assert row.siblings in text


def test_the_html_report_lies_in_the_sweeps_run(swept: SweepResult, tmp_path: Path) -> None:
    """MLflow has it as an artifact of the sweep's run, with both events, their cause, and what was done."""
    client = MlflowClient(swept.tracking_uri)
    html = Path(client.download_artifacts(swept.parent_run_id, "report.html", str(tmp_path))).read_text("utf-8")
    assert html.lstrip().startswith("<!doctype html>")
    assert "2 of 2 trials fell ill: non_finite_input (2)" in html
    assert "Synthetic" not in html
    for row in swept.rows:
        assert f'id="t-{row.trial_id}"' in html
    assert html.count("the run went back to step") == 2
    assert html.count("Replay: pixels swapped, severity") == 2


@pytest.mark.parametrize("way", ["name", "folder", "folder name", "run id"])
def test_a_report_is_made_anew_from_the_records(
    way: str, swept: SweepResult, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`epoch14 report` takes a sweep's name, its folder, which names the store too, and its run id."""
    word = {"folder": str(swept.path), "folder name": swept.path.name, "run id": swept.parent_run_id}.get(
        way, swept.name
    )
    out = tmp_path / "it.html"
    store = [] if way == "folder" else ["--uri", swept.tracking_uri]
    assert main(["report", word, "--out", str(out), *store]) == 0
    assert capfd.readouterr().out == f"report: {out}\n"
    html = out.read_text("utf-8")
    assert "non_finite_input" in html
    assert f"epoch14 explain {swept.rows[0].trial_id} --uri sqlite:///" in html


def test_a_report_that_cannot_be_made_is_one_line(
    swept: SweepResult, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An unknown sweep names close ones, a store or a folder that isn't there is said to be missing; no traceback."""
    for words, says in (
        (["roled_back", "--uri", swept.tracking_uri], "SWEEP: 'roled_back' is not allowed.*write 'rolled_back'"),
        (["", "--uri", swept.tracking_uri], "SWEEP: '' is not allowed.*write one of 'rolled_back'"),
        (['it\'s "odd"', "--uri", swept.tracking_uri], "SWEEP: .*write one of"),
        (["rolled_back", "--storage", str(tmp_path)], "a store that a sweep has written"),
        (
            ["rolled_back", "--uri", swept.tracking_uri, "--out", str(tmp_path / "no" / "x.html")],
            "--out: .*No such file",
        ),
    ):
        assert main(["report", *words]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert re.search(f"^epoch14: error: .*{says}", line)
