"""Places of other file systems are told from folders by their scheme."""

from __future__ import annotations

import pytest

from trainables.uris import is_uri


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("s3://bucket/prefix", True),
        ("stream+s3://bucket/prefix", True),
        ("file:///data", True),
        ("digits", False),
        ("/data/images", False),
        ("data/odd://name", False),
        ("://", False),
    ],
)
def test_what_has_a_scheme_is_a_uri(place: str, expected: bool) -> None:  # noqa: FBT001
    """At its begin; a folder may have any other name."""
    assert is_uri(place) == expected
