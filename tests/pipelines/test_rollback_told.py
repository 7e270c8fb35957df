"""What a rollback did, and what siblings say, is told in MLflow, by `epoch14 explain` and in the sweep's report."""

from __future__ import annotations

import io
import shutil
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient
from rich.console import Console

from pipelines.cli import main
from pipelines.config import SweepConfig
from pipelines.report import print_report
from pipelines.sweep import SweepResult, run_sweep

if TYPE_CHECKING:
    from pathlib import Path

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
