"""How many pixels an encoded image announces, before any memory is taken for them."""

from __future__ import annotations

import struct

from trainables.data.store import Encoded

MAX_PIXELS = 178_956_970
"""Most pixels of an image that is decoded: Pillow's limit against decompression bombs, half a gigabyte of RGB.

With a few flipped bits a small JPEG announces 65,500 x 65,500, and libjpeg makes up what its data lacks: 12 GB.
"""
HEAD_BYTES = 4096
"""Of a JPEG, looked at first."""
JPEG, PNG, GIF = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF8"
"""First bytes of a file."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Second bytes of the JPEG markers that start a frame."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Second bytes of the JPEG markers that nothing belongs to."""


def announced_size(encoded: Encoded) -> tuple[int, int]:
    """Height and width by the header; (0, 0) where it says none. WebP can't announce too much.

    Source: JPEG (ISO/IEC 10918-1), annex B, read as libjpeg does, which skips what stands between two segments; PNG
    (ISO/IEC 15948), 11.2.2; GIF89a, section 18.
    """
    start = encoded[:24].tobytes()
    if start.startswith(JPEG):
        # Of nearly all files the first bytes are enough; to copy the rest costs as much as all else here.
        found = _jpeg_size(encoded[:HEAD_BYTES].tobytes())
        return found if any(found) else _jpeg_size(encoded.tobytes())
    if start.startswith(PNG) and len(start) == 24:
        width, height = struct.unpack_from(">II", start, 16)
        return height, width
    if start.startswith(GIF) and len(start) == 24:
        width, height = struct.unpack_from("<HH", start, 6)
        return height, width
    return 0, 0


def _jpeg_size(data: bytes) -> tuple[int, int]:
    place = data.find(0xFF, len(JPEG))
    while 0 <= place < len(data) - 8:
        marker = data[place + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return height, width
        if marker not in (0x00, 0xFF):
            place += 1
            place += 0 if marker in _ALONE else int.from_bytes(data[place + 1 : place + 3])
        place = data.find(0xFF, place + 1)
    return 0, 0
