"""The commands of `epoch14` that show and repeat evidence: explain, compare, report, diagnose, bundle, replay.

The work is imported where it is called, as in `cli`.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

LOGS = "CSV, JSON lines, JSON, Parquet, TensorBoard event files or their folder; or an MLflow run."
Trial = Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's name or id, as the sweep's table shows it.")]
Storage = Annotated[str, typer.Option(metavar="FOLDER", help="The sweep's storage folder.")]
OneObject = Annotated[bool, typer.Option("--json", help="One JSON object; a number that is not finite is null in it.")]
Uri = Annotated[str | None, typer.Option(metavar="URI", help="MLflow tracking URI, if not the storage folder's own.")]


def explain(
    trial: Trial,
    *,
    as_json: OneObject = False,
    storage: Storage = "outputs",
    uri: Uri = None,
) -> None:
    """Print why a trial went wrong, and the evidence."""
    from rich.console import Console

    from infra.tracking import default_tracking_uri
    from pipelines.explain import explain as explain_trial
    from pipelines.explain import explain_as_json

    if as_json:
        explain_as_json(trial, uri or default_tracking_uri(storage), sys.stdout)
    else:
        explain_trial(trial, uri or default_tracking_uri(storage), Console())


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A trial's name or id, as `explain` takes it.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another trial, of the same sweep or of another one.")],
    *,
    as_json: OneObject = False,
    storage: Storage = "outputs",
    uri: Uri = None,
) -> None:
    """Put two trials side by side: where their configs differ, how they ended, and where their losses part."""
    from rich.console import Console

    from infra.tracking import default_tracking_uri
    from pipelines.compare import compare as compare_trials
    from pipelines.compare import print_comparison
    from pipelines.json_text import print_json

    comparison = compare_trials(a, b, uri or default_tracking_uri(storage))
    if as_json:
        print_json(comparison.to_dict(), sys.stdout)
    else:
        print_comparison(comparison, Console())


def report(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name, its folder, or its MLflow run id.")],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it there; by default NAME-report.html, here.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    storage: Storage = "outputs",
    uri: Uri = None,
) -> None:
    """Write what a sweep found as one HTML file: the answer, the factors, curves, swaps, samples, compute."""
    from pipelines.report_html.build import write_report

    file = write_report(sweep, out, storage, uri)
    typer.echo(f"report: {file}")
    if show:
        typer.launch(str(file.resolve()))


def diagnose(
    log: Annotated[str, typer.Argument(metavar="PATH_OR_RUN", help=LOGS)],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a run, a line each.")] = False,
    num_classes: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Number of classes, which gives the loss of guessing.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="NAME=COLUMN", help="What a column is, as loss=my_loss; repeatable."),
    ] = None,
    storage: Storage = "outputs",
    uri: Uri = None,
) -> None:
    """Read the log of any training: a timeline of symptoms, candidate causes, and what the log can't tell."""
    from rich.console import Console

    from infra.tracking import default_tracking_uri
    from pipelines.diagnose import diagnose as diagnose_runs
    from pipelines.diagnose import print_findings, print_json

    findings = diagnose_runs(
        log, uri=uri or default_tracking_uri(storage), num_classes=num_classes, columns=columns or ()
    )
    if as_json:
        print_json(findings, sys.stdout)
    else:
        print_findings(findings, Console())


def bundle(
    trial: Trial,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder; each diagnosis gets one of its own in it.")],
    *,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Train anew up to the event where no bundle and no checkpoint is left.")
    ] = False,
    storage: Storage = "outputs",
    uri: Uri = None,
) -> None:
    """Export a trial's diagnosis, so that it can be replayed elsewhere: snapshot, config, sample ids, command."""
    from infra.tracking import default_tracking_uri
    from pipelines.bundle import export

    tracking_uri = uri or default_tracking_uri(storage)
    folders = export(trial, out, tracking_uri, rerun=rerun, write=lambda line: typer.echo(line, err=True))
    for folder in folders:
        typer.echo(f"epoch14 replay {shlex.quote(str(folder))}")


def replay(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that diagnosis.bundle or `bundle` made.")],
    *,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="Where the images lie, if elsewhere.")] = None,
) -> None:
    """Repeat a diagnosis from its bundle; exit code 1 where it comes out otherwise."""
    from rich.console import Console

    from pipelines.replay import repeat

    if not repeat(folder, data, Console(), lambda line: typer.echo(line, err=True)):
        raise typer.Exit(1)
