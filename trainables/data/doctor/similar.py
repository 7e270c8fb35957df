"""Which images look alike: groups of thumbnails that correlate, found without comparing each with each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from trainables.data.doctor.pixel_facts import THUMBNAIL_SIDE, PixelFacts
from trainables.rng import generator

SIMILAR = 0.998
"""Least correlation of two thumbnails of one picture. Of 103 photos, a copy at half size correlates by 0.999 or more
and one stored anew at JPEG quality 30 by 0.997 (99 % by 0.998). Of different ones the closest are 0.9963 (two ones
among 1,797 handwritten digits) and 0.9917 (among 3,409 photos of clothing). A cut of 5 % (down to 0.66) can't be told
from another picture of the same thing, and isn't sought."""
BANDS = 8
"""Hash tables. Two pictures at SIMILAR differ in a bit with a probability of acos(0.998) / pi = 2 %, so they share all
20 bits of a table with 67 %, and those of one table of 8 at least with 99.98 % (Charikar 2002)."""
MAX_BITS = 20
FLAT = 2.0
"""Spread of a thumbnail, in levels, below which it shows nothing to compare."""
BLOCK = 2048
"""Thumbnails that are compared at once: bounds the memory to 16 MiB."""

Vectors = NDArray[np.float32]


def similar_groups(images: Sequence[PixelFacts]) -> list[list[int]]:
    """Places in `images` of those whose thumbnails correlate by SIMILAR or more, directly or through others.

    Brightness and contrast play no part, nor does the size. Images that are nearly constant are like none.
    """
    places, vectors = _normalised(images)
    parents = list(range(len(vectors)))
    for bucket in _buckets(vectors):
        for a, b in _close(vectors, bucket):
            first, second = _root(parents, a), _root(parents, b)
            parents[max(first, second)] = min(first, second)
    groups: dict[int, list[int]] = {}
    for place in range(len(vectors)):
        groups.setdefault(_root(parents, place), []).append(int(places[place]))
    return [sorted(group) for group in groups.values() if len(group) > 1]


def _root(parents: list[int], place: int) -> int:
    while parents[place] != place:
        parents[place] = place = parents[parents[place]]
    return place


def _normalised(images: Sequence[PixelFacts]) -> tuple[NDArray[np.int64], Vectors]:
    """Places of the images that show something, and their thumbnails with mean 0 and length 1: [n, side * side]."""
    stored = np.frombuffer(b"".join(image.thumbnail for image in images), np.uint8)
    vectors = stored.reshape(-1, THUMBNAIL_SIDE**2).astype(np.float32)
    places = np.flatnonzero(vectors.std(1) >= FLAT)
    vectors = vectors[places]
    vectors -= vectors.mean(1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return places, vectors


def _buckets(vectors: Vectors) -> Iterator[NDArray[np.int64]]:
    """Groups of thumbnails that lie on the same side of each of some random planes."""
    bits = min(MAX_BITS, max(1, math.ceil(math.log2(max(2, len(vectors))))))
    for band in range(BANDS):
        planes = generator("similar", band).standard_normal((THUMBNAIL_SIDE**2, bits)).astype(np.float32)
        keys = (vectors @ planes > 0) @ (1 << np.arange(bits))
        order = np.argsort(keys, kind="stable")
        borders = np.flatnonzero(np.diff(keys[order])) + 1
        yield from (group for group in np.split(order, borders) if len(group) > 1)


def _close(vectors: Vectors, bucket: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Of one bucket, each thumbnail with the first of each block that correlates with it by SIMILAR or more.

    That joins the same groups as all pairs would, whose number grows with the square of a group.
    """
    for start in range(0, len(bucket), BLOCK):
        rows = bucket[start : start + BLOCK]
        for other in range(start, len(bucket), BLOCK):
            columns = bucket[other : other + BLOCK]
            close = vectors[rows] @ vectors[columns].T >= SIMILAR
            second = np.flatnonzero(close.any(0))
            first = close[:, second].argmax(0)
            yield from zip(rows[first].tolist(), columns[second].tolist(), strict=True)
