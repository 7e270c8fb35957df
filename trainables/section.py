"""Sections of a config: frozen, no unknown keys, and one line for the first fault, with key, value and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeGuard, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from trainables.errors import ConfigError, complaint

PositiveInt = Annotated[int, Field(ge=1)]
Step = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A frozen section of a config; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("a value that is no boolean")
        return value

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Check `values` and build the section; raises ConfigError, one line, for the first fault."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(explain_first(error, cls)) from None

    @classmethod
    def dotted_keys(cls) -> dict[str, bool]:
        """Every dotted key -> whether it is a section itself."""
        keys: dict[str, bool] = {}
        for name, field in cls.model_fields.items():
            section = field.annotation
            keys[name] = _is_section(section)
            if _is_section(section):
                keys |= {f"{name}.{key}": False for key in section.model_fields}
        return keys


def explain_first(error: ValidationError, root: type[BaseModel]) -> str:
    """Turn the first of pydantic's findings into one line of our own form."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path) or "config"
    value = first.get("input")
    if first["type"] == "extra_forbidden":
        known = _known_keys(root, path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        remedy = f"write {near[0]!r}" if near else "remove it"
        return complaint(key, value, f"the keys {', '.join(sorted(known))}", remedy)
    if first["type"] == "value_error":
        message = str(first["msg"]).removeprefix("Value error, ")
        return message if "; remedy: " in message else complaint(key, value, message, "correct it")
    allowed = str(first["msg"]).removeprefix("Input should be ")
    return complaint(
        key, value, allowed[:1].lower() + allowed[1:], f"correct {key} in the YAML or with --set {key}=..."
    )


def _known_keys(root: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the section that lies at `path` below `root`."""
    section = root
    for part in path:
        if part in section.model_fields:
            annotation = section.model_fields[part].annotation
            section = next((a for a in (annotation, *get_args(annotation)) if _is_section(a)), section)
    return list(section.model_fields)


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
