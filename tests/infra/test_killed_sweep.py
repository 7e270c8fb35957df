"""`epoch14 sweep`, SIGKILLed with all that it started in the middle, and resumed: as if nobody had disturbed it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowClient

from infra.system_metrics import PREFIX
from pipelines.cli import main
from tests.benchmarks.resume import kill_tree
from trainables.speed import SPEEDS

if TYPE_CHECKING:
    from tests.conftest import RayHere
    from tests.infra.conftest import Store

ROOT = Path(__file__).resolve().parents[2]
STEPS, TRIALS = 12, 4
SWEEP = """\
name: tiny
trial:
  max_steps: 12
  global_batch_size: 8
  threads: 1
  eval_every: 6
  report_every: 2
  checkpoint: {every: 4}
  model: {name: resnet18, width: 0.5, norm: bn}
  data: {image_size: 8}
  precision: {channels_last: false}
  schedule: {kind: constant}
  diagnosis: {enabled: false}
resources: {cpus_per_worker: 1}
tracking: {system_metrics_every_s: 0.01}
"""
SEARCHES = {
    "grid": "space: {optim.lr: [0.01, 0.02, 0.03, 0.04]}\nsearch: {max_concurrent: 2}\n",
    "optuna": "space: {optim.lr: {uniform: [0.01, 0.04]}}\nsearch: {kind: optuna, num_trials: 4, max_concurrent: 2}\n"
    "checkpoints: elsewhere\n",
}
Histories = dict[str, dict[str, list[tuple[int, float]]]]
"""Run's name -> metric -> its points (step, value), by step."""


def run_until_killed(command: list[str], folder: Path) -> Path:
    """Run a sweep until half of its steps are done, some trials over and some not, and kill it; its folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    steps: dict[str, int] = {}
    results = ""
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines", *command],
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            results = results or line.partition("results: ")[2].strip()
            if report := re.match(r"trial (\d+)/4 .*: (?:step|finished at step) (\d+)", line):
                steps[report[1]] = int(report[2])
            running = [step for step in steps.values() if 0 < step < STEPS]
            if sum(steps.values()) >= STEPS * TRIALS / 2 and running and len(running) < len(steps):
                break
        else:
            pytest.fail(f"the sweep ended before it could be killed: {steps}")
        kill_tree(process.pid)
    return Path(results)


def histories(store: Store) -> Histories:
    """Every metric of every run; the sweep's own run is there by its name."""
    client: MlflowClient = store.client
    return {
        str(run.info.run_name): {
            key: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
        }
        for run in store.runs()
    }


def lasting(runs: Histories) -> dict[str, dict[str, Any]]:
    """What does not depend on the machine's speed."""
    return {
        name: {key: points for key, points in metrics.items() if key not in SPEEDS and not key.startswith(PREFIX)}
        for name, metrics in runs.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("search", sorted(SEARCHES))
def test_killed_and_resumed_is_as_undisturbed(
    search: str,
    server_store: Callable[[str], Store],
    digits_cache: Path,
    ray_here: RayHere,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In MLflow: the same runs under one parent, no step of a metric twice, and the same values bit for bit.

    Where checkpoints lie elsewhere, the sweep's folder is lost too.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    (tmp_path / "tiny.yaml").write_text(SWEEP + SEARCHES[search], encoding="utf-8")
    undisturbed, killed = (server_store(f"{search} {how}") for how in ("undisturbed", "killed"))

    def command(store: Store) -> list[str]:
        tracking = (f"tracking.uri={store.uri}", f"tracking.experiment={store.experiment}")
        return ["sweep", "tiny.yaml", *(word for setting in tracking for word in ("--set", setting))]

    folder = run_until_killed(command(killed), tmp_path)
    begun = {run.info.run_id for run in killed.runs()}
    if search == "optuna":
        shutil.rmtree(folder)
    ray_here.with_actors()
    assert main([*command(killed), "--resume", str(folder)]) == 0
    assert main(command(undisturbed)) == 0

    assert len(begun) > 2
    assert begun <= {run.info.run_id for run in killed.runs()}
    parent, *trials = killed.runs()
    assert [run.info.status for run in killed.runs()] == ["FINISHED"] * (1 + TRIALS)
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    ours, theirs = histories(killed), histories(undisturbed)
    assert len(ours) == 1 + TRIALS
    twice = {
        (name, key, step)
        for name, metrics in ours.items()
        for key, points in metrics.items()
        for step, count in Counter(step for step, _ in points).items()
        if count > 1
    }
    assert twice == set()
    assert lasting(ours) == lasting(theirs)
