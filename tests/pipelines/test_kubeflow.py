"""The Kubeflow pipeline: what is compiled, and all of it run by `kfp.local` on the digits, a process a step."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from google.protobuf import json_format
from kfp import components, local
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from infra.tracking import default_tracking_uri, open_client
from pipelines.cli import main
from trainables.data.images import ImageSource
from trainables.data.index import ImageIndex

TinyImages = Callable[..., Path]
IMAGE = f"registry.example.org:5000/team/epoch14@sha256:{'0f' * 32}"
DEPENDENCIES: dict[str, set[str]] = {
    "prepare": set(),
    "doctor": {"prepare"},
    "check-findings": {"doctor"},
    "sweep": {"prepare", "check-findings"},
    "train": {"sweep"},
    "evaluate": {"prepare", "train"},
    "register": {"train", "evaluate"},
}
SWEEP = """\
name: tiny
trial:
  max_steps: 6
  global_batch_size: 16
  threads: 1
  eval_every: 6
  report_every: 3
  model: {name: resnet18, width: 0.5, norm: gn}
  data: {image_size: 8}
  precision: {channels_last: false}
  schedule: {kind: constant}
  diagnosis: {enabled: false}
space:
  optim.lr: [0.001, 0.02]
resources: {cpus_per_worker: 1}
"""


@dataclass(frozen=True)
class Compiled:
    """What the compiler wrote."""

    file: Path
    spec: dict[str, Any]
    """The pipeline."""
    platform: dict[str, Any]
    """Executor -> what Kubernetes is told of its pod."""

    @property
    def tasks(self) -> dict[str, Any]:
        """Task -> its part of the graph."""
        tasks: dict[str, Any] = self.spec["root"]["dag"]["tasks"]
        return tasks

    @property
    def containers(self) -> dict[str, Any]:
        """Task -> its container."""
        executors = self.spec["deploymentSpec"]["executors"]
        return {name.removeprefix("exec-"): executor["container"] for name, executor in executors.items()}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The pipeline as `epoch14 pipeline` compiles it."""
    file = tmp_path_factory.mktemp("compiled") / "epoch14.yaml"
    options = ["--image", IMAGE, "--gpus", "2", "--secret", "team", "--claim", "images:/data"]
    assert main(["pipeline", str(file), *options]) == 0
    spec, platform = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return Compiled(file, spec, {name.removeprefix("exec-"): pod for name, pod in pods.items()})


def test_steps_and_their_order(compiled: Compiled) -> None:
    """Each step of the work is a step in Kubeflow's graph, and waits for those whose results it needs."""
    found = {name: set(task.get("dependentTasks", ())) for name, task in compiled.tasks.items()}
    assert found == DEPENDENCIES


def test_parameters_have_types_and_defaults(compiled: Compiled) -> None:
    """All but the tracking server have a default, so that a run needs one field filled in; each is explained."""
    found = compiled.spec["root"]["inputDefinitions"]["parameters"]
    assert {name: (value["parameterType"], value.get("defaultValue")) for name, value in found.items()} == {
        "tracking_uri": ("STRING", None),
        "preset": ("STRING", "first_light"),
        "overrides": ("LIST", []),
        "data_path": ("STRING", ""),
        "shards": ("STRING", ""),
        "doctor_limit": ("NUMBER_INTEGER", 0),
        "fail_on": ("STRING", "error"),
        "train_overrides": ("LIST", []),
        "checkpoints": ("STRING", ""),
        "min_top1": ("NUMBER_DOUBLE", 0),
        "model_name": ("STRING", "epoch14"),
        "image": ("STRING", IMAGE),
    }
    assert [name for name, value in found.items() if not value.get("description")] == []
    assert [name for name, value in found.items() if not value.get("isOptional")] == ["tracking_uri"]


def test_artifacts_have_types(compiled: Compiled) -> None:
    """What Kubeflow shows of each step has the type that it draws: a page, metrics, a confusion matrix, a model."""
    made = {
        name.removeprefix("comp-"): {
            key: artifact["artifactType"]["schemaTitle"]
            for key, artifact in component.get("outputDefinitions", {}).get("artifacts", {}).items()
        }
        for name, component in compiled.spec["components"].items()
    }
    assert made == {
        "prepare": {"index": "system.Dataset"},
        "doctor": {"findings": "system.Artifact", "report": "system.HTML", "counts": "system.Metrics"},
        "check-findings": {},
        "sweep": {"result": "system.Artifact", "metrics": "system.Metrics"},
        "train": {"model": "system.Model"},
        "evaluate": {"metrics": "system.Metrics", "confusion": "system.ClassificationMetrics"},
        "register": {},
    }


def test_pods_run_one_pinned_image(compiled: Compiled) -> None:
    """Every pod runs the image of the parameter, whose default is pinned, and installs nothing as it starts."""
    given = [task["inputs"]["parameters"]["pipelinechannel--image"] for task in compiled.tasks.values()]
    assert given == [{"componentInputParameter": "image"}] * len(DEPENDENCIES)
    images = {container["image"] for container in compiled.containers.values()}
    assert images == {"{{$.inputs.parameters['pipelinechannel--image']}}"}
    text = compiled.file.read_text(encoding="utf-8")
    assert "latest" not in text
    assert "pip install" not in text


def test_nothing_is_cached(compiled: Compiled) -> None:
    """No step is skipped for having run before: its data, its records or its model may be others by now."""
    assert {name: task["cachingOptions"] for name, task in compiled.tasks.items()} == {
        name: {} for name in DEPENDENCIES
    }


def test_what_kubernetes_gives_the_pods(compiled: Compiled) -> None:
    """All pods have credentials from the secret and the claim's folder; those with a Ray have GPUs and /dev/shm."""
    gpus = {name: pod.get("resources", {}).get("accelerator") for name, pod in compiled.containers.items()}
    wanted = {"count": "2", "type": "nvidia.com/gpu", "resourceCount": "2", "resourceType": "nvidia.com/gpu"}
    assert {name: gpu for name, gpu in gpus.items() if gpu} == {"sweep": wanted, "train": wanted}
    mounts = {
        name: [mount["mountPath"] for mount in pod.get("emptyDirMounts", ())] for name, pod in compiled.platform.items()
    }
    assert {name: paths for name, paths in mounts.items() if paths} == {"sweep": ["/dev/shm"], "train": ["/dev/shm"]}  # noqa: S108
    assert set(compiled.platform) == set(DEPENDENCIES)
    for pod in compiled.platform.values():
        (secret,), (claim,) = pod["secretAsEnv"], pod["pvcMount"]
        assert (secret["secretName"], secret["optional"]) == ("team", True)
        assert {"secretKey": "MLFLOW_TRACKING_PASSWORD", "envVar": "MLFLOW_TRACKING_PASSWORD"} in secret["keyToEnv"]
        assert (claim["constant"], claim["mountPath"]) == ("images", "/data")


def test_kfp_reads_what_it_wrote(compiled: Compiled) -> None:
    """The YAML is a PipelineSpec by kfp's own schema, and its loader makes a pipeline of it."""
    spec = PipelineSpec()
    json_format.ParseDict(compiled.spec, spec)
    assert set(spec.root.dag.tasks) == set(DEPENDENCIES)
    loaded = components.load_component_from_file(str(compiled.file))
    assert loaded.name == "epoch14"
    assert set(loaded.component_spec.inputs) == set(compiled.spec["root"]["inputDefinitions"]["parameters"])


def test_module_compiles_the_same(compiled: Compiled, tmp_path: Path) -> None:
    """`python -m pipelines.kubeflow` is `epoch14 pipeline`, and compiles to the same bytes each time."""
    options = ["--image", IMAGE, "--gpus", "2", "--secret", "team", "--claim", "images:/data"]
    command = [sys.executable, "-m", "pipelines.kubeflow", str(tmp_path / "again.yaml"), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == f"pipeline: {tmp_path / 'again.yaml'}, image {IMAGE}\n"
    assert (tmp_path / "again.yaml").read_bytes() == compiled.file.read_bytes()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["out.yaml", "--image", "epoch14"], "--image: 'epoch14' is not allowed; allowed: an image with a tag other"),
        (["out.yaml", "--image", "team/epoch14:latest"], "--image: 'team/epoch14:latest' is not allowed"),
        (["out.yaml", "--image", "registry:5000/epoch14"], "pin it, so that a rerun runs the same code"),
        (["out.yaml", "--claim", "images"], "--claim: 'images' is not allowed; allowed: NAME:/FOLDER"),
        (["out.json"], "OUT: 'out.json' is not allowed; allowed: a file that ends with .yaml"),
        (["no/such/folder/out.yaml"], "a file that can be written"),
    ],
)
def test_what_can_not_be_compiled(
    options: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An image that isn't pinned, a claim without a folder and a file that can't be written are one line each."""
    monkeypatch.chdir(tmp_path)
    assert main(["pipeline", *options]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert says in line
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class Ran:
    """One run of the compiled pipeline on this machine."""

    outputs: dict[str, Any]
    log: str
    uri: str
    root: Path

    def file(self, task: str, name: str) -> Path:
        """Where an artifact lies."""
        (found,) = self.root.glob(f"epoch14-*/{task}/{name}")
        return found

    @property
    def tasks(self) -> list[str]:
        """The tasks that were started, in their order."""
        started = re.findall(r'Loading KFP component "(\w+)"', self.log)
        return [name.replace("_", "-") for name in started]


Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def run(
    compiled: Compiled, digits_cache: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    """Runs the compiled file, each step as a process of its own, with records in an SQLite store."""

    def start(**parameters: Any) -> Ran:
        folder = tmp_path_factory.mktemp("run")
        shutil.copy(empty_store, folder)
        uri, root, log = default_tracking_uri(folder), folder / "artifacts", io.StringIO()
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=False)
        pipeline = components.load_component_from_file(str(compiled.file))
        with warnings.catch_warnings(), contextlib.redirect_stdout(log):
            # It says that an image may be no Python image; here none is used.
            warnings.simplefilter("ignore", RuntimeWarning)
            task = pipeline(tracking_uri=uri, preset=SWEEP, **parameters)
        return Ran(dict(task.outputs), log.getvalue(), uri, root)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH14_CACHE", str(digits_cache))
        yield start
    local.config.LocalExecutionConfig.instance = None


@pytest.fixture(scope="module")
def on_digits(run: Run) -> Ran:
    """A run to its end."""
    return run(data_path="digits", doctor_limit=64, model_name="digits-net", train_overrides=["max_steps=8"])


def test_it_ends_with_a_registered_model(on_digits: Ran, digits_index: ImageIndex) -> None:
    """The last output is a model of MLflow's registry, which loads and is as good as the evaluation said."""
    import mlflow.pyfunc

    assert on_digits.outputs == {"Output": "models:/digits-net/1"}
    assert on_digits.tasks == list(DEPENDENCIES)
    version = open_client(on_digits.uri).get_model_version("digits-net", "1")
    evaluated = float(version.tags["epoch14.evaluated_top1"])
    assert evaluated == pytest.approx(float(version.tags["epoch14.val_top1"]), abs=1e-5)
    images = ImageSource(digits_index.val, 8, "none", seed=0).fetch(np.arange(len(digits_index.val)), None)
    model = open_client(on_digits.uri).get_model_version_download_uri("digits-net", "1")
    logits = mlflow.pyfunc.load_model(model).predict(images.numpy())
    assert (logits.argmax(axis=1) == digits_index.val.labels).mean() == pytest.approx(evaluated, abs=1e-5)


def test_the_best_of_the_sweep_was_trained(on_digits: Ran) -> None:
    """The trial with the best val top-1 is trained with its own config, changed by train_overrides alone."""
    swept = json.loads(on_digits.file("sweep", "result").read_text(encoding="utf-8"))
    best = max(swept["trials"], key=lambda trial: trial["best_val_top1"])
    assert [trial["status"] for trial in swept["trials"]] == ["finished", "finished"]
    assert swept["best"] == best["trial_id"]
    client = open_client(on_digits.uri)
    version = client.get_model_version("digits-net", "1")
    assert version.tags["epoch14.config"].startswith(f"trial {best['trial_id']} ")
    trained = client.get_run(str(version.run_id))
    assert trained.data.params["optim.lr"] == str(best["params"]["optim.lr"])
    assert trained.data.params["max_steps"] == "8"


def test_each_step_leaves_what_it_found(on_digits: Ran) -> None:
    """The index, the doctor's report and findings, and the scores are artifacts."""
    index = json.loads(on_digits.file("prepare", "index").read_text(encoding="utf-8"))
    assert (index["path"], index["images"], len(index["classes"])) == ("digits", {"train": 1500, "val": 297}, 10)
    findings = json.loads(on_digits.file("doctor", "findings").read_text(encoding="utf-8"))
    assert {finding["severity"] for finding in findings["findings"]} == {"info"}
    assert "<html" in on_digits.file("doctor", "report").read_text(encoding="utf-8")
    assert (on_digits.file("train", "model") / "network" / "weights.safetensors").is_file()
    scored = json.loads(on_digits.file("evaluate", "executor_output.json").read_text(encoding="utf-8"))
    metrics = scored["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    assert metrics["images"] == 297
    matrix = scored["artifacts"]["confusion"]["artifacts"][0]["metadata"]["confusionMatrix"]
    cells = np.array([row["row"] for row in matrix["rows"]])
    assert (cells.shape, cells.sum(), cells.trace() / 297) == ((10, 10), 297, pytest.approx(metrics["top1"]))


def test_bad_data_stops_it(run: Run, tiny_images: TinyImages) -> None:
    """A finding as bad as fail_on ends the run before the sweep, in one line; the doctor's report is kept."""
    data = tiny_images(train=12, val=10)
    shutil.copy(data / "train" / "cat" / "000.png", data / "val" / "cat" / "copy.png")
    ran = run(data_path=str(data), fail_on="warning", overrides=["data.max_quarantined=0"])
    assert ran.outputs == {}
    assert ran.tasks == ["prepare", "doctor", "check-findings"]
    assert ran.file("doctor", "report").stat().st_size > 0
    (line,) = (line.strip() for line in ran.log.splitlines() if "epoch14: error:" in line)
    assert f"data.path: '{data}' is not allowed; allowed: a data set without findings from warning on (overlap" in line
    assert "Traceback" not in ran.log
