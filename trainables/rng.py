"""Random numbers that are a function of a key: no global state, no counter, no clock."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """Return a counter-based generator keyed by the whole tuple.

    Equal keys give equal streams on every machine and in every thread; any other key, including another order or
    `"1"` for `1`, gives an independent stream.

    Args:
        key: integers and strings, e.g. `(seed, "augment", epoch, sample_id)`. NumPy integers count as their value.

    Raises:
        TypeError: a part is neither an integer nor a string (a float would make the key depend on rounding).

    Source: Philox 4x64-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

    """
    text = "\x00".join(_encode(part) for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _encode(part: int | str) -> str:
    # The length keeps ("a\x00sb",) and ("a", "b") apart.
    if isinstance(part, str):
        return f"s{len(part)}:{part}"
    if isinstance(part, (int, np.integer)):
        return f"i{int(part)}"
    raise TypeError(f"a key part must be an int or a str, not {type(part).__name__}: {part!r}")
