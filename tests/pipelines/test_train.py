"""`epoch14 train`: one config to its end, gone on with by the same command, and its model in the registry."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow.pyfunc
import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from infra.tracking import default_tracking_uri, open_client
from pipelines.cli import main
from trainables.checkpoint import CheckpointStore
from trainables.data.images import ImageSource
from trainables.data.index import ImageIndex
from trainables.serve import load_network

if TYPE_CHECKING:
    from tests.conftest import RayHere

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 240.0
"""A guard against hanging, not a claim."""
RUN = """\
name: tiny
trial:
  max_steps: 16
  global_batch_size: 16
  threads: 1
  eval_every: 8
  report_every: 2
  model: {name: resnet18, width: 0.5}
  data: {image_size: 8, augment: crop_flip}
  schedule: {kind: cosine_warmup, warmup_steps: 4}
  optim: {lr: 0.02, ema_decay: 0.8}
  precision: {channels_last: false}
  checkpoint: {every: 4}
resources: {cpus_per_worker: 1}
"""


@dataclass
class Trainer:
    """`epoch14 train` of RUN in a folder of its own."""

    folder: Path
    environment: dict[str, str]
    ray: RayHere
    options: tuple[str, ...] = ()
    target: str = "run.yaml"
    ended: list[subprocess.CompletedProcess[str]] = field(default_factory=list)

    def arguments(self) -> list[str]:
        """The same each time."""
        return ["train", self.target, *self.options]

    def run(self) -> subprocess.CompletedProcess[str]:
        """Train to the end, or as far as it goes, in this process, which has imported what it takes."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            if "--local" in self.options:
                self.ray.local()
            else:
                self.ray.with_actors()
            with redirect_stdout(out), redirect_stderr(err):
                code = main(self.arguments())
        done = subprocess.CompletedProcess(self.arguments(), code, out.getvalue(), err.getvalue())
        self.ended.append(done)
        return done

    def run_until_killed(self) -> int:
        """The same in a process of its own, which is killed with all its children once there is a checkpoint."""
        with subprocess.Popen(
            [sys.executable, "-m", "pipelines", *self.arguments()],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            self.wait_for_checkpoint(lambda: process.poll() is None)
            family = psutil.Process(process.pid)
            for member in [*family.children(recursive=True), family]:
                member.kill()
        return process.returncode

    def run_until_told(self) -> subprocess.CompletedProcess[str]:
        """`run`, whose actor is sent SIGTERM once there is a checkpoint."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            told = pool.submit(self.tell_actor)
            done = self.run()
            told.result()
        return done

    def tell_actor(self) -> None:
        """SIGTERM for the Tune actor, as a spot instance's end brings it; its title has the method that it runs."""
        self.wait_for_checkpoint(lambda: True)
        titles = {child: " ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)}
        (actor,) = (child for child, title in titles.items() if title.startswith("ray::") and ".train" in title)
        actor.send_signal(signal.SIGTERM)

    def wait_for_checkpoint(self, running: Callable[[], bool]) -> None:
        """Return when the first one is there."""
        deadline = time.monotonic() + START_LIMIT_S
        while not self.checkpoints():
            assert running()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def checkpoints(self) -> list[Path]:
        """Committed ones, by step."""
        return sorted(self.folder.rglob("checkpoints/step-*"), key=lambda path: path.name)

    def last_tensors(self) -> dict[str, Tensor]:
        """The state at the run's end."""
        with CheckpointStore(str(self.checkpoints()[-1].parent), keep=2) as store:
            last = store.latest()
        assert last is not None
        assert last.step == 16
        return last.tensors

    @property
    def uri(self) -> str:
        """Its tracking store."""
        return default_tracking_uri(self.folder / "outputs")


NewTrainer = Callable[..., Trainer]


@pytest.fixture(scope="module")
def trainer(
    digits_cache: Path, empty_store: Path, ray_here: RayHere, tmp_path_factory: pytest.TempPathFactory
) -> NewTrainer:
    """A factory of trainers."""

    def make(*options: str) -> Trainer:
        folder = tmp_path_factory.mktemp("train")
        (folder / "outputs").mkdir()
        shutil.copy(empty_store, folder / "outputs")
        (folder / "run.yaml").write_text(RUN, encoding="utf-8")
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        return Trainer(folder, {"PYTHONPATH": path, "EPOCH14_CACHE": str(digits_cache)}, ray_here, options)

    return make


@pytest.fixture(scope="module")
def trained(trainer: NewTrainer) -> Trainer:
    """A run that nobody interrupted, in local mode; the command was given twice."""
    undisturbed = trainer("--local")
    undisturbed.run()
    undisturbed.run()
    return undisturbed


@pytest.fixture(scope="module")
def end(trained: Trainer) -> Iterator[dict[str, Tensor]]:
    """Its last state."""
    return trained.last_tensors()  # type: ignore[return-value] # pytest takes both


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal names and bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Of what it printed."""
    return done.stdout.strip().splitlines()[-1]


def test_a_finished_run_is_registered(trained: Trainer) -> None:
    """The command ends with 0 and the version's name; the registry has it with its lineage."""
    done = trained.ended[0]
    assert done.returncode == 0, done.stderr
    assert last_line(done).startswith("model: models:/tiny/1, step ")
    (version,) = open_client(trained.uri).search_model_versions("name = 'tiny'")
    assert version.tags["epoch14.config"] == "run.yaml"
    assert version.tags["epoch14.seed"] == "0"
    assert "1500 + 297 images, 10 classes" in version.tags["epoch14.data"]
    run = open_client(trained.uri).get_run(str(version.run_id))
    assert run.data.tags["mlflow.parentRunId"] == version.tags["epoch14.sweep_run"]
    assert run.data.metrics["best_val_top1"] >= float(version.tags["epoch14.val_top1"]) - 1e-5


def test_the_same_command_again_changes_nothing(trained: Trainer) -> None:
    """A run that is over is not run again, and its model not registered twice."""
    first, second = trained.ended
    assert second.returncode == 0, second.stderr
    assert last_line(first) == last_line(second)
    client = open_client(trained.uri)
    assert len(client.search_model_versions("name = 'tiny'")) == 1
    experiment = client.get_experiment_by_name("epoch14")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_a_registered_model_answers_as_the_run_evaluated(trained: Trainer, digits_index: ImageIndex) -> None:
    """Loaded by MLflow, it has the recorded top-1 on the validation images, averages included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", trained.uri)
        model = mlflow.pyfunc.load_model("models:/tiny/1")
    images = ImageSource(digits_index.val, 8, "none", 0).fetch(np.arange(len(digits_index.val)), None).numpy()
    logits = model.predict(images)
    assert logits.shape == (297, 10)
    (version,) = open_client(trained.uri).search_model_versions("name = 'tiny'")
    top1 = float((logits.argmax(axis=1) == digits_index.val.labels).mean())
    assert f"{top1:.5f}" == version.tags["epoch14.val_top1"]


def test_no_pickle_in_a_registered_model(trained: Trainer, tmp_path: Path) -> None:
    """Weights are safetensors, the rest is text; it loads without MLflow too."""
    (version,) = open_client(trained.uri).search_model_versions("name = 'tiny'")
    step = version.tags["epoch14.step"]
    folder = Path(open_client(trained.uri).download_artifacts(str(version.run_id), f"model-{step}", str(tmp_path)))
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file() and "code" not in path.parts}
    assert suffixes <= {".safetensors", ".json", ".yaml", ".txt", ".yml", ""}
    (card,) = folder.rglob("model.json")
    assert load_network(card.parent).side == 8


def test_an_interrupted_run_goes_on_in_local_mode(trainer: NewTrainer, end: dict[str, Tensor]) -> None:
    """Killed after its first checkpoint: the same command ends with the same bits."""
    run = trainer("--local")
    assert run.run_until_killed() == -signal.SIGKILL
    check_end(run, end)


def test_an_interrupted_run_goes_on_in_an_actor(trainer: NewTrainer, end: dict[str, Tensor]) -> None:
    """The same where a notice reaches the Tune actor alone; the command says how to go on, and isn't over."""
    run = trainer()
    told = run.run_until_told()
    assert told.returncode == 130, told.stderr
    assert "interrupted: the same command goes on" in told.stderr
    assert run.checkpoints()[-1].name < "step-000000016"
    check_end(run, end)


def check_end(run: Trainer, end: dict[str, Tensor]) -> None:
    """The command once more: the last state is `end`, and its only trial has recorded each step once."""
    done = run.run()
    assert done.returncode == 0, done.stderr
    assert same(run.last_tensors(), end)
    client = open_client(run.uri)
    experiment = client.get_experiment_by_name("epoch14")
    assert experiment is not None
    (trial,) = client.search_runs([experiment.experiment_id], "tags.`epoch14.kind` = 'trial'")
    steps = [point.step for point in client.get_metric_history(trial.info.run_id, "loss")]
    assert sorted(steps) == list(range(16))
    assert trial.info.status == "FINISHED"


def test_a_recorded_trial_is_trained_by_its_id(trained: Trainer) -> None:
    """Its config comes from the store, with what --set changes; the model says where it comes from."""
    (version,) = open_client(trained.uri).search_model_versions("name = 'tiny'")
    trial = open_client(trained.uri).get_run(str(version.run_id)).data.tags["trial_id"]
    again = replace(trained, options=("--local", "--set", "max_steps=6"), target=trial, ended=[])
    done = again.run()
    assert done.returncode == 0, done.stderr
    name = f"train-{trial}"
    assert last_line(done).startswith(f"model: models:/{name}/1, step 6,")
    (version,) = open_client(trained.uri).search_model_versions(f"name = '{name}'")
    assert version.tags["epoch14.config"] == f"trial {trial} (resnet18 bn b16 cosine_warmup lr0.02)"
    params = open_client(trained.uri).get_run(str(version.run_id)).data.params
    assert (params["optim.ema_decay"], params["max_steps"]) == ("0.8", "6")


def test_a_run_that_falls_ill_is_not_registered_and_may_go_on_past_it(trainer: NewTrainer) -> None:
    """It ends with 1 and says how to go on; without the detector it goes from its last checkpoint to its end."""
    run = trainer(
        *("--local", "--set", "faults=[{use: 'trainables.faults:non_finite_input', start_step: 6, stop_step: 7}]"),
        *("--set", "diagnosis.enabled=false"),
    )
    done = run.run()
    assert done.returncode == 1, done.stderr
    assert "not registered: the run stopped at step 7 on a symptom (non_finite)" in done.stderr
    assert "--set detector.enabled=false" in done.stderr
    assert not open_client(run.uri).search_registered_models()

    run.options += ("--set", "detector.enabled=false")
    done = run.run()
    assert done.returncode == 0, done.stderr
    assert last_line(done).startswith("model: models:/tiny/1, step ")
    client = open_client(run.uri)
    (version,) = client.search_model_versions("name = 'tiny'")
    steps = [point.step for point in client.get_metric_history(str(version.run_id), "loss")]
    assert steps == list(range(4, 16))


def test_a_run_goes_on_with_other_resources(trained: Trainer) -> None:
    """They make it no other run: one that is over is over, in the same folder, and nothing is trained again."""
    other = replace(trained, ended=[])
    other.options += ("--set", "resources.cpus_per_worker=2", "--set", "data.loader_threads=0")
    done = other.run()
    assert done.returncode == 0, done.stderr
    assert last_line(done).startswith("model: models:/tiny/2, step ")
    assert len(list(trained.folder.glob("outputs/tiny-*"))) == 1


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nonesuch", ("PRESET_OR_TRIAL: 'nonesuch'", "a YAML file, or a trial", "remedy")),
        ("schedule", ("PRESET_OR_TRIAL: 'schedule'", "one trial; this is a sweep of 2", "fix its axes with --set")),
    ],
)
def test_what_cannot_be_trained_is_one_line(trainer: NewTrainer, target: str, words: Sequence[str]) -> None:
    """An unknown name, and a sweep of several trials: exit code 2 before work starts."""
    run = trainer("--local")
    run.target = target
    done = run.run()
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert all(word in line for word in words)
