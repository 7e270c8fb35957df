"""Trained networks in MLflow's model registry: a pyfunc without pickle, with the run that it comes from."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from infra.tracking import open_client

LOADER = "trainables.serve"
REQUIREMENTS = ("torch", "torchvision", "timm", "pydantic", "numpy", "pyarrow", "safetensors")
"""What `trainables` imports, which travels with each model."""
CHECKPOINT = "epoch14.step"
"""Tag of a version: the checkpoint that it is."""


@dataclass(frozen=True)
class RegisteredModel:
    """A version in the registry."""

    name: str
    version: int

    @property
    def uri(self) -> str:
        """What MLflow loads it by."""
        return f"models:/{self.name}/{self.version}"


def register_network(
    uri: str, run_id: str, name: str, network: Path, *, classes: int, step: int, tags: Mapping[str, str]
) -> RegisteredModel:
    """Add a version of `name`, made by the run `run_id`; one of the same run and step is not added twice.

    Args:
        uri: the tracking store.
        run_id: the MLflow run that trained it.
        name: of the registered model, made where it is new.
        network: folder that `trainables.serve.save_network` wrote.
        classes: how many the network tells apart.
        step: of the checkpoint.
        tags: what else is to be known of it.

    """
    client = open_client(uri)
    for known in client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        if known.tags.get(CHECKPOINT) == str(step):
            return RegisteredModel(name, int(known.version))
    with tempfile.TemporaryDirectory() as folder:
        _save_pyfunc(Path(folder) / "model", network, classes)
        client.log_artifacts(run_id, str(Path(folder) / "model"), f"model-{step}")
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    source = f"{client.get_run(run_id).info.artifact_uri}/model-{step}"
    made = client.create_model_version(name, source, run_id=run_id, tags={CHECKPOINT: str(step), **tags})
    return RegisteredModel(name, int(made.version))


def _save_pyfunc(path: Path, network: Path, classes: int) -> None:
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    import trainables

    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, classes))]),
    )
    with warnings.catch_warnings():
        # It wants an example of the input; the signature says the same in fewer bytes.
        warnings.filterwarnings("ignore", message=".*An input example was not provided")
        mlflow.pyfunc.save_model(
            path=str(path),
            loader_module=LOADER,
            data_path=str(network),
            code_paths=[str(Path(trainables.__file__).parent)],
            signature=signature,
            pip_requirements=[f"{package}=={version(package).partition('+')[0]}" for package in REQUIREMENTS],
        )
