"""Which names of places are URIs; without pyarrow, which folders don't need."""

from __future__ import annotations

import re

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_uri(place: str) -> bool:
    """Whether it names a place of another file system, such as s3://bucket/prefix or stream+s3://bucket/prefix."""
    return _SCHEME.match(place) is not None
