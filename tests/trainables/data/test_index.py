"""Which images there are."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainables.data.index import open_index
from trainables.errors import DataError

TinyImages = Callable[..., Path]


def test_classes_and_files_are_sorted(tiny_images: TinyImages, tmp_path: Path) -> None:
    """The order of creation plays no part; labels are places in the sorted class names."""
    root = tiny_images(("zebra", "ant", "Bee"), train=3, val=1)
    index = open_index(str(root), cache_dir=tmp_path / "cache")
    assert index.root == str(root)
    assert index.classes == ("Bee", "ant", "zebra")
    names = [name.removeprefix("train/") for name in index.train.store.names]
    assert names == [f"{label}/00{place}.png" for label in ("Bee", "ant", "zebra") for place in range(3)]
    assert index.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert index.train.labels.dtype == np.int64
    assert len(index.val) == 3


def test_all_usual_endings_count_and_others_do_not(tiny_images: TinyImages, tmp_path: Path) -> None:
    """JPEG and PNG in any case, nested folders too; hidden files and folders and texts are passed over."""
    root = tiny_images(("a", "b"), train=1, val=1)
    source = root / "train" / "a" / "000.png"
    for name in ("x.PNG", "x.jpg", "x.JPEG", "x.Jpg", "nested/y.jpeg"):
        (root / "train" / "a" / name).parent.mkdir(exist_ok=True)
        shutil.copy(source, root / "train" / "a" / name)
    (root / "train" / "a" / "notes.txt").write_text("no image")
    (root / "train" / "a" / "._x.jpg").write_text("no image")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    index = open_index(str(root), cache_dir=tmp_path / "cache")
    assert index.classes == ("a", "b")
    assert np.bincount(index.train.labels).tolist() == [6, 1]


def test_a_relative_path_and_home_are_resolved(
    tiny_images: TinyImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths in the index are absolute: a trial may run in another working directory."""
    root = tiny_images()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("images", "./images/", "~/images"):
        index = open_index(path, cache_dir=tmp_path / "cache")
        assert index.root == str(root)
        assert all(Path(index.train.store.locate(place)).is_absolute() for place in range(len(index.train)))


def test_the_clothing_photos(clothing: Path, tmp_path: Path) -> None:
    """A real folder, with a test/ that is passed over."""
    index = open_index(str(clothing), cache_dir=tmp_path)
    assert len(index.classes) == 10
    assert (len(index.train), len(index.val)) == (3068, 341)


def test_the_fingerprint_is_of_names_not_of_places(tiny_images: TinyImages, tmp_path: Path) -> None:
    """A copy elsewhere has the same one; an image that changed its class, or one more, makes another."""
    one, copy = tiny_images(name="one"), tiny_images(name="copy")
    found = [open_index(str(folder), cache_dir=tmp_path).fingerprint() for folder in (one, copy)]
    (copy / "train" / "cat" / "000.png").rename(copy / "train" / "dog" / "009.png")
    found.append(open_index(str(copy), cache_dir=tmp_path).fingerprint())
    assert found[0] == found[1] != found[2]


def test_it_survives_pickling(tiny_images: TinyImages, tmp_path: Path) -> None:
    """An index may travel to another process."""
    index = open_index(str(tiny_images()), cache_dir=tmp_path / "cache")
    again = pickle.loads(pickle.dumps(index))  # noqa: S301
    assert again.train.store == index.train.store
    assert again.channel_mean == index.channel_mean


def remove_train(root: Path) -> None:
    """No train/."""
    shutil.rmtree(root / "train")


def remove_val(root: Path) -> None:
    """No val/."""
    shutil.rmtree(root / "val")


def remove_classes(root: Path) -> None:
    """No class folder in train/."""
    shutil.rmtree(root / "train")
    (root / "train").mkdir()


def add_val_class(root: Path) -> None:
    """A class of val/ that train/ lacks."""
    shutil.copytree(root / "val" / "cat", root / "val" / "cow")


def empty_train(root: Path) -> None:
    """Class folders without images."""
    for path in root.glob("train/*/*"):
        path.unlink()


def empty_val(root: Path) -> None:
    """No image in val/."""
    for path in root.glob("val/*/*"):
        path.unlink()


def empty_class(root: Path) -> None:
    """One class without images."""
    for path in root.glob("train/dog/*"):
        path.unlink()


def damage(root: Path) -> None:
    """No file of train/ is an image; a few would be quarantined."""
    for path in (root / "train").glob("*/*"):
        path.write_text("no image")


def dangle(root: Path) -> None:
    """A link to nowhere."""
    (root / "train" / "dog" / "link.png").symlink_to(root / "nowhere.png")


def test_names_may_hold_any_bytes(tiny_images: TinyImages, tmp_path: Path) -> None:
    """A name that is no UTF-8 is listed, counted and told apart from another."""
    root = tiny_images()
    plain = open_index(str(root), cache_dir=tmp_path / "cache").fingerprint()
    odd = root / "train" / "cat" / os.fsdecode(b"000\xff.png")
    (root / "train" / "cat" / "000.png").rename(odd)
    index = open_index(str(root), cache_dir=tmp_path / "cache")
    assert index.train.store.locate(0) == str(odd)
    assert index.fingerprint() != plain


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (shutil.rmtree, "create"),
        (remove_train, "train/ is missing"),
        (remove_val, "val/ is missing"),
        (remove_classes, "train/ has no class folder"),
        (add_val_class, "it lacks 'cow'"),
        (empty_train, "train/ has no images"),
        (empty_val, "val/ has no images"),
        (empty_class, "train/dog/ has no images"),
        (damage, "JPEG and PNG files that decode"),
        (dangle, "train/dog/link.png"),
    ],
)
def test_every_broken_folder_is_one_line(break_it: object, named: str, tiny_images: TinyImages, tmp_path: Path) -> None:
    """Each names the key and what is wrong, and tells the remedy."""
    root = tiny_images()
    assert callable(break_it)
    break_it(root)
    with pytest.raises(DataError) as caught:
        open_index(str(root), cache_dir=tmp_path / "cache")
    message = str(caught.value)
    assert message.startswith("data.path: ")
    assert named in message
    assert "; allowed: " in message
    assert "; remedy: " in message
    assert "\n" not in message


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """A path to a file, or one that can't exist, is an error too."""
    (tmp_path / "file").write_text("")
    for path in (str(tmp_path / "file"), "x" * 5000):
        with pytest.raises(DataError, match=r"^data.path: "):
            open_index(path, cache_dir=tmp_path)
