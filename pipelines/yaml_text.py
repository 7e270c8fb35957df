"""YAML as the configs use it: `1e-3` is a number, a key may stand once, faults are one line.

PyYAML follows YAML 1.1, where a float needs a dot and a repeated key silently wins; both have cost people sweeps.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from trainables.errors import ConfigError, complaint


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats and without repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                problem = f"the key {key!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, key: str) -> Any:
    """The value of `text`; `key` names it in a ConfigError."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark and "\n" in text else ""
        problem = getattr(error, "problem", None) or str(error)
        shown = text if "\n" not in text else "..."
        raise ConfigError(complaint(key, shown, f"valid YAML ({problem}{where})", "correct it")) from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping that the file at `path` holds; raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        allowed = f"a readable YAML file ({reason})"
        raise ConfigError(complaint("config file", str(path), allowed, "correct it")) from None
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        shown = value if value is None or isinstance(value, str | int | float) else type(value).__name__
        raise ConfigError(complaint(str(path), shown, "a mapping of sweep keys", "see `epoch14 config first-light`"))
    return value


def dump_yaml(value: Any) -> str:
    """Block-style YAML in the order of the keys; short lists stay on their line."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=100)


class _Dumper(yaml.SafeDumper):
    """Lists of scalars and mappings within lists in flow style: one axis value a line."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:  # noqa: FBT001 - same
        scalars = all(not isinstance(item, list | tuple | dict) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=scalars or flow_style)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - same
        return True
