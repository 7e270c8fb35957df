"""What the commands of `epoch14` share: how one that is interrupted ends, and options as they are typed."""

from __future__ import annotations

import os
import sys

import typer

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def interrupted(message: str) -> typer.Exit:
    """Say that the command was interrupted and what follows from it; raise the result."""
    typer.echo(f"epoch14: interrupted: {message}", err=True)
    return typer.Exit(INTERRUPTED)


def quit_interrupted(message: str) -> None:
    """Say the same and end the process at once; what it started ends with it."""
    end = interrupted(message)
    sys.stdout.flush()
    os._exit(end.exit_code)


def options(name: str, *values: str) -> list[str]:
    """`--set a --set b` as words."""
    return [word for value in values for word in (name, value)]
