"""Which keys of a config make a run what it is, and which ones it may go on with other values of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MAY_CHANGE = (
    "eval_every",
    "report_every",
    "read_every",
    "checkpoint",
    "detector",
    "diagnosis",
    "data.loader",
    "data.loader_threads",
    "data.path",
    "device",
    "optim.micro_batch_size",
)
"""Keys that a run may go on with other values of: they change speed, records, places or when it is stopped, not what
is trained."""


def what_is_trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of a trial's config, without the keys that a run may go on with other values of."""
    return {
        key: value
        for key, value in flatten(config).items()
        if key not in MAY_CHANGE and key.partition(".")[0] not in MAY_CHANGE
    }


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mapping -> dotted key -> value."""
    return dict(_flat(values, ""))


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
