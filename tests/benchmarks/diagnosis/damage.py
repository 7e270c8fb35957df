"""Damage to image files on disk, in a copy of a data set that shares the files it leaves alone.

Names stay as they are, so that a sample keeps its id; wrong labels come from images that lie under another one's name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.rng import generator

Damage = Callable[[Path, Sequence[str], np.ndarray, int], None]
"""(root of the copy, names of the files that come after the onset, their labels, seed)."""


def copy_linked(source: Path, target: Path) -> None:
    """A copy of a folder whose files are links to the originals."""
    for folder, _, names in os.walk(source):
        here = target / Path(folder).relative_to(source)
        here.mkdir(parents=True)
        for name in names:
            (here / name).symlink_to(Path(folder, name).resolve())


def overwrite(path: Path, content: bytes) -> None:
    """Replace the link, not what it points to."""
    path.unlink()
    path.write_bytes(content)


def repaint(path: Path, pixels: np.ndarray) -> None:
    """Replace an image by `pixels`, uint8 [height, width, 3], in its own format, without further loss."""
    with Image.open(path) as image:
        form = image.format
    path.unlink()
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    Image.fromarray(pixels).save(path, format=form, **options)


def each(share: float, change: Callable[[np.ndarray, np.random.Generator], np.ndarray], what: str) -> Damage:
    """A share of the images goes through `change`."""

    def apply(root: Path, names: Sequence[str], _labels: np.ndarray, seed: int) -> None:
        rng = generator(seed, "damage", what)
        for name in names:
            if rng.random() < share:
                with Image.open(root / name) as image:
                    pixels = np.asarray(image.convert("RGB"))
                repaint(root / name, change(pixels, rng))

    return apply


def blackened(share: float) -> Damage:
    """Images that are black."""
    return each(share, lambda pixels, _rng: np.zeros_like(pixels), "black")


def bgr(share: float) -> Damage:
    """Images that were written with their channels in the order of OpenCV."""
    return each(share, lambda pixels, _rng: np.ascontiguousarray(pixels[..., ::-1]), "bgr")


def noise(share: float) -> Damage:
    """Images of uniform noise, as from bytes read at the wrong place."""
    return each(share, lambda pixels, rng: rng.integers(0, 256, pixels.shape, dtype=np.uint8), "noise")


def halved(share: float) -> Damage:
    """Images whose lower half is grey, as from a download that broke off and a decoder that fills up."""

    def change(pixels: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
        cut = pixels.copy()
        cut[len(cut) // 2 :] = 128
        return cut

    return each(share, change, "halved")


def truncated(count: int) -> Damage:
    """The first `count` files end early, so that no decoder takes them."""

    def apply(root: Path, names: Sequence[str], _labels: np.ndarray, _seed: int) -> None:
        for name in names[:count]:
            overwrite(root / name, (root / name).read_bytes()[:40])

    return apply


def relabelled(share: float, *, offset: int | None = None) -> Damage:
    """A share of the images lies under a name of another class: one drawn at random, or `offset` classes on."""

    def apply(root: Path, names: Sequence[str], labels: np.ndarray, seed: int) -> None:
        rng = generator(seed, "damage", "labels")
        contents = [(root / name).read_bytes() for name in names]
        count = int(labels.max()) + 1
        for place, name in enumerate(names):
            if rng.random() < share:
                wanted = rng.integers(count) if offset is None else (labels[place] + offset) % count
                others = np.flatnonzero(labels == wanted)
                if len(others):
                    overwrite(root / name, contents[int(rng.choice(others))])

    return apply
