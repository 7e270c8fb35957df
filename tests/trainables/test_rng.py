"""Random numbers are a function of their key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from trainables.rng import generator


def test_equal_keys_give_equal_streams() -> None:
    """Two generators of one key never differ, whatever was drawn elsewhere."""
    first = generator(3, "augment", 1, 7).random(100)
    np.random.default_rng().random(10)
    np.testing.assert_array_equal(generator(3, "augment", 1, 7).random(100), first)


def test_stream_is_the_same_in_every_version() -> None:
    """Golden values: a change of the hash or of the bit generator would break the resume of every old run."""
    expected = [540604454383057844, 11206829004587779210]
    assert generator(0, "order", 0).bit_generator.random_raw(2).tolist() == expected


KEYS: list[tuple[Any, ...]] = [
    (1, 2),
    (2, 1),
    (12,),
    (1, "2"),
    ("1", 2),
    ("12",),
    ("a", "b"),
    ("a\x00s1:b",),
    ("ab",),
    (-1, 2),
    (),
    (2**63, 2),
]


def test_different_keys_give_different_streams() -> None:
    """Order, type, grouping and sign of the parts all count."""
    streams = {key: generator(*key).bit_generator.random_raw() for key in KEYS}
    for one, other in combinations(KEYS, 2):
        assert streams[one] != streams[other], (one, other)


def test_numpy_integers_count_as_their_value() -> None:
    """A sample id out of an int64 array keys like the same Python int."""
    assert generator(np.int64(5), "x").random() == generator(5, "x").random()  # type: ignore[arg-type]


def test_a_float_is_no_key() -> None:
    """A float would make the stream depend on rounding."""
    with pytest.raises(TypeError, match="float"):
        generator(0.5)  # type: ignore[arg-type]


def test_neighbouring_keys_are_independent() -> None:
    """Streams of consecutive sample ids are uniform together, and their lag-one correlation is noise."""
    firsts = np.array([generator(0, "augment", 0, sample_id).random() for sample_id in range(4000)])
    assert abs(firsts.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 4000)
    assert abs(np.corrcoef(firsts[1:], firsts[:-1])[0, 1]) < 5 / np.sqrt(4000)


def test_threads_share_nothing() -> None:
    """Eight threads that draw at once get what one thread gets."""

    def draw(sample_id: int) -> float:
        return float(generator(0, sample_id).random())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(draw, range(500))) == [draw(sample_id) for sample_id in range(500)]
