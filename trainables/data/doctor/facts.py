"""One image file as the doctor keeps it: a record of what its bytes and its pixels tell."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from trainables.data.decode import decode_rgb
from trainables.data.doctor.pixel_facts import PixelFacts, pixel_facts
from trainables.data.store import Encoded, Store
from trainables.errors import DataError

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
"""Extension -> the format that it promises, by Pillow's name."""
ORIENTATION = 0x0112
"""EXIF's tag; 1 is as stored."""
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    KeyError,
    TypeError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for headers that are damaged."""
LUMINANCE_SUM = 3692
"""Sum of the luminance quantisation table of the JPEG standard (annex K), which libjpeg scales by its quality."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Of one image; 1 to 2 kB."""

    place: int
    """In its split."""
    label: int
    num_bytes: int
    digest: bytes
    """Hash of its bytes."""
    promised: str
    """The format that its name promises; empty for an unknown extension."""
    format: str = ""
    """What its bytes are, by Pillow's name (JPEG, PNG, GIF, ...); empty where they are none that is known."""
    mode: str = ""
    """As stored, by Pillow's name: RGB, L (grey), CMYK, RGBA, P, I;16, ..."""
    orientation: int = 1
    """EXIF's, 1 to 8; decoding doesn't apply it."""
    quality: float | None = None
    """Of a JPEG, 1 to 100, as libjpeg counts it; None for others."""
    error: str = ""
    """Why it gives no pixels; empty where it does."""
    pixels: PixelFacts | None = None
    """None where it gives none."""


def read_facts(store: Store, place: int, label: int) -> ImageFacts:
    """Read and decode one image; one that gives no pixels is a record, not an error."""
    promised = FORMATS.get(PurePosixPath(store.names[place]).suffix.lower(), "")
    try:
        encoded = store.read(place)
    except DataError as unreadable:
        return ImageFacts(place, label, 0, b"", promised, error=str(unreadable))
    content = encoded.tobytes()
    digest = hashlib.blake2b(content, digest_size=16).digest()
    header = _header(content)
    pixels, error = _decode(encoded, store.locate(place))
    return ImageFacts(place, label, len(content), digest, promised, *header, error=error, pixels=pixels)


def _decode(encoded: Encoded, where: str) -> tuple[PixelFacts | None, str]:
    try:
        # A store may hand out a view of a memory map, which torch takes for writable only with a warning.
        return pixel_facts(decode_rgb(np.require(encoded, requirements="W"), where)), ""
    except DataError as error:
        return None, str(error)


def _header(content: bytes) -> tuple[str, str, int, float | None]:
    """Format, mode, orientation and quality, from the head of the file: nothing is decoded."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            tables: Mapping[int, Sequence[int]] | None = getattr(image, "quantization", None)
            quality = jpeg_quality(tables[0]) if tables and 0 in tables else None
            return image.format or "", image.mode, _orientation(image), quality
    except (UnidentifiedImageError, *UNREADABLE):
        return "", "", 1, None


def _orientation(image: Image.Image) -> int:
    exif = Image.Exif()
    try:
        # Image.getexif decodes a PNG that has none, in search of one behind the pixels.
        exif.load(image.info.get("exif", b""))
        value = exif.get(ORIENTATION, 1)
    except UNREADABLE:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def jpeg_quality(luminance: Sequence[int]) -> float:
    """Quality of a JPEG, 1 to 100, from the 64 values of its luminance table (libjpeg's scaling reversed).

    Below 25 too high a figure, since the table is cut off at 255.
    """
    scale = 100.0 * sum(luminance) / LUMINANCE_SUM
    return max(1.0, 100.0 - scale / 2.0 if scale <= 100.0 else 5000.0 / scale)
