"""The commands on shards at s3://."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipelines.checks import resolve_paths
from pipelines.cli import main
from pipelines.config import SweepConfig
from trainables.data.shards.convert import convert
from trainables.data.shards.plan import Settings

if TYPE_CHECKING:
    from tests.conftest import RayHere

TinyImages = Callable[..., Path]
SMALL = {
    "max_steps": 2,
    "global_batch_size": 8,
    "threads": 1,
    "device": "cpu",
    "schedule": {"kind": "constant"},
    "model": {"name": "resnet18", "width": 0.5, "norm": "gn"},
}


@pytest.fixture
def uri(tiny_images: TinyImages, s3_client: Any, tmp_path: Path, empty_store: Path) -> str:
    """Shards of 24 images for training, in a bucket."""
    del s3_client
    shutil.copy(empty_store, tmp_path)
    images = tiny_images(train=12, val=10)
    # What moto holds outlives its server.
    place = f"s3://data/{tmp_path.name}"
    convert(str(images), place, Settings(), threads=1, listener=lambda progress: None)
    return place


def sweep_file(folder: Path, path: str, *, axis: bool) -> Path:
    """A sweep on a data set, which is a key of the trial or an axis of the space."""
    data = {"image_size": 16} if axis else {"image_size": 16, "path": path}
    values: dict[str, Any] = {"name": "tiny", "storage": str(folder), "trial": {**SMALL, "data": data}}
    if axis:
        values["space"] = {"data.path": [path]}
    (folder / "sweep.yaml").write_text(json.dumps(values), encoding="utf-8")
    return folder / "sweep.yaml"


@pytest.mark.parametrize("axis", [False, True])
def test_a_uri_stays_as_it_is(axis: bool, tmp_path: Path) -> None:  # noqa: FBT001 - pytest passes it by name
    """Where a path becomes absolute, as trials run elsewhere."""
    config = resolve_paths(SweepConfig.load(str(sweep_file(tmp_path, "s3://data/shards", axis=axis))))
    assert (config.space["data.path"] if axis else [config.trial["data"]["path"]]) == ["s3://data/shards"]


def test_a_sweep_runs_on_a_uri(uri: str, ray_here: RayHere, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The driver and the trial open one copy."""
    ray_here.local()
    assert main(["sweep", str(sweep_file(tmp_path, uri, axis=False))]) == 0
    assert "finished" in capfd.readouterr().out
    assert len([path for path in (tmp_path / "cache" / "staged").iterdir() if path.is_dir()]) == 1


def test_a_training_runs_on_a_uri_and_records_it(uri: str, ray_here: RayHere, tmp_path: Path) -> None:
    """The registered model says which data it was trained on."""
    from mlflow import MlflowClient

    ray_here.local()
    assert main(["train", str(sweep_file(tmp_path, uri, axis=False))]) == 0
    (version,) = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_model_versions()
    assert version.tags["epoch14.data"] == f"{uri}: 24 + 20 images, 2 classes"


def test_the_doctor_examines_a_uri(uri: str, tmp_path: Path) -> None:
    """All images of both splits."""
    assert main(["doctor", uri, "--json", str(tmp_path / "found.json"), "--fail-on", "error"]) == 0
    content = json.loads((tmp_path / "found.json").read_text())
    assert (content["path"], content["root"]) == (uri, uri)
    assert content["images"]["train"] == {"read": 24, "listed": 24}


@pytest.mark.parametrize("command", ["sweep", "train", "doctor"])
def test_a_uri_without_shards_ends_every_command_with_one_line(
    command: str, s3_client: Any, tmp_path: Path, empty_store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It says how shards are made; no Ray is started."""
    del s3_client
    shutil.copy(empty_store, tmp_path)
    path = "s3://data/images"
    assert main([command, path if command == "doctor" else str(sweep_file(tmp_path, path, axis=False))]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"epoch14: error: data.path: {path!r} is not allowed; allowed: shards, where it is a URI (")
    assert "remedy: make them with `epoch14 shard SRC DST`" in line
