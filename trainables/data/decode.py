"""One encoded image to pixels."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torchvision.io import ImageReadMode
from torchvision.transforms.v2 import functional

from trainables.data.header import JPEG, MAX_PIXELS, PNG, announced_size
from trainables.data.store import Encoded, Store
from trainables.errors import DecodeError, complaint


class Picture(Protocol):
    """An encoded image whose size is known, and whose pixels are there when they are asked for."""

    @property
    def height(self) -> int:
        """In pixels, as stored."""

    @property
    def width(self) -> int:
        """In pixels, as stored."""

    def whole(self) -> torch.Tensor:
        """All pixels: uint8 [3, height, width], RGB. Raises DecodeError."""

    def region(self, top: int, left: int, height: int, width: int) -> torch.Tensor:
        """A rectangle of them: uint8 [3, height, width], RGB, the same bits as cut from `whole`. Raises DecodeError."""


Decoder = Callable[[Encoded, str], Picture]
"""(bytes of a file, what an error names it by) -> the picture. Raises DecodeError; may be called in any thread.

The picture keeps the bytes; those of a JPEG or PNG are not decoded before its pixels are asked for.
"""


@dataclass(frozen=True, eq=False)
class WholePicture:
    """A picture that is decoded as a whole, each time that pixels are asked for."""

    encoded: Encoded
    where: str
    """What an error names it by."""
    height: int
    """In pixels, by the header."""
    width: int
    """In pixels, by the header."""

    def whole(self) -> torch.Tensor:
        """All pixels. Raises DecodeError, also where they are not as many as the header announced."""
        pixels = _decode(self.encoded, self.where)
        found = (pixels.shape[1], pixels.shape[2])
        if found != (self.height, self.width):
            raise undecodable(self.where, f"{found[1]} x {found[0]} pixels, {self.width} x {self.height} announced")
        return pixels

    def region(self, top: int, left: int, height: int, width: int) -> torch.Tensor:
        """A view of them."""
        return self.whole()[:, top : top + height, left : left + width]


@dataclass(frozen=True, eq=False)
class DecodedPicture:
    """A picture that is already decoded."""

    pixels: torch.Tensor

    @property
    def height(self) -> int:
        """In pixels, as stored."""
        return self.pixels.shape[1]

    @property
    def width(self) -> int:
        """In pixels, as stored."""
        return self.pixels.shape[2]

    def whole(self) -> torch.Tensor:
        """All pixels."""
        return self.pixels

    def region(self, top: int, left: int, height: int, width: int) -> torch.Tensor:
        """A view of them."""
        return self.pixels[:, top : top + height, left : left + width]


def open_whole(encoded: Encoded, where: str) -> Picture:
    """Torchvision's decoder."""
    height, width = _affordable_size(encoded, where)
    if height * width > 0 and encoded[:2].tobytes() in (JPEG, PNG[:2]):
        return WholePicture(encoded, where, height, width)
    return DecodedPicture(decode_rgb(encoded, where))


def read_rgb(store: Store, place: int) -> torch.Tensor:
    """The pixels of an image of a store, as of `decode_rgb`. Raises DataError, which names it."""
    return decode_rgb(store.read(place), store.locate(place))


def decode_rgb(encoded: Encoded, where: str) -> torch.Tensor:
    """Decode one JPEG or PNG, as stored (EXIF orientation is not applied).

    Args:
        encoded: the bytes of the file.
        where: what an error names it by, as `Store.locate` has it.

    Returns:
        uint8 [3, height, width], in RGB; grey and CMYK are converted, alpha is dropped, 16 bits become 8.

    Raises:
        DecodeError: it is empty, damaged, an animation or larger than MAX_PIXELS; the line names it.

    """
    _affordable_size(encoded, where)
    return _decode(encoded, where)


def _affordable_size(encoded: Encoded, where: str) -> tuple[int, int]:
    """As `announced_size`. Raises DecodeError where the pixels would be more than MAX_PIXELS."""
    height, width = announced_size(encoded)
    if height * width > MAX_PIXELS:
        raise undecodable(where, f"{width} x {height} pixels, more than {MAX_PIXELS}")
    return height, width


def _decode(encoded: Encoded, where: str) -> torch.Tensor:
    damage = _png_damage(encoded)
    if damage is not None:
        raise undecodable(where, damage)
    try:
        # The operator behind torchvision.io.decode_image, whose wrapper warns at every call from 0.29 on.
        pixels: torch.Tensor = torch.ops.image.decode_image(torch.from_numpy(encoded), ImageReadMode.RGB.value)
    except RuntimeError as error:
        raise undecodable(where, _reason(error)) from None
    if pixels.ndim != 3:
        raise undecodable(where, f"{pixels.shape[0]} frames")
    if pixels.dtype != torch.uint8:
        pixels = functional.to_dtype(pixels, torch.uint8, scale=True)
    return pixels


def undecodable(where: str, reason: str) -> DecodeError:
    """The one line for an image whose bytes give no pixels; `where`: as `Store.locate` has it."""
    allowed = f"JPEG and PNG files that decode ({reason})"
    return DecodeError(complaint("data.path", Path(where).name, allowed, f"replace or remove {where}"))


def _png_damage(encoded: Encoded) -> str | None:
    """What is wrong with the chunks of a PNG, or None.

    torchvision 0.29 takes the process down (SIGSEGV) at a PNG whose pixel data doesn't inflate, so that a flipped bit
    must be found before. Source: PNG (ISO/IEC 15948), 5.3: length, type, data and CRC-32 of type and data.
    """
    data = encoded.data
    if len(data) < len(PNG) or bytes(data[: len(PNG)]) != PNG:
        return None
    start = len(PNG)
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            return f"its {kind.decode('latin-1')!r} ends too early"
        if zlib.crc32(data[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            return f"the checksum of its {kind.decode('latin-1')!r} is wrong"
        if kind == b"IEND":
            break
        start = end
    return None


def _reason(error: RuntimeError) -> str:
    """First line of torchvision's message, without the place in its C++ sources that stands before it."""
    first = str(error).strip().partition("\n")[0]
    return re.sub(r"^\S+, \S+:\d+, ", "", first) or "no reason given"
