"""The commands of `epoch14` for a team's services: mlflow-server.

The work is imported where it is called, as in `cli`.
"""

from __future__ import annotations

from typing import Annotated

import typer


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
