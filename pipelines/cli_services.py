"""The commands of `epoch14` for a team's services: pipeline, mlflow-server.

The work is imported where it is called, as in `cli`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pipeline(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The YAML file to write.")],
    *,
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="The pods' image, pinned by a tag or a digest.")
    ] = None,
    gpus: Annotated[int, typer.Option(metavar="N", min=0, help="GPUs of the pods that sweep and train.")] = 0,
    secret: Annotated[
        str | None, typer.Option(metavar="NAME", help="Kubernetes secret with MLFLOW_TRACKING_* and AWS_* keys.")
    ] = None,
    claim: Annotated[
        str | None, typer.Option(metavar="NAME:/FOLDER", help="Persistent volume claim that every pod mounts.")
    ] = None,
) -> None:
    """Compile the Kubeflow pipeline: prepare, doctor, sweep, train the best, evaluate, register."""
    from pipelines.kubeflow import Pods, compile_pipeline

    pods = Pods(gpus=gpus, secret=secret, claim=claim) if image is None else Pods(image, gpus, secret, claim)
    compile_pipeline(out, pods)
    typer.echo(f"pipeline: {out}, image {pods.image}")


def mlflow_server(
    *,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="sqlite:///FILE.db, or postgresql://USER@HOST/NAME without its password; default: as "
            "MLFLOW_BACKEND_STORE_URI, which may have one, else the sweeps in outputs.",
        ),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="s3://bucket/prefix, or a folder; default: beside SQLite's file."),
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="Port to listen on.")] = 5000,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", metavar="NAME", help="A name that clients call it by; repeatable."),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Processes that answer.")] = 2,
) -> None:
    """Start an MLflow server for a team, with passwords; secrets come from the environment.

    MLFLOW_AUTH_ADMIN_PASSWORD is the admin's, MLFLOW_FLASK_SERVER_SECRET_KEY signs the sign-up page.
    """
    from infra.mlflow.server import ServerOptions, start_server

    start_server(ServerOptions(backend, artifacts, host, port, allowed_hosts or (), workers))
