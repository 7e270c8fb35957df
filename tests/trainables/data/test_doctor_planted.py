"""Discrepancies planted into copies of real photos and of the digits: the doctor finds each, and nothing else."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from trainables.data.doctor.examine import examine
from trainables.data.doctor.finding import MAX_FILES, Severity, at_least
from trainables.data.index import ImageIndex, list_images
from trainables.data_config import DataConfig

SETS = ("photos", "digits")
Pixels = np.ndarray
Plant = Callable[[Path], list[Path]]


@dataclass(frozen=True)
class Planted:
    """What is planted, and what must be found."""

    check: str
    plant: Plant
    """Changes the data set in a folder; returns the files that a finding must be about."""
    sets: tuple[str, ...] = SETS
    severity: Severity = "warning"
    data: dict[str, Any] = field(default_factory=dict)
    """Keys of the DataConfig."""


def some(root: Path, split: str = "train") -> list[Path]:
    """Three images of three classes."""
    return [sorted(folder.iterdir())[4] for folder in sorted((root / split).iterdir())[2:5]]


def all_of(root: Path, split: str) -> list[Path]:
    """Every image of a split."""
    return sorted((root / split).glob("*/*"))


def read(path: Path) -> Pixels:
    """Its pixels: uint8 [h, w, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 92} if kind == "JPEG" else {}) | options)
    return buffer.getvalue()


def store(path: Path, image: Image.Image, **options: Any) -> None:
    """Write an image in the format of the file's name."""
    path.write_bytes(encoded(image, "PNG" if path.suffix == ".png" else "JPEG", **options))


def changed(change: Callable[[Pixels], Pixels], *where: str) -> Plant:
    """Change the pixels of whole splits, or of some images where none is named."""

    def plant(root: Path) -> list[Path]:
        files = [path for split in where for path in all_of(root, split)] or some(root)
        for path in files:
            store(path, Image.fromarray(change(read(path)).astype(np.uint8)))
        return files

    return plant


def redrawn(change: Callable[[Image.Image], Image.Image], *where: str, **options: Any) -> Plant:
    """The same with an operation of Pillow's."""

    def plant(root: Path) -> list[Path]:
        files = [path for split in where for path in all_of(root, split)] or some(root)
        for path in files:
            store(path, change(Image.fromarray(read(path))), **options)
        return files

    return plant


def undecodable(root: Path) -> list[Path]:
    """Files of text, of nothing, and of half an image."""
    files = some(root)
    half = files[2].read_bytes()[: files[2].stat().st_size // 2]
    for path, content in zip(files, (b"no image", b"", half), strict=True):
        path.write_bytes(content)
    return files


def truncated(root: Path) -> list[Path]:
    """JPEGs whose second half is gone, closed by a mark of the end."""
    for path in some(root):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    return some(root)


def misnamed(root: Path) -> list[Path]:
    """PNGs in files named .jpg, and the reverse."""
    for path in some(root):
        path.write_bytes(encoded(Image.fromarray(read(path)), "JPEG" if path.suffix == ".png" else "PNG"))
    return some(root)


def rotated(root: Path) -> list[Path]:
    """Pixels turned, with the mark that turns them back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return redrawn(lambda image: image.transpose(Image.Transpose.ROTATE_90), exif=exif)(root)


def unit_range(*where: str) -> Plant:
    """Pixels divided by 255 and saved as bytes, losslessly."""

    def plant(root: Path) -> list[Path]:
        files = [path for split in where for path in all_of(root, split)] or some(root)
        for path in files:
            levels = np.rint(read(path) / 255.0).astype(np.uint8)
            path.unlink()
            store(path.with_suffix(".png"), Image.fromarray(levels))
        return [path.with_suffix(".png") for path in files]

    return plant


def grey_class(root: Path) -> list[Path]:
    """One class of train/ from a grey source."""
    files = sorted(sorted((root / "train").iterdir())[3].iterdir())
    for path in files:
        store(path, Image.fromarray(read(path)).convert("L"))
    return files


def copied(where: str, *, anew: bool) -> Plant:
    """Some images once more: in their class, in another class, or in val/; as they are, or smaller and stored anew."""

    def plant(root: Path) -> list[Path]:
        files = some(root)
        for path in list(files):
            other = {"class": path.parent, "other": root / "train" / path.parent.parent.name / path.parent.name}
            folders = sorted((root / "train").iterdir())
            other["other"] = folders[(folders.index(path.parent) + 4) % len(folders)]
            other["val"] = root / "val" / path.parent.name
            copy = other[where] / f"copy-{path.name}"
            if anew:
                image = Image.fromarray(read(path))
                smaller = image.resize((image.width * 9 // 10, image.height * 9 // 10), Image.Resampling.LANCZOS)
                store(copy, smaller, **({"quality": 75} if copy.suffix == ".jpg" else {}))
            else:
                shutil.copy(path, copy)
            files.append(copy)
        return files

    return plant


def absent(root: Path) -> list[Path]:
    """A class without images in val/."""
    shutil.rmtree(min((root / "val").iterdir()))
    return []


def few(root: Path) -> list[Path]:
    """A class of nine images in train/."""
    for path in sorted(min((root / "train").iterdir()).iterdir())[9:]:
        path.unlink()
    return []


def as_png(root: Path) -> list[Path]:
    """All of val/ in another format."""
    for path in all_of(root, "val"):
        store(path.with_suffix(".png"), Image.fromarray(read(path)))
        path.unlink()
    return all_of(root, "val")


def square(image: Image.Image) -> Image.Image:
    """The middle."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def half(image: Image.Image) -> Image.Image:
    """Half the side."""
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def nothing(_: Path) -> list[Path]:
    """The data set as it is, where the config is wrong."""
    return []


PLANTED = {
    "files that don't decode": Planted("undecodable", undecodable, severity="error"),
    "JPEGs closed too early": Planted("truncated", truncated, ("photos",)),
    "a format under another's name": Planted("misnamed", misnamed),
    "EXIF orientation": Planted("rotated", rotated),
    "CMYK": Planted("cmyk", redrawn(lambda image: image.convert("CMYK")), ("photos",)),
    "black images": Planted("blank", changed(np.zeros_like)),
    "white images": Planted("blank", changed(lambda pixels: np.full_like(pixels, 255))),
    "images of one colour": Planted("blank", changed(lambda pixels: pixels[:1, :1].repeat(40, 0).repeat(40, 1))),
    "some divided by 255": Planted("unit_range", unit_range(), ("photos",)),
    "all divided by 255": Planted("unit_range", unit_range("train", "val"), ("photos",), severity="error"),
    "washed out": Planted("faint", changed(lambda pixels: pixels // 8 + 100)),
    "7 bits stored as 8": Planted("ceiling", changed(lambda pixels: pixels // 2, "train", "val")),
    "val/ in BGR": Planted("channel_order", changed(lambda pixels: pixels[..., ::-1], "val")),
    "train/ in BGR": Planted("channel_order", changed(lambda pixels: pixels[..., ::-1], "train")),
    "both in BGR": Planted("channel_order", changed(lambda pixels: pixels[..., ::-1], "train", "val")),
    "val/ inverted": Planted("negative", changed(lambda pixels: 255 - pixels, "val")),
    "a grey class": Planted("grey_class", grey_class),
    "val/ grey": Planted("split_grey", redrawn(lambda image: image.convert("L"), "val")),
    "copies in a class": Planted("duplicates", copied("class", anew=False)),
    "copies in another class": Planted("label_conflict", copied("other", anew=False), severity="error"),
    "copies in val/": Planted("overlap", copied("val", anew=False)),
    "lookalikes in a class": Planted("near_duplicates", copied("class", anew=True)),
    "lookalikes in another class": Planted("near_label_conflict", copied("other", anew=True)),
    "lookalikes in val/": Planted("near_overlap", copied("val", anew=True)),
    "a class that val/ lacks": Planted("absent_from_val", absent),
    "a class of few images": Planted("few_images", few),
    "val/ at half size": Planted("split_size", redrawn(half, "val"), data={"image_size": 16}),
    "val/ cut square": Planted("split_shape", redrawn(square, "val"), ("photos",)),
    "val/ as PNG": Planted("split_format", as_png, ("photos",)),
    "val/ at a low quality": Planted("split_quality", redrawn(lambda i: i, "val", quality=50), ("photos",)),
    "val/ darker": Planted("split_pixels", changed(lambda pixels: (pixels / 255.0) ** 1.6 * 255, "val")),
    "val/ blurred": Planted("split_pixels", redrawn(lambda i: i.filter(ImageFilter.GaussianBlur(3)), "val")),
    "small images": Planted("enlarged", redrawn(lambda i: i.resize((13, 14))), data={"image_size": 28}),
    "strips": Planted("elongated", redrawn(lambda i: i.resize((160, 33)))),
    "no /255": Planted("normalization", nothing, severity="error", data={"normalization": "no_div255"}),
    "one scale for all": Planted("normalization", nothing, ("digits",), data={"normalization": "one_scale"}),
    "channels reversed": Planted("normalization", nothing, ("digits",), data={"normalization": "bgr"}),
}
CASES = [(name, base) for name, planted in PLANTED.items() for base in planted.sets]


@pytest.fixture
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """A factory of small copies: 12 images a class in train/, 10 in val/."""

    def copy(base: str) -> Path:
        if base == "digits":
            index: ImageIndex = request.getfixturevalue("digits_index")
            source = Path(index.root)
        else:
            source = request.getfixturevalue("clothing")
        for split, count in (("train", 12), ("val", 10)):
            for folder in (source / split).iterdir():
                target = tmp_path / base / split / folder.name
                target.mkdir(parents=True)
                for path in sorted(folder.iterdir())[:count]:
                    shutil.copy(path, target)
        return tmp_path / base

    return copy


@pytest.mark.parametrize(("name", "base"), CASES, ids=[f"{name}, {base}" for name, base in CASES])
def test_what_is_planted_is_found(name: str, base: str, sample: Callable[[str], Path]) -> None:
    """Its check names the planted files, as bad as they are, and no other check has more than an info."""
    planted, root = PLANTED[name], sample(base)
    files = planted.plant(root)
    found = at_least(examine(list_images(str(root)), DataConfig(**planted.data)), "warning")
    assert {finding.check for finding in found} == {planted.check}, found
    assert {finding.severity for finding in found} == {planted.severity}, found
    named = {file.location for finding in found for file in finding.files}
    assert named <= set(map(str, files))
    assert len(files) > MAX_FILES or named == set(map(str, files))
    assert sum(finding.count for finding in found) == len(files)
    assert all(finding.remedy and "\n" not in finding.summary for finding in found)


@pytest.mark.parametrize("base", SETS)
def test_the_copies_are_clean_before(base: str, sample: Callable[[str], Path]) -> None:
    """What is found after planting was not there before."""
    assert at_least(examine(list_images(str(sample(base))), DataConfig()), "warning") == []
