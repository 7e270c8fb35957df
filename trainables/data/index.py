"""Which images there are: in an image folder with train/ and val/, in Arrow shards, or the digits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.channels import channel_statistics
from trainables.data.store import FileStore, Store
from trainables.errors import DataError, complaint
from trainables.uris import is_uri

EXTENSIONS = (".jpg", ".jpeg", ".png")
"""Names of image files end so, in any case."""
LAYOUT = (
    "'digits', Arrow shards (a folder, or s3://bucket/prefix), or a folder with train/ and val/, each of class folders"
    " with JPEG or PNG files"
)

SHARDS_MARKS = ("index.json", ".epoch14-shard")
"""One of these lies in a folder of shards."""


@dataclass(frozen=True)
class Split:
    """Samples of one split; a sample's id is its place here."""

    store: Store
    """Its encoded images."""
    labels: np.ndarray
    """Class of each image, int64 [n]."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Listing:
    """A data set as its names tell it: nothing is decoded."""

    root: str
    """Absolute path of the folder with train/ and val/ or of shards, or the URI of the shards."""
    classes: tuple[str, ...]
    """Class names; a label is a place here. Those of a folder are sorted."""
    train: Split
    val: Split

    def fingerprint(self) -> str:
        """Hash of what a sample's id and label depend on: the classes, and the names of the images in their order."""
        digest = hashlib.blake2b("\n".join(self.classes).encode(errors="surrogateescape"), digest_size=8)
        for split in (self.train, self.val):
            digest.update("\n".join(f"/{name}" for name in split.store.names).encode(errors="surrogateescape"))
        return digest.hexdigest()


@dataclass(frozen=True)
class ImageIndex(Listing):
    """A data set with the moments of its training pixels."""

    channel_mean: tuple[float, float, float]
    """Mean of the stored training pixels / 255, for R, G and B."""
    channel_std: tuple[float, float, float]
    """Standard deviation of the stored training pixels / 255, for R, G and B."""


def open_index(path: str, *, cache_dir: Path | None = None) -> ImageIndex:
    """List a data set and count its channels. The same files give the same index in any order of listing.

    Args:
        path: `digits`, a folder with train/ and val/, each of class folders, or one that `epoch14 shard` made; or the
            URI of such shards, which are first copied to cache_dir.
        cache_dir: holds the drawn digits, channel statistics and copies; None: $EPOCH14_CACHE or ~/.cache/epoch14.

    Raises:
        DataError: the folder is missing or not of that layout, a class or split has no images, or none decodes; the
            URI can't be read or holds no shards, or the copy has no room.

    """
    cache = default_cache_dir() if cache_dir is None else cache_dir
    found = list_images(path, cache_dir=cache)
    if isinstance(found, ImageIndex):
        return found
    assert isinstance(found.train.store, FileStore)
    with _readable(path):
        mean, std = channel_statistics(found.train.store, cache)
    return ImageIndex(found.root, found.classes, found.train, found.val, mean, std)


def list_images(path: str, *, cache_dir: Path | None = None) -> Listing:
    """List a data set without reading an image. Arguments as of `open_index`.

    Raises:
        DataError: the folder is missing or not of that layout, or a class or split has no images; as `open_index`.

    """
    cache = default_cache_dir() if cache_dir is None else cache_dir
    if is_uri(path):
        from trainables.data.staging.stage import open_staged

        return open_staged(path, cache)
    if path != "digits" and is_sharded(path):
        # The digits and folders need no pyarrow.
        from trainables.data.shards.store import open_shards

        return open_shards(Path(path).expanduser())
    with _readable(path):
        root = _find_root(path, cache)
        classes = _class_names(f"{root}/train")
        check_classes(path, classes, _class_names(f"{root}/val"))
        train, val = (Split(*_list_files(root, split, classes)) for split in ("train", "val"))
    check_images(path, classes, train.labels, val.labels)
    return Listing(root, classes, train, val)


def is_sharded(path: str) -> bool:
    """Whether it is a folder of shards, finished or not, rather than of images."""
    root = Path(path).expanduser()
    try:
        return not (root / "train").is_dir() and any((root / name).exists() for name in SHARDS_MARKS)
    except (OSError, RuntimeError):
        return False


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = f"check {error.filename}" if error.filename else "check data.path"
        raise DataError(complaint("data.path", path, f"files that can be read ({error.strerror})", remedy)) from None


def _find_root(path: str, cache: Path) -> str:
    if path == "digits":
        from trainables.data.digits import write_digits

        return str(write_digits(cache).resolve())
    root = str(Path(path).expanduser().resolve())
    _check_layout(path, root)
    return root


def default_cache_dir() -> Path:
    """Folder for what is made once: $EPOCH14_CACHE, or ~/.cache/epoch14."""
    return Path(os.environ.get("EPOCH14_CACHE") or Path.home() / ".cache" / "epoch14").expanduser()


def _class_names(folder: str) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))


def _list_files(root: str, split: str, classes: tuple[str, ...]) -> tuple[FileStore, np.ndarray]:
    """The images of a split, class by class, and their labels, int64 [n]."""
    found = [_image_files(f"{root}/{split}/{name}") for name in classes]
    names = tuple(path.removeprefix(f"{root}/") for paths in found for path in paths)
    return FileStore(root, names), np.repeat(np.arange(len(classes)), [len(paths) for paths in found])


def _image_files(folder: str) -> list[str]:
    """Image files in `folder` and below it, sorted; none where there is no such folder."""
    found = []
    for parent, _, names in os.walk(folder, followlinks=True):
        found += [f"{parent}/{name}" for name in names if is_image(name)]
    return sorted(found)


def is_image(name: str) -> bool:
    """Whether a file of this name counts as an image."""
    # macOS leaves "._name.jpg" files that hold no image.
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _check_layout(path: str, root: str) -> None:
    if not Path(root).is_dir():
        raise DataError(complaint("data.path", path, LAYOUT, f"create {root} or correct data.path"))
    for split in ("train", "val"):
        if not Path(root, split).is_dir():
            remedy = f"create {root}/{split} or correct data.path"
            raise DataError(complaint("data.path", path, f"{LAYOUT} ({split}/ is missing)", remedy))


def check_classes(path: str, train: tuple[str, ...], val: tuple[str, ...]) -> None:
    """Check the class names of both splits. Raises DataError: there is none, or val/ has one of its own."""
    if not train:
        remedy = "add class folders to train/"
        raise DataError(complaint("data.path", path, f"{LAYOUT} (train/ has no class folder)", remedy))
    unknown = [name for name in val if name not in set(train)]
    if unknown:
        few = ", ".join(repr(name) for name in unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        remedy = "add them to train/ or remove them from val/"
        raise DataError(complaint("data.path", path, f"classes of val/ that train/ has too (it lacks {few})", remedy))


def check_images(path: str, classes: tuple[str, ...], train: np.ndarray, val: np.ndarray) -> None:
    """Check the labels of both splits, int64 [n]. Raises DataError: a split, or a class of train/, has no images."""
    counts = np.bincount(train, minlength=len(classes))
    for folder, empty in (("train/", len(train) == 0), ("val/", len(val) == 0)):
        if empty:
            remedy = f"add images to the class folders of {folder}"
            raise DataError(complaint("data.path", path, f"{LAYOUT} ({folder} has no images)", remedy))
    if counts.min() == 0:
        name = classes[int(counts.argmin())]
        remedy = f"add images to train/{name}/ or remove it"
        raise DataError(complaint("data.path", path, f"{LAYOUT} (train/{name}/ has no images)", remedy))
