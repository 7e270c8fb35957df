"""The fast decoders give the default's pixels, bit for bit, for every kind of file, whole and in part, or its error."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.data import decode_nvimgcodec, decode_turbojpeg
from trainables.data.decode import Decoder, decode_rgb, open_whole
from trainables.data.decode_region import open_decoder
from trainables.data.images import ImageSource
from trainables.data.index import open_index
from trainables.data.store import Encoded
from trainables.errors import ConfigError, DecodeError
from trainables.rng import generator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the extra `fast` is for Linux")
NAMES = ("turbojpeg", "nvimgcodec")
REGIONS = [(0, 0, 75, 100), (0, 0, 1, 1), (74, 99, 1, 1), (10, 20, 33, 47), (31, 8, 16, 64), (7, 1, 60, 98)]
"""top, left, height, width in an image of 75 x 100."""


def encoded(mode: str = "RGB", kind: str = "JPEG", **options: Any) -> Encoded:
    """Smooth colours with noise, 75 high and 100 wide, as a file of that kind."""
    rng = generator("picture")
    coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)).resize((100, 75))
    noisy = np.clip(np.asarray(coarse) + rng.normal(0, 12, (75, 100, 3)), 0, 255).astype(np.uint8)
    target = io.BytesIO()
    Image.fromarray(noisy).convert(mode).save(target, kind, **options)
    return np.frombuffer(target.getvalue(), dtype=np.uint8).copy()


def rotated() -> Image.Exif:
    """EXIF that tells viewers to turn the image."""
    exif = Image.Exif()
    exif[0x112] = 6
    return exif


KINDS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 3},
    "exif": {"exif": rotated()},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
    "png": {"kind": "PNG"},
    "png with alpha": {"mode": "RGBA", "kind": "PNG"},
    "palette": {"mode": "P", "kind": "PNG"},
    "gif": {"kind": "GIF"},
    "low quality": {"quality": 5},
}


@pytest.fixture(params=NAMES)
def fast_decoder(request: pytest.FixtureRequest) -> Decoder:
    """Each of them."""
    return open_decoder(request.param)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_regions_are_the_defaults_pixels(options: dict[str, Any], fast_decoder: Decoder) -> None:
    """Edges, single pixels and odd borders; orientation is not applied, grey and CMYK become RGB."""
    data = encoded(**options)
    fast, default = fast_decoder(data, "x"), open_whole(data, "x")
    assert (fast.height, fast.width) == (default.height, default.width) == (75, 100)
    assert torch.equal(fast.whole(), default.whole())
    for region in REGIONS:
        found, expected = fast.region(*region), default.region(*region)
        assert (found.shape, found.dtype) == (expected.shape, torch.uint8)
        assert torch.equal(found, expected), region


def test_photos_come_out_the_same(clothing: Path, fast_decoder: Decoder) -> None:
    """Random crops of real photos, resized: the batches of a training."""
    train = open_index(str(clothing)).train
    ids = np.arange(0, len(train), 40)
    batches = [
        ImageSource(train, 64, "crop_flip", 3, decoder=decoder).fetch(ids, 1) for decoder in (open_whole, fast_decoder)
    ]
    assert torch.equal(*batches)


def test_threads_have_decoders_of_their_own(fast_decoder: Decoder) -> None:
    """Eight threads at once, each crop right."""
    data = encoded()
    expected = [open_whole(data, "x").region(*region) for region in REGIONS]

    def crops(_: int) -> bool:
        found = [fast_decoder(data, "x").region(*region) for region in REGIONS * 5]
        return all(torch.equal(one, other) for one, other in zip(found, expected * 5, strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(crops, range(32)))


@pytest.mark.parametrize(
    ("share", "more"), [(0, 0), (0, 1), (0, 2), (0, 100), (0.5, 0), (0.9, 0), (1, -1), (1, -2), (1, -20)]
)
def test_a_truncated_file_is_the_defaults_error(share: float, more: int, fast_decoder: Decoder) -> None:
    """However little is missing, and though a crop from its top could be decoded."""
    whole = encoded()
    data = whole[: int(share * len(whole)) + more]
    with pytest.raises(DecodeError) as expected:
        decode_rgb(data, "photo.jpg")
    with pytest.raises(DecodeError) as found:
        fast_decoder(data, "photo.jpg").region(0, 0, 5, 5)
    assert str(found.value) == str(expected.value)


def test_flipped_bits_never_crash_and_give_pixels_or_the_one_error(fast_decoder: Decoder) -> None:
    """400 files with eight bits flipped: a region of the right size, or DecodeError; where all is read, the same."""
    whole = encoded()
    outcomes = set()
    for i in range(400):
        rng = generator("flips", i)
        data = whole.copy()
        data[rng.integers(2, len(data) - 2, 8)] ^= np.uint8(1) << rng.integers(0, 8, 8).astype(np.uint8)
        try:
            picture = fast_decoder(data, "x")
            region = picture.region(0, 0, picture.height, picture.width)
        except DecodeError:
            outcomes.add("error")
        else:
            assert region.shape == (3, picture.height, picture.width)
            outcomes.add("pixels")
    assert outcomes == {"error", "pixels"}


@pytest.mark.parametrize(("name", "library"), [("turbojpeg", decode_turbojpeg), ("nvimgcodec", decode_nvimgcodec)])
def test_a_missing_extra_is_one_line(name: str, library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the key, what is allowed and the extra."""

    def missing() -> None:
        raise ImportError("no such module")

    monkeypatch.setattr(library, "load", missing)
    with pytest.raises(ConfigError, match=rf"^data\.decoder: '{name}' is not allowed; .*install the extra `fast`$"):
        open_decoder(name)
    assert open_decoder("torchvision") is open_whole


def test_a_system_without_the_library_has_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or one line that says what is missing."""
    monkeypatch.setattr(decode_turbojpeg, "OF_SYSTEM", "libturbojpeg.so.none")
    decode_turbojpeg.load.cache_clear()
    assert "turbojpeg.libs" in decode_turbojpeg.load()._name
    monkeypatch.setattr(decode_turbojpeg, "OF_PACKAGE", "turbojpeg-none")
    decode_turbojpeg.load.cache_clear()
    missing = r"^no package turbojpeg-none, and no libturbojpeg\.so\.none of libjpeg-turbo 3$"
    with pytest.raises(ImportError, match=missing):
        decode_turbojpeg.load()
    decode_turbojpeg.load.cache_clear()


def test_loading_them_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """NvImageCodec's other extensions complain of what they lack."""
    decode_nvimgcodec.load.cache_clear()
    for name in NAMES:
        open_decoder(name)(encoded(), "x").region(0, 0, 5, 5)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
