"""`epoch14 doctor`: of a data set, or without one of the installation.

The work is imported where it is called, as in `cli`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli_ends import interrupted
from trainables.errors import ConfigError, complaint

if TYPE_CHECKING:
    from trainables.data.doctor.finding import Severity

OF_DATA, OF_INSTALLATION = "Of a data set", "Of the installation"
NORMALIZATION, IMAGE_SIZE = "per_channel", 32
GRADES: dict[str, Severity] = {"warning": "warning", "error": "error"}


Data = Annotated[
    str | None,
    typer.Argument(metavar="DATA", help="A folder with train/ and val/, Arrow shards (folder or URI), or digits."),
]
Normalization = Annotated[
    str, typer.Option(metavar="NAME", help="As data.normalization of the training.", rich_help_panel=OF_DATA)
]
ImageSize = Annotated[
    int,
    typer.Option(metavar="PIXELS", min=8, max=1024, help="As data.image_size of the run.", rich_help_panel=OF_DATA),
]
Limit = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="Images to read of each split, evenly spaced; default all.", rich_help_panel=OF_DATA
    ),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a report with thumbnails there.", rich_help_panel=OF_DATA),
]
Sweep = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="PRESET_OR_YAML",
        help="The sweep whose places are tried; default: one that sets nothing.",
        rich_help_panel=OF_INSTALLATION,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="As of a sweep; repeatable.", rich_help_panel=OF_INSTALLATION),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A running Ray (HOST:PORT or auto), or http://HOST:8265 of its dashboard; default: RAY_ADDRESS.",
        rich_help_panel=OF_INSTALLATION,
    ),
]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the findings there.")]
FailOn = Annotated[
    str | None,
    typer.Option(
        metavar="SEVERITY",
        help="Exit with 1 from this one on: warning (the default for data) or error (for the installation).",
    ),
]


def doctor(  # noqa: PLR0913 - each is an option of the command
    path: Data = None,
    *,
    normalization: Normalization = NORMALIZATION,
    image_size: ImageSize = IMAGE_SIZE,
    limit: Limit = None,
    html_file: Html = None,
    sweep: Sweep = None,
    overrides: Overrides = None,
    address: Address = None,
    json_file: Json = None,
    fail_on: FailOn = None,
) -> None:
    """Examine a data set before a training meets it; without DATA, the installation that is to train.

    Exit code 0 where nothing is as bad as --fail-on, 1 where something is, 2 where the data can't be listed.
    """
    fail_on = fail_on or ("error" if path is None else "warning")
    if fail_on not in GRADES:
        raise ConfigError(complaint("--fail-on", fail_on, "warning or error", "choose one of these"))
    from pipelines.doctor import check_writable

    check_writable(json_file, "--json")
    check_writable(html_file, "--html")
    try:
        if path is None:
            given = {
                "--normalization": None if normalization == NORMALIZATION else normalization,
                "--image-size": None if image_size == IMAGE_SIZE else image_size,
                "--html": html_file,
                "--limit": limit,
            }
            _only(OF_DATA, given, "name the data: epoch14 doctor DATA")
            bad = _of_installation(sweep, overrides or [], address, json_file, GRADES[fail_on])
        else:
            options = {"--config": sweep, "--set": overrides, "--address": address}
            _only(OF_INSTALLATION, options, "drop it, or leave DATA out to examine the installation")
            bad = _of_data(path, (normalization, image_size, limit), json_file, html_file, GRADES[fail_on])
    except KeyboardInterrupt:
        raise interrupted("nothing was written") from None
    if bad:
        raise typer.Exit(1)


def _only(what: str, options: Mapping[str, object], remedy: str) -> None:
    """Raise ConfigError where an option was given that the other kind of examination has."""
    for name, value in options.items():
        if value:
            shown = str(value) if isinstance(value, Path) else value
            raise ConfigError(complaint(name, shown, f"none here: it is {what[0].lower()}{what[1:]}", remedy))


def _of_data(
    path: str,
    how: tuple[str, int, int | None],
    json_file: Path | None,
    html_file: Path | None,
    fail_on: Severity,
) -> bool:
    from rich.console import Console

    from pipelines.doctor import data_config, examine_data, print_findings, shown_progress, write_files

    normalization, image_size, limit = how
    data = data_config(path, normalization, image_size)
    with shown_progress(Console(stderr=True)) as progress:
        examination = examine_data(data, limit=limit, progress=progress)
    print_findings(examination, Console())
    write_files(examination, json_file, html_file)
    return examination.is_as_bad_as(fail_on)


def _of_installation(
    sweep: str | None, overrides: list[str], address: str | None, json_file: Path | None, fail_on: Severity
) -> bool:
    from rich.console import Console

    from pipelines.doctor import print_table, verdict
    from pipelines.installation import examine, load_sweep, wanted_of, write_installation
    from trainables.data.doctor.finding import at_least

    wanted = wanted_of(load_sweep(sweep, overrides), address)
    findings = examine(wanted, Console(stderr=True))
    print_table(findings, Console())
    typer.echo(verdict(findings))
    if json_file is not None:
        write_installation(wanted, findings, json_file)
    return bool(at_least(findings, fail_on))
