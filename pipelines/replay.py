"""`epoch14 replay`: a diagnosis again, from its bundle, and where it comes out otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from infra.explanation import to_markdown
from pipelines.explain import Story
from trainables.bundle import read_bundle
from trainables.bundle_replay import differences, replay_bundle


def repeat(bundle: Path, data: str | None, console: Console, write: Callable[[str], None]) -> bool:
    """Diagnose anew, print the story, and write each difference; whether there was none."""
    content = read_bundle(bundle)
    again = replay_bundle(content, data, lambda label: write(f"replay: {label}"))
    console.print(Story(to_markdown(again.to_dict())))
    found = differences(content.meta["diagnosis"], again)
    for line in found:
        write(f"epoch14: differs: {line}")
    return not found
