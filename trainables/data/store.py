"""Where the encoded images of a split lie, and how one of them is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainables.errors import DataError, complaint

Encoded = NDArray[np.uint8]
"""The bytes of one image file, [length]."""


class Store(Protocol):
    """Random access to encoded images by place; safe to read from several threads at once."""

    @property
    def names(self) -> Sequence[str]:
        """Of each image, relative to the data set, such as `train/shirt/0017.jpg`; the same wherever they lie."""

    def locate(self, place: int) -> str:
        """Where a person finds the image."""

    def read(self, place: int) -> Encoded:
        """Its bytes, which may be a view of a memory map. Raises DataError where it can't be read."""


@dataclass(frozen=True)
class FileStore:
    """One file an image, below a folder."""

    root: str
    """Absolute path of the folder."""
    names: tuple[str, ...]
    """Of the files, relative to `root`."""

    def locate(self, place: int) -> str:
        """Absolute path of the file."""
        return f"{self.root}/{self.names[place]}"

    def read(self, place: int) -> Encoded:
        """The whole file. Raises DataError where it can't be read."""
        return read_file(self.locate(place))


def read_file(path: str) -> Encoded:
    """Read an image file as it is. Raises DataError where it can't be read."""
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise unreadable(path, error.strerror or "no reason given") from None


def unreadable(where: str, reason: str) -> DataError:
    """The one line for an image whose bytes can't be had; `where`: as `Store.locate` has it."""
    return DataError(complaint("data.path", Path(where).name, f"files that can be read ({reason})", f"check {where}"))
