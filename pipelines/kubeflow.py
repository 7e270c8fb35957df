"""The Kubeflow pipeline: prepare -> doctor -> check-findings -> sweep -> train -> evaluate -> register.

    python -m pipelines.kubeflow epoch14.yaml --image REGISTRY/epoch14@sha256:...

compiles it to YAML for a Kubeflow Pipelines server from 2.4 on, the first that takes an image as a parameter. Each step
is a pod of the same image, which has epoch14 and kfp installed. Pods share no disk: the data set has to be the digits,
shards at s3://, or lie on a mounted claim, and the tracking store has to be a server. Nothing is cached: behind the
same path there may be other images tomorrow, and the records of an old sweep may be gone.

The steps' functions are sent to the pods as source text, so each imports what it uses, and this file has no
`from __future__ import annotations`, which would hide their types from kfp.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, kubernetes

from trainables.errors import ConfigError, complaint

NAME = "epoch14"
PINNED = re.compile(r"[^\s@:]+(?::\d+/[^\s@:]+)?(?::(?!latest$)[\w][\w.-]{0,127}|(?::[\w.-]+)?@sha256:[0-9a-f]{64})")
"""An image with a tag other than `latest`, or with a digest."""
CLAIM = re.compile(r"([a-z0-9][a-z0-9.-]*):(/.+)")
SECRET_KEYS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
)
"""Keys of the secret that the pods take into their environment, where they are there."""


@dataclass(frozen=True)
class Pods:
    """What the pods are given; fixed when the pipeline is compiled."""

    image: str = f"epoch14:{version('epoch14')}"
    """Default of the pipeline's parameter `image`."""
    gpus: int = 0
    """NVIDIA GPUs of the pods that sweep and train."""
    secret: str | None = None
    """Kubernetes secret with credentials, see SECRET_KEYS."""
    claim: str | None = None
    """NAME:/FOLDER: a persistent volume claim, and where every pod mounts it."""

    def __post_init__(self) -> None:
        if not PINNED.fullmatch(self.image):
            allowed = "an image with a tag other than latest, or with a digest, NAME@sha256:..."
            raise ConfigError(complaint("--image", self.image, allowed, "pin it, so that a rerun runs the same code"))
        if self.claim is not None and not CLAIM.fullmatch(self.claim):
            allowed = "NAME:/FOLDER of a persistent volume claim"
            raise ConfigError(complaint("--claim", self.claim, allowed, "write it as data:/data"))


def prepare(
    preset: str,
    overrides: list[str],
    data_path: str,
    shards: str,
    tracking_uri: str,
    model_name: str,
    index: dsl.Output[dsl.Dataset],
) -> str:
    """Check config, tracking server and data set; make shards where asked to; list the data set. Returns its path."""
    from pathlib import Path

    from pipelines.kubeflow_steps import check_model_name, load_config, one_line, prepare_data

    with one_line():
        check_model_name(model_name)
        config = load_config(preset, overrides, data_path=data_path, tracking_uri=tracking_uri)
        return prepare_data(config, shards, tracking_uri, Path(index.path))


def doctor(
    preset: str,
    overrides: list[str],
    data_path: str,
    limit: int,
    findings: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    counts: dsl.Output[dsl.Metrics],
) -> None:
    """Examine the data set as the training will see it."""
    from pathlib import Path

    from pipelines.kubeflow_steps import examine, load_config, one_line

    with one_line():
        config = load_config(preset, overrides, data_path=data_path)
        found = examine(config, data_path, limit, Path(findings.path), Path(report.path))
    for severity, count in found.items():
        counts.log_metric(f"{severity}s", count)


def check_findings(findings: dsl.Input[dsl.Artifact], fail_on: str) -> None:
    """Stop the pipeline where the doctor found something as bad as `fail_on`, or worse."""
    from pathlib import Path

    from pipelines.kubeflow_steps import check_findings, one_line

    with one_line():
        check_findings(Path(findings.path), fail_on)


def sweep(
    preset: str,
    overrides: list[str],
    data_path: str,
    tracking_uri: str,
    result: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Run the sweep on this pod's own Ray; returns the id of the best healthy trial."""
    import tempfile
    from pathlib import Path

    from pipelines.kubeflow_steps import load_config, one_line, sweep_for_best

    with one_line(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        config = load_config(preset, overrides, data_path=data_path, tracking_uri=tracking_uri, storage=folder)
        swept, best = sweep_for_best(config, Path(result.path))
    metrics.log_metric("best_val_top1", best.best_val_top1)
    metrics.log_metric("trials", len(swept.rows))
    metrics.log_metric("ill_trials", sum(bool(row.symptom) for row in swept.rows))
    metrics.log_metric("failed_trials", swept.failed)
    return best.trial_id


def train(
    trial_id: str,
    overrides: list[str],
    tracking_uri: str,
    checkpoints: str,
    model: dsl.Output[dsl.Model],
) -> None:
    """Train the best trial's config to its end, and keep its best checkpoint; with `checkpoints`, a retry goes on."""
    import json
    import tempfile
    from pathlib import Path

    from pipelines.kubeflow_steps import one_line, train_network

    with one_line(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        places = [f"storage={json.dumps(folder)}", *([f"checkpoints={json.dumps(checkpoints)}"] if checkpoints else [])]
        made = train_network(trial_id, [*overrides, *places], tracking_uri, Path(model.path))
    model.framework = "PyTorch"
    for key in ("run_id", "step", "val_top1"):
        model.metadata[key] = made[key]


def evaluate(
    model: dsl.Input[dsl.Model],
    data_path: str,
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
) -> float:
    """Evaluate the network as it will be served, on val/; returns its top-1."""
    from pathlib import Path

    from pipelines.kubeflow_steps import evaluate_artifact, one_line

    with one_line():
        scores = evaluate_artifact(Path(model.path), data_path)
    for name in ("top1", "top5", "loss", "images"):
        metrics.log_metric(name, getattr(scores, name))
    # Kubeflow draws every cell.
    if len(scores.classes) <= 50:
        confusion.log_confusion_matrix(list(scores.classes), scores.confusion.tolist())
    return scores.top1


def register(model: dsl.Input[dsl.Model], tracking_uri: str, model_name: str, top1: float, min_top1: float) -> str:
    """Register the network in MLflow, unless its top-1 is below `min_top1`; returns its URI."""
    from pathlib import Path

    from pipelines.kubeflow_steps import one_line, register_artifact

    with one_line():
        uri = register_artifact(Path(model.path), tracking_uri, model_name, top1, min_top1)
    print(f"model: {uri}")  # noqa: T201 - the step's log
    return uri


STEPS = (prepare, doctor, check_findings, sweep, train, evaluate, register)


def build_pipeline(pods: Pods) -> Any:
    """The pipeline, as kfp's decorator makes it: callable within `kfp.local`, and to be compiled."""
    steps = {step.__name__: _component(step, pods.image) for step in STEPS}

    def pipeline(  # noqa: PLR0913, PLR0917 - these are the fields of the form that starts a run
        tracking_uri: str,
        preset: str = "first_light",
        overrides: list[str] = [],  # noqa: B006 - kfp takes literals
        data_path: str = "",
        shards: str = "",
        doctor_limit: int = 0,
        fail_on: str = "error",
        train_overrides: list[str] = [],  # noqa: B006 - kfp takes literals
        checkpoints: str = "",
        min_top1: float = 0.0,
        model_name: str = NAME,
        image: str = pods.image,
    ) -> str:
        fit = {"tracking_uri": tracking_uri}
        config = {"preset": preset, "overrides": overrides}
        prepared = steps["prepare"](**config, **fit, data_path=data_path, shards=shards, model_name=model_name)
        path = prepared.outputs["Output"]
        examined = steps["doctor"](**config, data_path=path, limit=doctor_limit)
        checked = steps["check_findings"](findings=examined.outputs["findings"], fail_on=fail_on)
        swept = steps["sweep"](**config, **fit, data_path=path).after(checked)
        best = swept.outputs["Output"]
        trained = steps["train"](trial_id=best, overrides=train_overrides, checkpoints=checkpoints, **fit)
        model = trained.outputs["model"]
        evaluated = steps["evaluate"](model=model, data_path=path)
        top1 = evaluated.outputs["Output"]
        registered = steps["register"](model=model, model_name=model_name, top1=top1, min_top1=min_top1, **fit)
        for task in (prepared, examined, checked, swept, trained, evaluated, registered):
            _equip(task, pods, image)
        for task in (swept, trained):
            _give_ray(task, pods)
        uri: str = registered.outputs["Output"]
        return uri

    pipeline.__doc__ = DESCRIPTION
    return dsl.pipeline(name=NAME)(pipeline)


DESCRIPTION = """Sweep, find out why trials go wrong, train the best, and register it.

    Args:
        tracking_uri: The MLflow server that every pod reaches, http(s)://HOST:PORT.
        preset: A preset's name, or the text of a sweep's YAML file.
        overrides: Changes of the sweep, such as ["optim.lr=0.1"].
        data_path: The data set, where it is not the preset's - digits, shards at s3://, or a folder on a mounted claim.
        shards: Where to make Arrow shards of the data set first, s3://bucket/prefix; empty - nowhere.
        doctor_limit: Images of each split that the doctor reads; 0 - all.
        fail_on: The severity of a finding that stops the pipeline - info, warning, error, or never.
        train_overrides: Changes of the training of the best trial, such as ["max_steps=90ep"].
        checkpoints: Where the training keeps its checkpoints, s3://bucket/prefix; empty - with the pod.
        min_top1: Least top-1 on val/ with which the model is registered.
        model_name: Name in MLflow's model registry.
        image: The image of every pod.
    """


def compile_pipeline(file: Path, pods: Pods) -> None:
    """Write the pipeline as YAML; raises ConfigError where that can't be."""
    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            complaint("OUT", str(file), "a file that ends with .yaml", f"write {file.with_suffix('.yaml')}")
        )
    try:
        compiler.Compiler().compile(build_pipeline(pods), str(file))
    except OSError as error:
        allowed = f"a file that can be written ({error.strerror})"
        raise ConfigError(complaint("OUT", str(file), allowed, "name another file")) from None


def _component(step: Callable[..., Any], image: str) -> Any:
    # The image has kfp from the lock; a pod installs nothing.
    return dsl.component(base_image=image, install_kfp_package=False)(step)


def _equip(task: Any, pods: Pods, image: Any) -> None:
    """What every pod gets."""
    task.set_container_image(image).set_caching_options(enable_caching=False)
    if pods.secret is not None:
        kubernetes.use_secret_as_env(task, pods.secret, {key: key for key in SECRET_KEYS}, optional=True)
    if pods.claim is not None and (found := CLAIM.fullmatch(pods.claim)):
        kubernetes.mount_pvc(task, pvc_name=found[1], mount_path=found[2])


def _give_ray(task: Any, pods: Pods) -> None:
    """What a pod with a Ray gets: its GPUs, and shared memory for the object store, of which a container has 64 MB."""
    if pods.gpus:
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(pods.gpus)
    kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory")  # noqa: S108


if __name__ == "__main__":
    from pipelines.cli import main

    sys.exit(main(["pipeline", *sys.argv[1:]]))
