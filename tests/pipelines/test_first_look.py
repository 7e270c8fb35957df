"""The look that a sweep takes at its data."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.config import SweepConfig
from pipelines.first_look import look_at_data
from pipelines.sweep import run_sweep
from trainables.errors import DataError

if TYPE_CHECKING:
    from tests.conftest import RayHere

TinyImages = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _cache(digits_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))


@pytest.fixture
def leaky(tiny_images: TinyImages) -> Path:
    """A folder in which an image of train/ is in val/ too."""
    root = tiny_images(train=12, val=10)
    shutil.copy(root / "train" / "cat" / "000.png", root / "val" / "cat" / "copy.png")
    return root


def sweep_of(folder: Path, path: str, *overrides: str) -> SweepConfig:
    """A sweep on a data set."""
    file = folder / "sweep.yaml"
    file.write_text(
        "name: tiny\ntrial: {max_steps: 2, global_batch_size: 8, schedule: {kind: constant}}\n", encoding="utf-8"
    )
    return SweepConfig.load(str(file), [f"storage={folder}", f"data.path={path}", *overrides])


def test_a_sweep_on_healthy_data_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Infos are for who asks."""
    assert look_at_data(sweep_of(tmp_path, "digits")) == {"warning": 0, "error": 0}
    assert capfd.readouterr().err == ""


def test_a_sweep_says_what_it_sees_and_goes_on(leaky: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line for each finding above info, once for all points of the space, errors included."""
    overrides = ("data.normalization=no_div255", "space={optim.lr: [0.1, 0.2]}")
    assert look_at_data(sweep_of(tmp_path, str(leaky), *overrides)) == {"warning": 1, "error": 1}
    error, warning = capfd.readouterr().err.splitlines()
    assert error.startswith(f"epoch14: doctor: error: {leaky}: normalization 'no_div255' gives")
    assert warning.startswith(f"epoch14: doctor: warning: {leaky}: 1 of 21 images of val/ have the same bytes")
    assert all("; remedy: " in line for line in (error, warning))


def test_a_sweep_stops_at_what_no_trial_can_read(
    tiny_images: TinyImages, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More images of val/ that don't decode than may be quarantined end the sweep before Ray starts."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    shutil.copy(empty_store, tmp_path)
    root = tiny_images(train=12, val=10)
    (root / "val" / "dog" / "003.png").write_text("no image")
    with pytest.raises(DataError, match=rf"data\.path.*1 of 20 images of val/ don't decode.*{root}/val/dog/003\.png"):
        run_sweep(sweep_of(tmp_path, str(root), "data.max_quarantined=0"))
    assert look_at_data(sweep_of(tmp_path, str(root))) == {"warning": 0, "error": 1}


def test_what_was_seen_is_kept(leaky: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The second sweep on the same images tells the same without torch; a changed image is looked at anew."""
    config = sweep_of(tmp_path, str(leaky))
    look_at_data(config)
    first = capfd.readouterr().err
    code = (
        "import sys; from pipelines.config import SweepConfig; from pipelines.first_look import look_at_data\n"
        f"look_at_data(SweepConfig.load({str(tmp_path / 'sweep.yaml')!r}, ['data.path={leaky}']))\n"
        "assert 'torch' not in sys.modules"
    )
    again = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert again.stderr == first != ""
    (leaky / "val" / "cat" / "copy.png").write_bytes((leaky / "train" / "dog" / "001.png").read_bytes())
    look_at_data(config)
    assert "label_conflict" not in first
    assert "as one of another class" in capfd.readouterr().err


def test_a_damaged_note_is_looked_at_anew(
    leaky: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What can't be read, or can't be written, costs time, not the sweep."""
    monkeypatch.setenv("EPOCH14_CACHE", str(tmp_path / "cache"))
    config = sweep_of(tmp_path, str(leaky))
    look_at_data(config)
    (kept,) = (tmp_path / "cache" / "doctor").iterdir()
    for content in ("", "[]x", '[{"check": 1}]', '{"a": 1}'):
        kept.write_text(content)
        look_at_data(config)
    shutil.rmtree(kept.parent)
    kept.parent.write_text("a file where the folder belongs")
    look_at_data(config)
    assert len(set(capfd.readouterr().err.splitlines())) == 1


def test_the_counts_are_tags_of_the_sweep(ray_here: RayHere, leaky: Path, tmp_path: Path, empty_store: Path) -> None:
    """The parent run in MLflow says how many warnings and errors there were."""
    from mlflow import MlflowClient

    ray_here.local()
    shutil.copy(empty_store, tmp_path)
    small = ("max_steps=1", "data.image_size=16", "model={name: resnet18, width: 0.5, norm: gn}", "threads=1")
    result = run_sweep(sweep_of(tmp_path, str(leaky), *small), write=lambda _: None)
    tags = MlflowClient(result.tracking_uri).get_run(result.parent_run_id).data.tags
    assert (tags["epoch14.data_warnings"], tags["epoch14.data_errors"]) == ("1", "0")
