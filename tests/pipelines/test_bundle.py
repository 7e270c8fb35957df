"""`epoch14 bundle` after a real sweep, and `epoch14 replay` of what it wrote."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.cli import main
from pipelines.config import SweepConfig
from pipelines.sweep import SweepResult, run_sweep

if TYPE_CHECKING:
    from tests.conftest import RayHere

ROOT = Path(__file__).resolve().parents[2]
SWEEP = """\
name: tiny
trial:
  max_steps: 20
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
  diagnosis: {replicates: 1, horizon: 2}
  faults: [{use: "trainables.faults:non_finite_input", start_step: 14}]
resources: {cpus_per_worker: 1}
space:
  checkpoint.every+diagnosis.bundle:
    - {checkpoint.every: 0, diagnosis.bundle: null}
    - {checkpoint.every: 5, diagnosis.bundle: null}
    - {checkpoint.every: 0, diagnosis.bundle: OWN}
"""


@pytest.fixture(scope="module")
def swept(
    ray_here: RayHere, digits_cache: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> SweepResult:
    """Three trials that NaN comes into: one leaves nothing, one checkpoints, one a bundle of its own."""
    folder = tmp_path_factory.mktemp("bundled")
    shutil.copy(empty_store, folder)
    file = folder / "sweep.yaml"
    file.write_text(SWEEP.replace("OWN", str(folder / "own")), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH14_CACHE", str(digits_cache))
        ray_here.local()
        result = run_sweep(SweepConfig.load(str(file), [f"storage={folder}"]), write=lambda line: None)
    assert [row.cause for row in result.rows] == ["non_finite_input"] * 3
    return result


@pytest.fixture(autouse=True)
def _cache(digits_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))


def export(swept: SweepResult, place: int, out: Path, *options: str) -> int:
    """`epoch14 bundle` of one trial."""
    return main(["bundle", swept.rows[place].trial_id, str(out), "--uri", swept.tracking_uri, *options])


def test_a_checkpoint_is_enough_for_a_replay_elsewhere(
    swept: SweepResult, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The steps since the checkpoint are run again; the bundle, moved, gives the same diagnosis in a new process."""
    assert export(swept, 1, tmp_path / "out") == 0
    captured = capfd.readouterr()
    assert "running again from step 10" in captured.err
    assert captured.out.startswith(f"epoch14 replay {tmp_path / 'out'}")
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    command = [sys.executable, "-m", "pipelines", "replay", "elsewhere"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "non_finite_input" in done.stdout


def test_without_a_checkpoint_it_says_how_to_get_one(
    swept: SweepResult, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line and exit code 2; the remedy that it names works."""
    assert export(swept, 0, tmp_path) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "--rerun trains its first 15 steps once more" in line
    assert "--set diagnosis.bundle=FOLDER" in line
    assert export(swept, 0, tmp_path, "--rerun") == 0
    assert "running again from step 0" in capfd.readouterr().err


def test_a_bundle_of_the_trials_own_is_copied(
    swept: SweepResult, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Byte for byte, and no step is run."""
    assert export(swept, 2, tmp_path) == 0
    assert "running again" not in capfd.readouterr().err
    (copy,) = tmp_path.iterdir()
    own = next(folder for folder in swept.path.parent.glob("own/*") if folder.name == copy.name)
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == {
        file.name: file.read_bytes() for file in own.iterdir()
    }
