"""A Dockerfile as a list of instructions and stages, enough of its syntax to check rules on it.

Source: the Dockerfile reference: comments, continued lines, flags before the arguments, exec and shell form.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

CONTINUED = re.compile(r"\\\s*$")
FLAG = re.compile(r"--(?P<name>[a-z-]+)(?:=(?P<value>\S+))?\s+")


@dataclass(frozen=True)
class Instruction:
    """One instruction: FROM, RUN, ..."""

    line: int
    name: str
    flags: tuple[tuple[str, str], ...]
    """`--mount=type=cache,...` as (mount, type=cache,...), in their order."""
    arguments: str
    """What follows, its lines joined by blanks."""

    @property
    def words(self) -> list[str]:
        """The arguments as the shell splits them."""
        return shlex.split(self.arguments)

    @property
    def exec_form(self) -> list[str] | None:
        """The words of a JSON list; None in shell form."""
        try:
            words = json.loads(self.arguments)
        except json.JSONDecodeError:
            return None
        return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


@dataclass
class Stage:
    """What stands between one FROM and the next."""

    name: str
    base: str
    """An image, or an earlier stage."""
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, *names: str) -> list[Instruction]:
        """Its instructions of these names, in their order."""
        return [one for one in self.instructions if one.name in names]


def read_stages(path: Path) -> list[Stage]:
    """The stages of a Dockerfile; raises ValueError for one without a name, or none at all."""
    stages: list[Stage] = []
    for one in _instructions(path):
        if one.name == "FROM":
            image, word, name = one.words
            if word.upper() != "AS":
                raise ValueError(f"{path.name}:{one.line}: FROM {one.arguments}: a stage has a name")
            stages.append(Stage(name, image))
        elif not stages:
            raise ValueError(f"{path.name}:{one.line}: {one.name} before the first FROM")
        else:
            stages[-1].instructions.append(one)
    return stages


def lineage(stages: list[Stage], name: str) -> list[Instruction]:
    """The instructions that make the target `name`: those of the stages that it is built FROM, then its own."""
    by_name = {stage.name: stage for stage in stages}
    stage = by_name[name]
    before = lineage(stages, stage.base) if stage.base in by_name else []
    return [*before, *stage.instructions]


def _instructions(path: Path) -> list[Instruction]:
    found, pending, begun = [], "", 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        begun = begun if pending else number
        pending += CONTINUED.sub(" ", line)
        if not CONTINUED.search(line):
            found.append(_instruction(begun, " ".join(pending.split())))
            pending = ""
    if pending:
        raise ValueError(f"{path.name}:{begun}: the last line is continued")
    return found


def _instruction(line: int, text: str) -> Instruction:
    name, _, rest = text.partition(" ")
    flags = []
    while match := FLAG.match(rest):
        flags.append((match["name"], match["value"] or ""))
        rest = rest[match.end() :]
    return Instruction(line, name.upper(), tuple(flags), rest)
