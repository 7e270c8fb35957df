"""Class names and label numbers from whatever a source holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainables.data.sampler import IntArray
from trainables.data.shards.format import Where


def resolve_labels(
    where: Where, train: pa.Array, val: pa.Array, declared: Sequence[str] | None
) -> tuple[tuple[str, ...], IntArray, IntArray]:
    """Class names, and the labels of both splits as places in them.

    Args:
        where: what an error names.
        train: of the training images, without nulls: int64 (numbers from 0 on) or string (class names).
        val: the same of the validation images.
        declared: class names that the source gives to the numbers, in their order; None: the numbers are the names.

    Raises:
        DataError: the splits mix numbers and names, a number has no name or no image, or `val` has a class of its own.

    """
    if train.type != val.type:
        raise where.error("labels of one kind (one split has numbers, the other names)", "use one kind for both")
    if pa.types.is_integer(train.type):
        return _numbered(where, train.to_numpy(), val.to_numpy(), declared)
    classes = sorted(pc.unique(train).to_pylist())
    places = [pc.index_in(values, value_set=pa.array(classes, pa.string())) for values in (train, val)]
    if places[1].null_count:
        name = val[pc.index(pc.is_null(places[1]), value=True).as_py()].as_py()
        raise _unknown(where, name)
    return tuple(classes), *(found.cast(pa.int64()).to_numpy() for found in places)


def is_text(name: str) -> bool:
    """Whether a name can be stored; bytes that are no UTF-8 come from file systems as lone surrogates."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def _numbered(
    where: Where, train: IntArray, val: IntArray, declared: Sequence[str] | None
) -> tuple[tuple[str, ...], IntArray, IntArray]:
    for labels in (train, val):
        if labels.min() < 0:
            raise where.error(f"labels from 0 on (one is {labels.min()})", "leave images without a label out")
    if declared is not None:
        top = max(train.max(), val.max())
        if top >= len(declared):
            raise where.error(f"labels of the {len(declared)} declared classes (one is {top})", "correct the label")
        return tuple(declared), train, val
    seen = np.unique(train)
    if seen[-1] != len(seen) - 1:
        missing = int(np.flatnonzero(seen != np.arange(len(seen)))[0])
        raise where.error(
            f"labels from 0 on without a gap (no training image has {missing})", "number the classes anew"
        )
    if val.max() > seen[-1]:
        raise _unknown(where, val.max())
    return tuple(str(number) for number in seen.tolist()), train, val


def _unknown(where: Where, name: object) -> Exception:
    return where.error(f"classes of val that train has too (it lacks {str(name)[:80]!r})", "remove them from val")
