"""Whole sweeps read back from real stores."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra import tracking_sweeps
from infra.tracking import default_tracking_uri
from infra.tracking_sweeps import RecordedSweep, read_sweep
from pipelines.report_html.build import attach
from pipelines.report_html.page import to_html
from trainables.errors import ConfigError, TrackingError

if TYPE_CHECKING:
    from tests.infra.conftest import Store

ROWS = [
    {"trial_id": "a1b2c_00000", "name": "one", "status": "finished", "best_val_top1": 0.5},
    {"trial_id": "a1b2c_00001", "name": "two", "status": "stopped", "best_val_top1": 0.1, "symptom": "spike"},
    {"trial_id": "a1b2c_00002", "name": "three", "status": "pruned", "best_val_top1": 0.2},
]


def record(store: Store, diagnosis: dict[str, Any], rows: list[dict[str, Any]], folder: str = "run-1") -> str:
    """A sweep of a finished, a stopped, a pruned and a failed trial; returns the id of its run."""
    places = {"epoch14.checkpoints": f"s3://bucket/{folder}/{{trial}}/checkpoints"}
    sweep = store.sweep(store.tracker(tags=places))
    finished, stopped, pruned = (sweep.start(f"a1b2c_{place:05d}") for place in range(3))
    sweep.report(finished, 0, 60, phase="finished", best_val_top1=0.5)
    sweep.report(stopped, 0, 62, symptom="spike", diagnosis=diagnosis, phase="stopped")
    sweep.report(pruned, 0, 10)
    for trial in (finished, stopped, pruned):
        sweep.complete(trial)
    run_id = sweep.tracker.parent_run_id
    assert sweep.tracker.finish(rows) is None
    return run_id


def test_a_sweep_comes_back_whole(store: Store, diagnosis: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trial with its config, losses, diagnosis and ending, in the order of their ids, from several pages."""
    monkeypatch.setattr(tracking_sweeps, "PAGE", 2)
    run_id = record(store, diagnosis, ROWS)
    sweep = read_sweep(store.uri, "first-light")
    assert (sweep.name, sweep.run_id, sweep.status, sweep.synthetic) == ("first-light", run_id, "FINISHED", False)
    assert sweep.config["space"]["model.norm"] == ["bn", "gn"]
    finished, stopped, pruned = sweep.trials
    assert [trial.status for trial in sweep.trials] == ["finished", "stopped", "pruned"]
    assert finished.loss == tuple((step, 1 / (1 + step)) for step in range(60))
    assert (finished.steps, finished.best_val_top1, finished.diagnosis) == (60, 0.5, None)
    assert finished.config["model"]["norm"] == "gn"
    assert finished.seconds is not None
    assert stopped.symptom == "spike"
    assert stopped.diagnosis is not None
    assert stopped.diagnosis["cause"] == "lr_jump"
    assert (pruned.steps, pruned.symptom) == (10, "")


def test_without_a_final_table_the_ending_is_what_mlflow_tells(local: Store, diagnosis: dict[str, Any]) -> None:
    """A sweep that was cut off has no table: a trial that was killed without a symptom ended early."""
    record(local, diagnosis, [])
    sweep = read_sweep(local.uri, "first-light")
    assert [trial.status for trial in sweep.trials] == ["finished", "stopped", "ended early"]


def test_a_sweep_goes_by_name_folder_or_run_id(local: Store, diagnosis: dict[str, Any]) -> None:
    """The newest of a name wins, and says of how many; a folder's underscore is no wildcard."""
    first, second = record(local, diagnosis, ROWS, "run_1"), record(local, diagnosis, ROWS, "runx1")
    named = read_sweep(local.uri, "first-light")
    assert (named.run_id, named.namesakes) == (second, 1)
    assert read_sweep(local.uri, "run_1").run_id == first
    assert read_sweep(local.uri, "runx1").run_id == second
    assert read_sweep(local.uri, first).run_id == first
    assert read_sweep(local.uri, f"runs:/{first}").run_id == first
    with pytest.raises(ConfigError, match=r"SWEEP: 'first-lihgt' is not allowed.*write 'first-light'"):
        read_sweep(local.uri, "first-lihgt")


def test_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    """Nothing is made where nothing was recorded."""
    with pytest.raises(TrackingError, match="run a sweep first"):
        read_sweep(default_tracking_uri(tmp_path / "none"), "x")
    assert not (tmp_path / "none").exists()


def test_the_report_of_a_sweep_is_kept_in_its_run(store: Store, diagnosis: dict[str, Any], tmp_path: Path) -> None:
    """It comes back from the store as it was made, a diagnosis whose loss ended in no number included."""
    run_id = record(store, diagnosis, ROWS)
    attach(store.uri, run_id)
    sweep: RecordedSweep = read_sweep(store.uri, run_id)
    kept = store.artifact(store.client.get_run(run_id), tracking_sweeps.REPORT_FILE, tmp_path / "kept").decode()
    assert kept == to_html(sweep, f" --uri {store.uri}")
    assert "hold the learning rate at 0.03 after step 60" in kept
    assert "train/shirt|polo/0001.jpg" in kept


def test_a_report_that_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sweep whose records are whole doesn't end in an error because its report could not be made."""
    with caplog.at_level(logging.WARNING, "epoch14.report"):
        attach(default_tracking_uri(tmp_path / "none"), "f" * 32)
    (line,) = caplog.messages
    assert "not added to the sweep's run" in line
    assert f"remedy: epoch14 report {'f' * 32}" in line
