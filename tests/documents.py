"""The pages that people read: their fenced commands, and whether a command is one."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.core
import typer.main

from pipelines.cli import app
from pipelines.config import PRESETS, SweepConfig
from pipelines.fault_option import with_faults
from pipelines.overrides import apply_overrides

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "pipelines" / "docs"
PAGES = (ROOT / "README.md", DOCS / "tutorial.md", DOCS / "imagenet.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:epoch14|make) [^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Command:
    """A command of a page, on one line and without its comment."""

    page: Path
    text: str

    @property
    def words(self) -> list[str]:
        """As a shell splits it."""
        return shlex.split(self.text)

    def __str__(self) -> str:
        return f"{self.page.name}: {self.text}"


def fences(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def commands(page: Path) -> Iterator[Command]:
    """Every command of the blocks marked `sh`, in order."""
    for language, text in fences(page):
        if language == "sh":
            for line in text.replace("\\\n", " ").splitlines():
                words = re.sub(r"\s+# .*$|^# .*$", "", line).split()
                if words:
                    yield Command(page, " ".join(words))


def mentions(page: Path) -> list[str]:
    """Commands amid the text, placeholders and all."""
    return INLINE.findall(page.read_text(encoding="utf-8").replace("\\|", "|"))


def anchors(page: Path) -> set[str]:
    """What a link to one of the page's titles ends with, as GitHub makes it."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


def make_targets() -> set[str]:
    """Targets of the Makefile that a person may call."""
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert declared
    return set(declared.group(1).split())


def parse(command: Command) -> None:
    """Raise unless the shell, and then the program that it names, take the command as it stands."""
    subprocess.run(["bash", "-n", "-c", command.text], check=True)
    program, *arguments = command.words
    CHECKS[program](arguments)


def parse_epoch14(arguments: Sequence[str]) -> None:
    """Options are known and complete, the preset exists, and `--set` names keys that there are, with fit values."""
    found: Any = typer.main.get_command(app)
    words = list(arguments)
    while isinstance(found, typer.core.TyperGroup):
        found = found.commands[words.pop(0)]
    given = found.make_context(found.name, words).params
    overrides = with_faults(given.get("overrides") or (), given.get("faults") or ())
    config = given.get("preset") or given.get("target")
    if found.name in ("sweep", "train", "submit", "config") and (PRESETS / f"{config}.yaml").is_file():
        SweepConfig.load(config, overrides)
    else:
        apply_overrides({}, overrides, SweepConfig.dotted_keys())


def parse_make(arguments: Sequence[str]) -> None:
    """The target is one, and so is the preset."""
    for word in arguments:
        name, _, value = word.partition("=")
        assert (PRESETS / f"{value}.yaml").is_file() if name == "PRESET" else word in make_targets(), word


def parse_python(arguments: Sequence[str]) -> None:
    """`-m MODULE` is there."""
    option, module = arguments
    assert option == "-m"
    assert importlib.util.find_spec(module)


def parse_ray(arguments: Sequence[str]) -> None:
    """Ray's own command line takes it, and the file is there."""
    from ray.scripts.scripts import cli

    name, *rest = arguments
    cli.commands[name].make_context(name, list(rest))
    assert all((ROOT / word).is_file() for word in rest if word.endswith(".yaml"))


def parse_other(arguments: Sequence[str]) -> None:
    """What the shell itself does."""
    assert arguments


CHECKS: dict[str, Callable[[Sequence[str]], None]] = {
    "epoch14": parse_epoch14,
    "make": parse_make,
    "python": parse_python,
    "ray": parse_ray,
    **dict.fromkeys((".", "cd", "export", "git"), parse_other),
}
"""Program -> its check; another program wants one here."""
