"""run_sweep, for real: on the caller's Ray, on its own, interrupted and resumed."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import ray

from pipelines.config import SweepConfig
from pipelines.sweep import SweepResult, run_sweep
from trainables.errors import ClusterError, ConfigError, DataError, TrackingError
from trainables.signals import MEASURED

if TYPE_CHECKING:
    from tests.conftest import RayHere

BASE = """\
name: tiny
trial:
  max_steps: 4
  global_batch_size: 8
  threads: 1
  eval_every: 4
  report_every: 2
  model: {name: resnet18, width: 0.5, norm: gn}
  data: {image_size: 16}
  precision: {channels_last: false}
  schedule: {kind: constant}
  optim: {lr: 0.01}
  diagnosis: {enabled: false}
resources: {cpus_per_worker: 1}
"""
THREE_WAYS = """\
space:
  faults:
    - []
    - [{use: "trainables.faults:non_finite_input", start_step: 2}]
    - [{use: "trainables.faults:preprocessing", params: {normalization: nonsense}}]
"""
"""A healthy trial, one that falls ill, and one that raises."""


@dataclass(frozen=True)
class Swept:
    """A sweep's result, the lines that it wrote, and whether Ray was on when it had ended."""

    result: SweepResult
    lines: list[str]
    ray_still_on: bool


def load(folder: Path, text: str, *overrides: str) -> SweepConfig:
    """The sweep of that YAML, with its storage in `folder`."""
    file = folder / "sweep.yaml"
    file.write_text(text, encoding="utf-8")
    return SweepConfig.load(str(file), [f"storage={folder}", *overrides])


@pytest.fixture(scope="module", autouse=True)
def _cache(digits_cache: Path) -> Iterator[None]:
    """Every process finds the drawn digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH14_CACHE", str(digits_cache))
        yield


@pytest.fixture(scope="module")
def on_callers_ray(ray_here: RayHere) -> None:
    """A Ray in local mode that the caller has initialised, as the README shows it."""
    ray_here.local()


@pytest.fixture(scope="module")
def three_ways(on_callers_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Three trials on the caller's Ray: one finishes, one is stopped, one raises."""
    del on_callers_ray
    lines: list[str] = []
    config = load(tmp_path_factory.mktemp("three_ways"), BASE + THREE_WAYS)
    result = run_sweep(config, write=lines.append)
    return Swept(result, lines, ray.is_initialized())


def test_each_trial_ends_in_its_own_way(three_ways: Swept) -> None:
    """One trial's symptom or exception is a row of its own, and the others go on."""
    finished, stopped, failed = three_ways.result.rows
    assert (finished.status, finished.steps, finished.symptom, finished.error) == ("finished", 4, "", "")
    assert (stopped.status, stopped.steps, stopped.symptom) == ("stopped", 3, "non_finite")
    assert (failed.status, failed.steps) == ("failed", 0)
    assert failed.error.startswith("faults.params.normalization: 'nonsense' is not allowed")
    assert (three_ways.result.failed, three_ways.result.interrupted) == (1, False)
    assert finished.params == {"faults": []}
    assert 0 < finished.best_val_top1 <= 1


def test_callers_ray_is_left_running(three_ways: Swept) -> None:
    """A Ray that the caller has initialised is used, and still there afterwards."""
    assert three_ways.ray_still_on


def test_each_trial_has_its_lines(three_ways: Swept) -> None:
    """Every report and every end is a line."""
    text = "\n".join(three_ways.lines)
    assert "step 2/4, loss" in text
    assert "finished at step 4" in text
    assert "stopped at step 3, symptom: non_finite, no diagnosis" in text
    assert "failed: faults.params.normalization" in text


def test_trials_are_in_the_tracking_store(three_ways: Swept) -> None:
    """The sweep's run has a child run for each trial, with every step of those that trained."""
    from mlflow import MlflowClient

    result = three_ways.result
    client = MlflowClient(result.tracking_uri)
    experiment = client.get_experiment_by_name(result.experiment)
    assert experiment is not None
    children = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{result.parent_run_id}'")
    runs = {run.data.tags["trial_id"]: run for run in children}
    assert set(runs) == {row.trial_id for row in result.rows}
    assert {runs[row.trial_id].info.run_name for row in result.rows} == {row.name for row in result.rows}
    finished = runs[result.rows[0].trial_id]
    assert [point.step for point in client.get_metric_history(finished.info.run_id, "loss")] == [0, 1, 2, 3]
    # One rank has no other to compare with, and group norm keeps no statistics.
    for name in set(MEASURED) - {"weight_checksum_spread", "bn_drift", "bn_gap"}:
        (point,) = client.get_metric_history(finished.info.run_id, name)
        assert (name, point.step, math.isfinite(point.value)) == (name, 0, True)
    assert finished.data.metrics["weight_norm"] > 0
    assert 0 < finished.data.metrics["label_entropy"] <= 1
    assert finished.data.metrics["moment_norm"] == 0
    assert 0 < finished.data.metrics["system/system_memory_usage_percentage"] <= 100


def test_the_report_tells_each_ending(three_ways: Swept, tmp_path: Path) -> None:
    """The HTML that the sweep has left in its run has a line for each trial, with the error of the one that raised."""
    from mlflow import MlflowClient

    result = three_ways.result
    file = MlflowClient(result.tracking_uri).download_artifacts(result.parent_run_id, "report.html", str(tmp_path))
    html = Path(file).read_text(encoding="utf-8")
    assert "1 of 3 trials fell ill: not diagnosed (1); 1 failed with an error" in html
    assert html.count("<td><details><summary>how</summary>") == 3
    assert "<td>finished</td>" in html
    assert "<td>stopped</td><td>non_finite</td>" in html
    assert "faults.params.normalization: &#39;nonsense&#39; is not allowed" in html
    assert "1 more ended before anyone could know" in html


@pytest.mark.parametrize(
    "search", ["{kind: optuna, num_trials: 2, asha: {grace_steps: 1}}", "{kind: random, num_trials: 2}"]
)
def test_other_searches(search: str, on_callers_ray: None, empty_store: Path, tmp_path: Path) -> None:
    """Optuna and random draw from lists of sections, from lists of values and from ranges."""
    del on_callers_ray
    shutil.copy(empty_store, tmp_path)
    space = "{optim.lr: {loguniform: [1e-3, 1e-1]}, schedule: [{kind: constant}, {kind: cosine}], seed: [1, 2]}"
    config = load(tmp_path, BASE, "max_steps=1", f"search={search}", f"space={space}")
    rows = run_sweep(config, write=lambda _: None).rows
    assert [row.status for row in rows] == ["finished", "finished"]
    assert all(1e-3 <= row.params["optim.lr"] <= 1e-1 and row.params["seed"] in (1, 2) for row in rows)
    assert rows[0].params != rows[1].params


def test_callers_ray_is_not_replaced(on_callers_ray: None, tmp_path: Path) -> None:
    """An address beside a running Ray, or workers beside its local mode, is refused; the Ray runs on."""
    del on_callers_ray
    with pytest.raises(ConfigError, match=r"address: 'auto' is not allowed.*in this process already"):
        run_sweep(load(tmp_path, BASE), address="auto")
    with pytest.raises(ConfigError, match=r"resources\.workers: 2 is not allowed.*1 in local mode"):
        run_sweep(load(tmp_path, BASE, "resources.workers=2"))
    assert ray.is_initialized()


@pytest.mark.parametrize(
    ("override", "error", "says"),
    [
        ("global_batch_size=5000", DataError, "global_batch_size: 5000 .*at most 1500"),
        ("data.path=no/such/folder", DataError, "data.path"),
        ("tracking.uri=ftp://x", TrackingError, "tracking.uri"),
        ("faults=[{use: 'trainables.faults:nothing'}]", ConfigError, r"faults\.0\.use"),
        (
            "faults=[{use: 'trainables.faults:black_images', params: {shar: 1}}]",
            ConfigError,
            r"faults\.0\.params.*shar",
        ),
        ("resources.cpus_per_worker=4096", ConfigError, r"resources\.cpus_per_worker: 4096"),
        ("resources.gpus_per_worker=4096", ConfigError, r"resources\.gpus_per_worker: 4096"),
    ],
)
def test_world_is_checked_before_ray_starts(
    override: str, error: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What doesn't fit the data, the code, the store or the machine is found before Ray starts."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    with pytest.raises(error, match=says):
        run_sweep(load(tmp_path, BASE, override))


def test_resume_needs_the_same_sweep(three_ways: Swept, tmp_path: Path) -> None:
    """A resume of another config, or of a folder that is none, is refused, and the line says which config it was."""
    folder = three_ways.result.path
    with pytest.raises(ConfigError, match=rf"--resume.*of this very config.*give {folder}/sweep\.yaml as the preset"):
        run_sweep(load(tmp_path, BASE + THREE_WAYS), resume=folder)
    with pytest.raises(ConfigError, match=r"--resume.*the folder of an interrupted sweep"):
        run_sweep(load(tmp_path, BASE), resume=tmp_path)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://127.0.0.1:8265", "nonsense"])
def test_ray_that_is_not_there(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without a Ray is found within seconds."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ClusterError, match="--address"):
        run_sweep(load(tmp_path, BASE), address=address)


@pytest.mark.parametrize("how", ["actors", "local mode"])
def test_ray_that_does_not_come_up(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine so busy that Ray gives its own start up, one line says so and what to do; else Ray's error stays."""
    given_up = "The current node timed out during startup. This could happen because"

    def start(**_: object) -> None:
        raise Exception(given_up)  # noqa: TRY002 - as Ray does

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", start)
    config = load(tmp_path, BASE)
    with pytest.raises(ClusterError, match=r"^ray: .* after 30 s.*; remedy: .*less busy$"):
        run_sweep(config, local=how == "local mode")
    monkeypatch.setattr("infra.ray_runtime.SLOW_START", "something else")
    with pytest.raises(Exception, match="timed out during startup"):
        run_sweep(config, local=how == "local mode")
