"""JSON for machines: one object on one line, as the standard has it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TextIO


def print_json(values: Mapping[str, Any], output: TextIO) -> None:
    """Write `values`; a number that is not finite, which JSON doesn't know, becomes null."""
    output.write(json.dumps(_finite(values), allow_nan=False, default=str) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
