"""The reference: every config key from the sections' docstrings, every command from its own help, as Markdown.

`make reference` writes `pipelines/docs/reference.md` anew; a test keeps the two equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipelines.config import SweepConfig
from trainables.config import TrialConfig

FILE = Path(__file__).parent / "docs" / "reference.md"
Schema = Mapping[str, Any]
HEAD = """\
# Reference

Made by `make reference` from the docstrings of `pipelines/config.py` and `trainables/*config.py`, and from the commands
themselves.

- [Config of a sweep](#config-of-a-sweep): what a YAML file has at its top level.
- [Config of a trial](#config-of-a-trial): what stands below `trial`, or is an axis of `space`.
- [Commands](#commands)

Each key is what `--set key=value` takes, whole sections too: `--set 'schedule={kind: step, step_size: 30ep}'`. A key
of a trial needs no `trial.` before it. Lengths are steps, or epochs as `90ep`, which wants `data.train_samples`.
`epoch14 config PRESET` prints all of them with the values of a preset.
"""
WORDS = {"string": "text", "boolean": "true, false", "object": "mapping", "null": "null"}
NUMBERS = {"integer": "whole number", "number": "number"}
BOUNDS = (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"), ("exclusiveMaximum", "below"))


def reference() -> str:
    """The whole page."""
    parts = [HEAD, "## Config of a sweep\n", *sections(SweepConfig), "## Config of a trial\n"]
    parts += [*sections(TrialConfig), "## Commands\n", *commands()]
    return "\n".join(parts)


def sections(root: type[BaseModel]) -> Iterator[str]:
    """A table for the keys of `root`, then one for each section below it, in the order of the fields."""
    schema = root.model_json_schema()
    yield from _section(schema, "", schema["$defs"])


def _section(schema: Schema, prefix: str, definitions: Mapping[str, Schema]) -> Iterator[str]:
    """Lines of a section, whose keys begin with `prefix`, and of those in it."""
    inner: list[tuple[str, Schema]] = []
    rows: list[tuple[str, ...]] = []
    for key, field in schema["properties"].items():
        name = f"{prefix}{key}"
        section = _section_of(field, definitions)
        if section is not None:
            inner.append((f"{name}[]." if "items" in field else f"{name}.", section))
        if section is None or "$ref" not in field:
            meaning = field.get("description") or f"{(section or {}).get('description', '')} See below."
            rows.append((f"`{name}`", _allowed(field), _default(key, schema), meaning))
    yield _table(("key", "allowed", "default", "meaning"), rows)
    for name, section in inner:
        yield f"### `{name.rstrip('.')}`\n\n{_line(section['description'])}\n"
        yield from _section(section, name, definitions)


def _section_of(field: Schema, definitions: Mapping[str, Schema]) -> Schema | None:
    """The section that a field is, may be, or is a list of."""
    for form in (field, field.get("items", {}), *field.get("anyOf", ())):
        if "$ref" in form:
            return definitions[form["$ref"].rpartition("/")[2]]
    return None


def _allowed(field: Schema) -> str:
    """What a key takes, in words."""
    if "anyOf" in field:
        return " or ".join(map(_allowed, field["anyOf"]))
    if "$ref" in field:
        return "mapping (below)"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind = str(field["type"])
    if kind == "array":
        return _list(field)
    if kind in NUMBERS:
        words = [NUMBERS[kind], *(f"{word} {_number(field[bound])}" for bound, word in BOUNDS if bound in field)]
        return " ".join(words) + (f", a multiple of {field['multipleOf']}" if "multipleOf" in field else "")
    return f"text like `{field['pattern']}`" if "pattern" in field else WORDS[kind]


def _list(field: Schema) -> str:
    """A list: of so many items, or of any number."""
    if "prefixItems" in field:
        return f"[{', '.join(map(_allowed, field['prefixItems']))}]"
    return f"list, each {_allowed(field['items'])}"


def _number(value: float) -> str:
    """A bound; a large power of two as such."""
    power = int(value).bit_length() - 1
    return f"2^{power}" if power >= 20 and value == 2**power else f"{value:g}"


def _default(key: str, schema: Schema) -> str:
    """A key's default; pydantic leaves out a mapping that is made anew each time, which is empty."""
    if key in schema.get("required", ()):
        return "must be given"
    return f"`{json.dumps(schema['properties'][key].get('default', {}))}`"


def commands() -> Iterator[str]:
    """Each command: what it does, its usage, its arguments and options."""
    import typer.core
    import typer.main

    from pipelines.cli import app

    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    yield from _group(group, "epoch14")


def _group(group: Any, name: str) -> Iterator[str]:
    import typer.core

    for word, command in sorted(group.commands.items()):
        whole = f"{name} {word}"
        if isinstance(command, typer.core.TyperGroup):
            yield from _group(command, whole)
            continue
        shown = [parameter for parameter in command.params if parameter.name != "help"]
        arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
        usage = " ".join([whole, *map(_argument, arguments), "[OPTIONS]"])
        yield f"### `{whole}`\n\n{_line(command.help or '')}\n\n```text\n{usage}\n```\n"
        yield _table(("", "default", "meaning"), [_parameter(parameter) for parameter in shown])


def _argument(parameter: Any) -> str:
    word = str(parameter.metavar or parameter.name.upper())
    return word if parameter.required else f"[{word}]"


def _parameter(parameter: Any) -> tuple[str, ...]:
    """Name, default and meaning of an argument or an option."""
    if parameter.param_type_name == "argument":
        name = _argument(parameter)
    else:
        name = " ".join([*parameter.opts, *([] if parameter.is_flag else [str(parameter.metavar)])])
    default = "must be given" if parameter.required else ""
    if parameter.default is not None and parameter.default is not False and not parameter.required:
        default = f"`{parameter.default}`"
    return f"`{name}`", default, parameter.help or ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text as Markdown takes it in a table: no bar, and no star outside code."""
    parts = _line(text).replace("|", "\\|").split("`")
    return "`".join(part if place % 2 else part.replace("*", "\\*") for place, part in enumerate(parts))


def _line(text: str) -> str:
    """Text on one line."""
    return " ".join(text.split())


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(reference(), encoding="utf-8")
