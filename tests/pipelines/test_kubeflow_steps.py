"""What the steps of the Kubeflow pipeline refuse, each in one line; `test_kubeflow` runs them as a pipeline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.tracking import default_tracking_uri, open_client
from pipelines.kubeflow_steps import (
    check_findings,
    check_model_name,
    load_config,
    one_line,
    prepare_data,
    register_artifact,
    sweep_for_best,
    train_network,
)
from trainables.data.index import list_images
from trainables.errors import ConfigError, DataError, SweepError, TrackingError

if TYPE_CHECKING:
    from tests.conftest import RayHere

TinyImages = Callable[..., Path]
ILL = """\
name: ill
trial:
  max_steps: 4
  global_batch_size: 8
  threads: 1
  eval_every: 4
  report_every: 2
  model: {name: resnet18, width: 0.5, norm: gn}
  data: {image_size: 8}
  precision: {channels_last: false}
  schedule: {kind: constant}
  diagnosis: {enabled: false}
  faults: [{use: "trainables.faults:non_finite_input", start_step: 2}]
resources: {cpus_per_worker: 1}
"""


@pytest.fixture
def findings(tmp_path: Path) -> Path:
    """What the doctor wrote of a data set with a warning and four infos."""
    found = [{"check": "overlap", "severity": "warning", "summary": "2 images of val/ are in train/ too"}]
    found += [{"check": f"check{i}", "severity": "info", "summary": f"figure {i}"} for i in range(4)]
    file = tmp_path / "findings"
    file.write_text(json.dumps({"path": "/data/images", "findings": found}), encoding="utf-8")
    return file


@pytest.mark.parametrize("fail_on", ["error", "never"])
def test_lesser_findings_pass(findings: Path, fail_on: str) -> None:
    """What is less bad than fail_on stops nothing, and `never` lets everything pass."""
    check_findings(findings, fail_on)


def test_a_finding_as_bad_as_asked_for_stops(findings: Path) -> None:
    """The line names data set, check and figures, and of many findings the worst and how many more there are."""
    with pytest.raises(DataError, match=r"'/data/images'.*overlap \(warning\): 2 images of val/ are in train/ too"):
        check_findings(findings, "warning")
    with pytest.raises(DataError, match=r"overlap.*check0.*check1 \(info\): figure 1; and 2 more\)"):
        check_findings(findings, "info")


def test_no_severity(findings: Path) -> None:
    """A word that is no severity is refused, with the ones that are."""
    with pytest.raises(ConfigError, match="fail_on: 'fatal' is not allowed; allowed: info, warning, error, never"):
        check_findings(findings, "fatal")


def test_a_preset_is_a_name_or_a_text() -> None:
    """A preset's name and the text of a YAML file both give a config; what the pipeline sets wins over both."""
    named = load_config("schedule", ["max_steps=70"], data_path="/data/with: colon", tracking_uri="http://mlflow:5000")
    assert (named.name, named.trial["max_steps"]) == ("schedule", 70)
    assert (named.trial["data"]["path"], named.tracking_uri) == ("/data/with: colon", "http://mlflow:5000")
    assert load_config(ILL, []).name == "ill"
    with pytest.raises(ConfigError, match="preset: 'shedule' is not allowed"):
        load_config("shedule", [])


@pytest.mark.parametrize("name", ["", "a/b", "with space", "models:1", "x" * 101])
def test_names_that_the_registry_refuses(name: str) -> None:
    """The first step refuses what the last one could not register."""
    with pytest.raises(ConfigError, match="model_name"):
        check_model_name(name)


def test_prepare_makes_shards(
    tiny_images: TinyImages, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `shards` the later steps get the shards' place; they hold the same images, and the index says so."""
    monkeypatch.setenv("EPOCH14_CACHE", str(tmp_path / "cache"))
    data, shards = tiny_images(), str(tmp_path / "shards")
    config = load_config(ILL, [], data_path=str(data))
    shutil.copy(empty_store, tmp_path)
    assert prepare_data(config, shards, default_tracking_uri(tmp_path), tmp_path / "index") == shards
    index = json.loads((tmp_path / "index").read_text(encoding="utf-8"))
    assert (index["path"], index["classes"], index["images"]) == (shards, ["cat", "dog"], {"train": 8, "val": 4})
    assert index["fingerprint"] == list_images(shards).fingerprint()
    with pytest.raises(TrackingError, match=r"tracking\.uri: 'http://127\.0\.0\.1:1'"):
        prepare_data(config, "", "http://127.0.0.1:1", tmp_path / "index")


def test_a_sweep_of_ill_trials_has_no_best(
    ray_here: RayHere, digits_cache: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every trial falls ill the sweep fails with its answer, and keeps its result; training one fails too."""
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    shutil.copy(empty_store, tmp_path)
    ray_here.local()
    uri = default_tracking_uri(tmp_path)
    with pytest.raises(SweepError, match=r"sweep: 'ill' is not allowed.*1 of 1 trials fell ill"):
        sweep_for_best(load_config(ILL, [], tracking_uri=uri, storage=str(tmp_path)), tmp_path / "result")
    result = json.loads((tmp_path / "result").read_text(encoding="utf-8"))
    (trial,) = result["trials"]
    assert (result["best"], trial["status"], trial["symptom"]) == (None, "stopped", "non_finite")
    storage = tmp_path / "training"
    with pytest.raises(SweepError, match=r"a run that comes to its end \(stopped at step 3: non_finite\)"):
        train_network(trial["trial_id"], [f"storage={storage}"], uri, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_retry_goes_on_from_the_checkpoints(
    ray_here: RayHere, digits_cache: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training whose pod was lost goes on in another one, from the last checkpoint at the place that both reach."""
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    shutil.copy(empty_store, tmp_path)
    ray_here.local()
    uri, checkpoints = default_tracking_uri(tmp_path), tmp_path / "checkpoints"
    config = load_config(ILL, ["faults=[]"], tracking_uri=uri, storage=str(tmp_path / "pod 1"))
    _, best = sweep_for_best(config, tmp_path / "result")
    changes = ["max_steps=8", "eval_every=8", "checkpoint.every=4", f"checkpoints={checkpoints}"]
    first = train_network(best.trial_id, [*changes, f"storage={tmp_path / 'pod 2'}"], uri, tmp_path / "lost")
    shutil.rmtree(max(checkpoints.rglob("step-*")))
    again = train_network(best.trial_id, [*changes, f"storage={tmp_path / 'pod 3'}"], uri, tmp_path / "model")
    assert (again["step"], again["val_top1"]) == (8, first["val_top1"])
    client = open_client(uri)
    first_losses, losses = (client.get_metric_history(made["run_id"], "loss") for made in (first, again))
    assert [point.step for point in losses] == [4, 5, 6, 7]
    assert [point.value for point in losses] == [point.value for point in first_losses[4:]]


def test_a_poor_model_is_not_registered(tmp_path: Path) -> None:
    """Below min_top1 the last step fails before it touches the registry."""
    with pytest.raises(SweepError, match=r"val top-1: 0\.5 is not allowed; allowed: at least min_top1, 0\.76"):
        register_artifact(tmp_path, "sqlite:///never.db", "net", 0.5, 0.76)


def test_errors_end_a_step_in_one_line() -> None:
    """A step's log ends with the line, not with a traceback; other errors keep theirs."""
    with pytest.raises(SystemExit, match=r"^epoch14: error: two lines$"), one_line():
        raise DataError("two\nlines")
    with pytest.raises(ZeroDivisionError), one_line():
        raise ZeroDivisionError
