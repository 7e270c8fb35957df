"""One image file to pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.data.decode import WholePicture, decode_rgb, open_whole
from trainables.data.store import read_file
from trainables.errors import DataError, DecodeError


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("L", 7, (7, 7, 7)),
        ("RGBA", (1, 2, 3, 9), (1, 2, 3)),
        ("I;16", 30000, (117, 117, 117)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_every_kind_of_png_becomes_rgb_bytes(
    mode: str, colour: int | tuple[int, ...], expected: tuple[int, int, int], tmp_path: Path
) -> None:
    """Grey is repeated, alpha is dropped, 16 bits become 8."""
    path = tmp_path / "x.png"
    Image.new(mode, (5, 4), colour).save(path)
    pixels = decode_rgb(read_file(str(path)), str(path))
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 4, 5)
    assert pixels[:, 0, 0].tolist() == list(expected)


def test_photos_decode_as_in_pillow(clothing: Path) -> None:
    """Real JPEGs come out within rounding of Pillow's decoder."""
    for path in sorted(clothing.glob("val/*/*.jpg"))[::40]:
        expected = np.asarray(Image.open(path).convert("RGB"), dtype=np.int16)
        found = decode_rgb(read_file(str(path)), str(path)).permute(1, 2, 0).numpy().astype(np.int16)
        assert np.abs(found - expected).mean() < 0.5, path


def test_cmyk_jpegs_become_rgb(tmp_path: Path) -> None:
    """ImageNet holds a few of them."""
    path = tmp_path / "x.jpg"
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path)
    red, green, blue = decode_rgb(read_file(str(path)), str(path))[:, 0, 0].tolist()
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("damage", ["empty", "half", "text"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_damaged_file_is_an_error_that_names_it(damage: str, suffix: str, tmp_path: Path) -> None:
    """One line, without a place in C++ sources, and with the file's whole path in the remedy."""
    path = tmp_path / f"photo{suffix}"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    whole = path.read_bytes()
    contents = {"empty": b"", "half": whole[: len(whole) // 2], "text": b"no image\n" * 50}
    path.write_bytes(contents[damage])
    with pytest.raises(DecodeError) as caught:
        decode_rgb(read_file(str(path)), str(path))
    message = str(caught.value)
    assert message.startswith(f"data.path: 'photo{suffix}' is not allowed; allowed: ")
    assert message.endswith(f"; remedy: replace or remove {path}")
    assert "\n" not in message
    assert ".cpp" not in message


def test_a_missing_file_is_an_error_of_another_kind(tmp_path: Path) -> None:
    """It may come back, so nothing takes its place."""
    path = tmp_path / "photo.jpg"
    with pytest.raises(DataError, match=f"'photo.jpg' is not allowed; .*; remedy: check {path}") as caught:
        read_file(str(path))
    assert not isinstance(caught.value, DecodeError)


@pytest.mark.parametrize("place", [29, 45, 300, -20])
def test_a_flipped_bit_of_a_png_is_an_error(place: int, tmp_path: Path) -> None:
    """In its header, the head of its pixels, the pixels, their end: a DataError, where torchvision would crash."""
    path = tmp_path / "photo.png"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=rf"photo\.png.*remedy: replace or remove {path}"):
        decode_rgb(read_file(str(path)), str(path))


def test_an_animation_is_an_error(tmp_path: Path) -> None:
    """A GIF of several frames under a JPEG's name is no still image."""
    path = tmp_path / "x.jpg"
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 100, 200)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"x\.jpg.*3 frames"):
        decode_rgb(read_file(str(path)), str(path))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_is_decoded_when_its_pixels_are_asked_for(kind: str, tmp_path: Path) -> None:
    """Its size comes from the header, so that half a file opens, and fails where the other half is needed."""
    path = tmp_path / "x"
    Image.effect_noise((90, 60), 50).convert("RGB").save(path, kind)
    encoded = read_file(str(path))
    picture, expected = open_whole(encoded, "x"), decode_rgb(encoded, "x")
    assert (picture.height, picture.width) == (60, 90)
    assert torch.equal(picture.whole(), expected)
    assert torch.equal(picture.region(7, 5, 20, 30), expected[:, 7:27, 5:35])
    half = open_whole(encoded[: len(encoded) // 2], "x")
    assert (half.height, half.width) == (60, 90)
    with pytest.raises(DecodeError):
        half.region(0, 0, 5, 5)


def test_pixels_of_another_number_than_announced_are_an_error(tmp_path: Path) -> None:
    """A crop was drawn for a picture that isn't there."""
    path = tmp_path / "x.png"
    Image.new("RGB", (9, 6)).save(path)
    with pytest.raises(DecodeError, match=r"x\.png.*9 x 6 pixels, 9 x 7 announced"):
        WholePicture(read_file(str(path)), str(path), 7, 9).region(0, 0, 5, 5)
