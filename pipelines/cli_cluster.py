"""The commands of `epoch14` for a Ray cluster: submit, job status, job logs, job stop.

The work is imported where it is called, as in `cli`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli_ends import interrupted

if TYPE_CHECKING:
    from infra.jobs import Job

Address = Annotated[str, typer.Option(metavar="URL", help="The cluster's dashboard, http://HOST:8265.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as `submit` has printed it.")]
job_app = typer.Typer(help="Look at the jobs of a Ray cluster, follow one, or stop it.", no_args_is_help=True)


def submit(
    preset: Annotated[
        str, typer.Argument(metavar="PRESET_OR_YAML", help="A preset's name or the path of a YAML file.")
    ],
    *,
    address: Address,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key, such as optim.lr=0.1; repeatable."),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Go on with an interrupted sweep, from its folder as the head sees it."),
    ] = None,
) -> None:
    """Run a sweep as a job on a Ray cluster, follow its log, and say where its records are.

    The job goes on without this command, which outlives a lost connection.
    """
    from pipelines.submit import submit_sweep

    submission = submit_sweep(preset, overrides or [], address=address, resume=resume)
    typer.echo(f"job: {submission.job.job_id} on {address}")
    _follow(submission.job, submission.metadata)


@job_app.command()
def status(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="A job's id; without it, all jobs.")] = None,
    *,
    address: Address,
) -> None:
    """Show how far a job is, where its records are, and how to go on with one that did not end well."""
    from infra.jobs import open_job
    from pipelines.job import describe, jobs_table

    if job is not None:
        for line in describe(open_job(address, job)):
            typer.echo(line)
        return
    from rich.console import Console

    console = Console()
    console.width = console.width if console.is_terminal else max(console.width, 140)
    console.print(jobs_table(address))


@job_app.command()
def logs(
    job: JobId,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the job ends, and end with its exit code.")
    ] = False,
    address: Address,
) -> None:
    """Print a job's log."""
    from infra.jobs import open_job

    opened = open_job(address, job)
    if follow:
        _follow(opened, opened.state().metadata)
    typer.echo(opened.log(), nl=False)


@job_app.command()
def stop(job: JobId, *, address: Address) -> None:
    """Stop a job; each trial of a sweep writes a checkpoint at its next step, from which it can go on later."""
    from infra.jobs import open_job
    from pipelines.job import ending
    from pipelines.submit import told_by

    opened = open_job(address, job)
    try:
        state = opened.stop()
    except KeyboardInterrupt:
        raise interrupted("the job stops all the same") from None
    for line in ending(state, told_by(opened.log())):
        typer.echo(line)


def _follow(job: Job, metadata: dict[str, str]) -> None:
    """Stream a job's log to its end, and end as it did."""
    from pipelines.job import follow

    try:
        state, lines = follow(
            job,
            metadata,
            write=lambda text: typer.echo(text, nl=False),
            notify=lambda line: typer.echo(f"epoch14: {line}", err=True),
        )
    except KeyboardInterrupt:
        one = f"{job.job_id} --address {job.address}"
        ways = f"to follow it: epoch14 job logs --follow {one}; to end it: epoch14 job stop {one}"
        raise interrupted(f"the job goes on; {ways}") from None
    for line in lines:
        typer.echo(line)
    raise typer.Exit(state.exit_code)
