"""The `epoch14` command: parse and call.

Exit codes: 0; 1 the sweep failed, or the doctor found something; 2 bad input; 130 interrupted. Whatever a user can
cause ends in one line on stderr.
The work is imported where it is called, so that `epoch14 --help` need not load torch, ray and mlflow.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli_cluster import job_app, submit
from pipelines.cli_doctor import doctor
from pipelines.cli_ends import interrupted, options, quit_interrupted
from pipelines.cli_evidence import Storage, Uri, bundle, compare, diagnose, explain, replay, report
from pipelines.cli_services import mlflow_server, pipeline
from trainables.errors import Epoch14Error, error_line

if TYPE_CHECKING:
    from pipelines.sweep import SweepResult

app = typer.Typer(
    name="epoch14",
    help="Find out by replay why a ResNet-50 run goes wrong, and prove the cure.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

Preset = Annotated[str, typer.Argument(metavar="PRESET_OR_YAML", help="A preset's name or the path of a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key, such as optim.lr=0.1; repeatable."),
]
Faults = Annotated[
    list[str] | None,
    typer.Option("--fault", metavar="FAULT", help="Inject a fault: 'MODULE:NAME start_step=40 key=value'; repeatable."),
]
Local = Annotated[bool, typer.Option("--local", help="Everything in this process, for a debugger.")]
Address = Annotated[str | None, typer.Option(metavar="ADDRESS", help="A running Ray to join, or auto.")]


@app.command()
def sweep(
    preset: Preset,
    *,
    overrides: Overrides = None,
    faults: Faults = None,
    local: Local = False,
    address: Address = None,
    resume: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Go on with an interrupted sweep.")] = None,
) -> None:
    """Run a sweep; stop the trials that go wrong, and say why."""
    from pipelines.config import SweepConfig
    from pipelines.fault_option import with_faults

    changes = with_faults(overrides or [], faults or [])
    config = SweepConfig.load(preset, changes)
    from pipelines.sweep import SweepInterruptedError, run_sweep

    def go_on(folder: Path) -> str:
        again = ["epoch14", "sweep", preset, *options("--set", *changes)]
        again += ["--local"] * local + options("--address", *filter(None, [address]))
        return f"go on with: {shlex.join([*again, '--resume', str(folder)])}"

    def abandon(folder: Path) -> None:
        quit_interrupted(go_on(folder))

    try:
        result = run_sweep(config, local=local, address=address, resume=resume, abandon=abandon)
    except SweepInterruptedError as error:
        raise interrupted(go_on(error.folder)) from None
    except KeyboardInterrupt:
        raise interrupted("before a trial had started") from None
    _print_result(result)
    if result.interrupted:
        raise interrupted(go_on(result.path))
    if result.failed:
        raise typer.Exit(1)


@app.command()
def train(
    target: Annotated[
        str, typer.Argument(metavar="PRESET_OR_TRIAL", help="A preset, a YAML file, or a recorded trial's id.")
    ],
    *,
    overrides: Overrides = None,
    faults: Faults = None,
    local: Local = False,
    address: Address = None,
    storage: Storage = "outputs",
    uri: Uri = None,
) -> None:
    """Train one config to its end, go on where it was interrupted, and register the model."""
    from infra.tracking import default_tracking_uri
    from pipelines.fault_option import with_faults
    from pipelines.sweep import SweepInterruptedError
    from pipelines.train import find_training, run_training

    def abandon(_folder: Path) -> None:
        quit_interrupted("the same command goes on")

    changes = with_faults(overrides or [], faults or [])
    training = find_training(target, changes, uri or default_tracking_uri(storage))
    try:
        result = run_training(training, local=local, address=address, abandon=abandon)
    except SweepInterruptedError:
        raise interrupted("the same command goes on") from None
    except KeyboardInterrupt:
        raise interrupted("before the trial had started") from None
    _print_result(result.sweep)
    if result.sweep.interrupted:
        raise interrupted("the same command goes on")
    if result.model is None:
        typer.echo(f"epoch14: not registered: {_why_not(result.sweep)}", err=True)
        raise typer.Exit(1)
    typer.echo(f"model: {result.model.uri}, step {result.step}, val top-1 {100 * result.val_top1:.2f} %")


@app.command()
def ui(
    *,
    storage: Storage = "outputs",
    uri: Uri = None,
    port: Annotated[int, typer.Option(metavar="PORT", help="Port on this machine.")] = 5000,
) -> None:
    """Open the MLflow UI on what was recorded."""
    from infra.tracking import default_tracking_uri, open_ui

    open_ui(uri or default_tracking_uri(storage), port)


for evidence in (explain, compare, report, diagnose, bundle, replay):
    app.command()(evidence)
app.command()(submit)
app.add_typer(job_app, name="job")
app.command()(doctor)
app.command()(pipeline)
app.command("mlflow-server")(mlflow_server)


@app.command()
def config(preset: Preset, *, overrides: Overrides = None) -> None:
    """Print the resolved config as YAML."""
    from pipelines.config import SweepConfig

    typer.echo(SweepConfig.load(preset, overrides or []).to_yaml(), nl=False)


@app.command()
def shard(
    source: Annotated[
        str | None,
        typer.Argument(metavar="SRC", help="Image folder, Parquet files or tar shards: a path or s3://bucket/prefix."),
    ] = None,
    target: Annotated[str | None, typer.Argument(metavar="DST", help="A new folder, or s3://bucket/prefix.")] = None,
    *,
    seed: Annotated[int, typer.Option(metavar="N", help="Keys the order of the images in the shards.")] = 0,
    shard_size: Annotated[str, typer.Option(metavar="SIZE", help="Most bytes of images in a shard.")] = "192MB",
    reencode: Annotated[
        str | None,
        typer.Option(metavar="short=PIXELS,quality=PERCENT", help="Write smaller JPEGs; this changes the pixels."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Shards written at once; by default one a core.")
    ] = None,
    verify: Annotated[
        str | None, typer.Option(metavar="DST", help="Check the shards there, and write nothing.")
    ] = None,
) -> None:
    """Turn a data set into shuffled Arrow shards, which load faster; an interrupted run goes on where it was."""
    from pipelines.shard import shard as make_shards
    from pipelines.shard import verify as verify_shards

    if (verify is None) == (source is None) or (source is None) != (target is None):
        raise typer.BadParameter("give either SRC and DST, or --verify DST")
    try:
        if verify is not None:
            typer.echo(verify_shards(verify, threads=threads))
        elif source is not None and target is not None:
            line = make_shards(source, target, seed=seed, shard_size=shard_size, reencode=reencode, threads=threads)
            typer.echo(line)
    except KeyboardInterrupt:
        raise interrupted("the same command goes on") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        code = app(args=arguments, prog_name="epoch14", standalone_mode=False)
    except typer.TyperException as error:
        usage = " ".join(["epoch14", *arguments[:1], "--help"]) if arguments[0] in COMMANDS else "epoch14 --help"
        return _complain(f"{error.format_message().rstrip('.')}; remedy: see {usage}", error.exit_code)
    except Epoch14Error as error:
        return _complain(str(error), error.exit_code)
    return int(code or 0)


COMMANDS = (
    *(command.name or command.callback.__name__ for command in app.registered_commands if command.callback),
    *(str(group.name) for group in app.registered_groups),
)


def _print_result(result: SweepResult) -> None:
    from rich.console import Console

    from infra.tracking_search import run_place
    from pipelines.report import print_report

    print_report(result, Console())
    typer.echo(f"MLflow: {run_place(result.tracking_uri, result.experiment, result.parent_run_id)}")


def _why_not(result: SweepResult) -> str:
    """Why a training has no model to register, and what can be done."""
    (row,) = result.rows
    if row.symptom:
        ways = "mend its config, which makes it another run, or go on past it with --set detector.enabled=false"
        return f"the run stopped at step {row.steps} on a symptom ({row.symptom}); {ways}"
    return f"the run did not come to its end ({row.status} at step {row.steps})"


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"{error_line(message)}\n")
    return code
