"""Regions of a JPEG by libjpeg-turbo itself, through the TurboJPEG 3 API: nothing below or beside them is decoded.

No Python package has this function of it, so it is called by ctypes. Source: turbojpeg.h of libjpeg-turbo 3.0.
"""

from __future__ import annotations

import threading
from ctypes import CDLL, Structure, c_int, c_size_t, c_void_p
from functools import cache
from importlib.metadata import PackageNotFoundError, files

import numpy as np
import torch

from trainables.data.store import Encoded

NAME = "libjpeg-turbo 3"
OF_SYSTEM = "libturbojpeg.so.0"
"""Name of the library in all of its versions since 1.2; the older ones lack this API."""
OF_PACKAGE = "turbojpeg"
"""A package that brings the library along."""
DECOMPRESS = 1
"""TJINIT_DECOMPRESS."""
STOP_ON_WARNING, SUBSAMPLING, WIDTH, HEIGHT = 0, 4, 5, 6
"""TJPARAM_*."""
RGB = 0
"""TJPF_RGB."""
UNIT_WIDTHS = (8, 16, 16, 8, 8, 32, 8)
"""Pixels that a row of blocks advances by, at TJSAMP_444, 422, 420, GRAY, 440, 411, 441."""
_of_thread = threading.local()


class Region(Structure):
    """tjregion: x, y, w, h, in pixels."""

    _fields_ = (("x", c_int), ("y", c_int), ("w", c_int), ("h", c_int))


def decode_region(encoded: Encoded, top: int, left: int, height: int, width: int) -> torch.Tensor | None:
    """uint8 [3, height, width], RGB; None: it can't, or the file is damaged above the bottom of the region."""
    library, handle = load(), _handle()
    data, size = encoded.ctypes.data, encoded.nbytes
    if library.tj3DecompressHeader(handle, data, size) != 0:
        return None
    subsampling = library.tj3Get(handle, SUBSAMPLING)
    right, bottom = library.tj3Get(handle, WIDTH), library.tj3Get(handle, HEIGHT)
    if not 0 <= subsampling < len(UNIT_WIDTHS) or left + width > right or top + height > bottom:
        return None
    # Chroma is interpolated from its neighbours: at the edge of a region they must be there too.
    unit = UNIT_WIDTHS[subsampling]
    first = max(0, left - 1) // unit * unit
    columns = min(right, left + width + 1) - first
    pixels = np.empty((height, columns, 3), dtype=np.uint8)
    if (
        library.tj3SetCroppingRegion(handle, Region(first, top, columns, height)) != 0
        or library.tj3Decompress8(handle, data, size, pixels.ctypes.data, 0, RGB) != 0
    ):
        return None
    return torch.from_numpy(pixels[:, left - first : left - first + width]).permute(2, 0, 1)


class _Handle:
    """A decompressor; it goes with its thread."""

    def __init__(self) -> None:
        library = load()
        self._destroy = library.tj3Destroy
        self.address = library.tj3Init(DECOMPRESS)
        if not self.address:
            raise MemoryError("tj3Init")
        # Else it makes up what is missing, and says so at the end.
        library.tj3Set(self.address, STOP_ON_WARNING, 1)

    def __del__(self) -> None:
        self._destroy(self.address)


def _handle() -> int:
    """The decompressor of this thread."""
    if not hasattr(_of_thread, "handle"):
        _of_thread.handle = _Handle()
    address: int = _of_thread.handle.address
    return address


@cache
def load() -> CDLL:
    """The system's library, or the one that a package brings along. Raises ImportError where neither is there."""
    try:
        library = CDLL(OF_SYSTEM)
        library.tj3SetCroppingRegion  # noqa: B018 - an AttributeError, where it is too old
    except (OSError, AttributeError):
        library = CDLL(_bundled())
    library.tj3Init.argtypes, library.tj3Init.restype = [c_int], c_void_p
    library.tj3Destroy.argtypes, library.tj3Destroy.restype = [c_void_p], None
    library.tj3Get.argtypes = [c_void_p, c_int]
    library.tj3Set.argtypes = [c_void_p, c_int, c_int]
    library.tj3DecompressHeader.argtypes = [c_void_p, c_void_p, c_size_t]
    library.tj3SetCroppingRegion.argtypes = [c_void_p, Region]
    library.tj3Decompress8.argtypes = [c_void_p, c_void_p, c_size_t, c_void_p, c_int, c_int]
    return library


def _bundled() -> str:
    try:
        found = [file for file in files(OF_PACKAGE) or () if file.name.startswith("libturbojpeg")]
    except PackageNotFoundError:
        found = []
    if not found:
        raise ImportError(f"no package {OF_PACKAGE}, and no {OF_SYSTEM} of libjpeg-turbo 3")
    return str(found[0].locate())
