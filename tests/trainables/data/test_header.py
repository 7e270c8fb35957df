"""A header that announces too many pixels is refused before any memory is taken for them."""

from __future__ import annotations

import io
import resource
import struct
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables.data.decode import open_whole
from trainables.data.decode_region import open_decoder
from trainables.data.header import MAX_PIXELS, announced_size
from trainables.data.store import Encoded
from trainables.errors import DecodeError

KINDS: dict[str, dict[str, Any]] = {
    "jpeg": {"format": "JPEG"},
    "progressive": {"format": "JPEG", "progressive": True},
    "comment": {"format": "JPEG", "comment": b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff" * 3},
    "png": {"format": "PNG"},
    "gif": {"format": "GIF"},
}


def encoded(options: dict[str, Any]) -> bytes:
    """A picture 30 high and 50 wide."""
    target = io.BytesIO()
    Image.effect_noise((50, 30), 50).convert("RGB").save(target, **options)
    return target.getvalue()


def as_array(data: bytes) -> Encoded:
    """As a store reads it."""
    return np.frombuffer(data, dtype=np.uint8).copy()


def with_size(data: bytes, height: int, width: int) -> Encoded:
    """A JPEG that announces another size."""
    old, new = struct.pack(">HH", 30, 50), struct.pack(">HH", height, width)
    assert data.count(old) == 1
    return as_array(data.replace(old, new))


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_the_size_is_the_headers(options: dict[str, Any]) -> None:
    """Of every kind, past whatever stands in a comment; cut before it or no image at all, there is none."""
    data = encoded(options)
    assert announced_size(as_array(data)) == (30, 50)
    for short in (b"", b"\xff", data[:2], data[:12], b"no image" * 10):
        assert announced_size(as_array(short)) == (0, 0)


def test_bytes_between_segments_are_skipped_as_libjpeg_skips_them() -> None:
    """Else a flipped bit in a segment's length would hide the size that is decoded."""
    data = encoded(KINDS["jpeg"])
    after_first = 4 + int.from_bytes(data[4:6])
    shifted = as_array(data[:after_first] + b"\x00rubbish\xff\x00\xff\xff\xff" + data[after_first:])
    assert announced_size(shifted) == (30, 50)
    assert open_whole(shifted, "x").height == 30


@pytest.mark.parametrize("decoder", ["torchvision", "turbojpeg", "nvimgcodec"])
@pytest.mark.parametrize("kind", ["jpeg", "progressive"])
def test_a_giant_is_an_error_and_takes_no_memory(kind: str, decoder: str) -> None:
    """65,500 x 65,500 would be 12 GB, or 38 GB of coefficients; a long strip of few pixels is as it was."""
    if decoder != "torchvision" and sys.platform != "linux":
        pytest.skip("the extra `fast` is for Linux")
    open_picture = open_decoder(decoder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DecodeError, match=r"photo\.jpg.*\(65500 x 65500 pixels, more than 178956970\); remedy: "):
        open_picture(with_size(encoded(KINDS[kind]), 65_500, 65_500), "photo.jpg").region(0, 0, 8, 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert MAX_PIXELS > 50 * 60_000
    assert open_picture(with_size(encoded(KINDS[kind]), 60_000, 50), "photo.jpg").height == 60_000
