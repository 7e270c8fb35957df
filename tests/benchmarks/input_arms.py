"""What `input.py` compares: data sets of the same photos in every layout, and each loader's way to a batch of them.

An arm is made in a process of its own, and then runs blocks: a number of batches, from idle to idle, each consumed. All
decode at random, crop (8 to 100 % of the area, 3/4 to 4/3), resize to 224 px and mirror half of the images.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

from trainables.data.augment import draw_crop
from trainables.data.decode import decode_rgb
from trainables.data.decode_region import open_decoder
from trainables.data.images import ImageSource
from trainables.data.index import open_index
from trainables.data.normalize import IMAGENET_MEAN, IMAGENET_STD
from trainables.data.prefetch import Prefetcher
from trainables.data.sampler import EpochSampler
from trainables.data.shards.convert import convert
from trainables.data.shards.format import Reencode
from trainables.data.shards.plan import Settings
from trainables.data.shards.store import ShardStore
from trainables.data.store import read_file
from trainables.rng import generator

SIDE, BATCH, BATCHES = 224, 64, 4
"""Pixels of a crop's side, images of a batch, batches of a block."""
LONG = 4
"""Blocks that ours run at once: at the end of a short one a thread waits for the other, which no training does."""
IMAGENET_AREA, IMAGENET_BYTES = 468 * 401, 110_000
"""Mean size of ImageNet's training images, in pixels and bytes."""
NOISE, QUALITY = 10.0, 95
"""Standard deviation of the noise, in grey levels, and JPEG quality that give the photos ImageNet's mean size."""
SMALLER = (352, 256)
"""Short sides, in pixels, of re-encoded images; their quality is 90."""
Run = Callable[[int], None]
"""Makes and consumes the batches of a block, by its number."""


@dataclass(frozen=True)
class Places:
    """Where the layouts of a data set lie."""

    root: Path

    @property
    def folder(self) -> Path:
        """Class folders of all rows."""
        return self.root / "folder"

    @property
    def few(self) -> Path:
        """Class folders of fewer rows, for the layouts that the others need."""
        return self.root / "few"

    def shards(self, short: int | None = None) -> Path:
        """Arrow shards of `folder`, or of `few` re-encoded."""
        return self.root / f"shards-{short}"


def find_photos(folder: Path) -> list[Path]:
    """Images below a folder or its train/, sorted; their classes are the folders that they lie in."""
    base = folder / "train" if (folder / "train").is_dir() else folder
    return sorted(path for path in base.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))


def like_imagenet(photos: list[Path], folder: Path) -> list[Path]:
    """Photos of ImageNet's mean size in pixels and bytes, made of others by resizing, noise and JPEG."""
    made = []
    for number, photo in enumerate(photos):
        pixels = decode_rgb(read_file(str(photo)), str(photo))
        height, width = pixels.shape[1:]
        scale = (IMAGENET_AREA / (height * width)) ** 0.5
        resized = v2.functional.resize(pixels, [round(height * scale), round(width * scale)], antialias=True)
        noise = torch.from_numpy(generator("noise", number).normal(0, NOISE, resized.shape))
        noisy = (resized + noise).round().clamp(0, 255).to(torch.uint8)
        path = folder / photo.parent.name / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.ops.image.encode_jpeg(noisy, QUALITY).numpy().tofile(path)
        made.append(path)
    mean = sum(path.stat().st_size for path in made) / len(made)
    assert abs(mean / IMAGENET_BYTES - 1) < 0.05, mean
    return made


def link_rows(photos: list[Path], folder: Path, rows: int) -> None:
    """An image folder of about `rows` names: every photo as often as needed, or some of them at even distances."""
    chosen = [photos[i * len(photos) // rows] for i in range(rows)] if len(photos) > rows else photos
    copies = max(1, rows // len(chosen))
    for number, photo in enumerate(chosen):
        for split, count in (("train", copies), ("val", 1)):
            place = folder / split / photo.parent.name
            place.mkdir(parents=True, exist_ok=True)
            for copy in range(count):
                (place / f"{number:06d}-{copy:04d}.jpg").symlink_to(photo)


def write_layouts(photos: list[Path], places: Places, rows: int, *, others: bool) -> None:
    """Every layout that the arms read."""
    torch.set_num_threads(1)
    link_rows(photos, places.folder, rows)
    _convert(places.folder, places.shards(), None)
    if others:
        link_rows(photos, places.few, min(rows, 2000))
        for short in SMALLER:
            _convert(places.few, places.shards(short), Reencode(short=short, quality=90))


def _convert(folder: Path, target: Path, reencode: Reencode | None) -> None:
    convert(str(folder), str(target), Settings(reencode=reencode), threads=2, listener=lambda progress: None)


def consume(batch: torch.Tensor) -> None:
    """Read some of a batch."""
    assert len(batch) == BATCH
    batch.reshape(-1)[::4099].sum().item()


def block_ids(n: int, block: int, at_once: int = 1) -> np.ndarray:
    """Samples of a block of `at_once` usual ones, the same for every arm: int64 [at_once * BATCHES, BATCH]."""
    sampler, batches = EpochSampler(n, BATCH, 0), at_once * BATCHES
    return np.stack([sampler.sample_ids(block * batches + step) for step in range(batches)])


def imagefolder(folder: Path, workers: int) -> Run:
    """Torchvision's reference: ImageFolder, PIL, ToTensor, Normalize, DataLoader."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    crop = transforms.RandomResizedCrop(SIDE)
    steps = [crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    dataset = ImageFolder(str(folder / "train"), transform)
    sampler: list[int] = [0] * (BATCH * BATCHES)
    loader = DataLoader(dataset, BATCH, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)

    def run(block: int) -> None:
        sampler[:] = block_ids(len(dataset), block).ravel().tolist()
        for images, _labels in loader:
            consume(images)

    return run


def source_of(shards: Path, decoder: str) -> ImageSource:
    """What all of ours make batches with."""
    split = open_index(str(shards)).train
    return ImageSource(split, SIDE, "crop_flip", 0, crop_min_area=0.08, decoder=open_decoder(decoder))


def ours(shards: Path, decoder: str, threads: int, ids_of: Callable[[Any, int], np.ndarray] | None = None) -> Run:
    """Shards to uint8 batches in threads, LONG blocks at once; `ids_of`: (store, block) -> ids, if not `block_ids`."""
    source = source_of(shards, decoder)

    def run(block: int) -> None:
        split = source.split
        ids = block_ids(len(split), block, LONG) if ids_of is None else ids_of(split.store, block)
        with Prefetcher(lambda step: source.fetch(ids[step], 0), threads, stop_step=len(ids)) as prefetcher:
            for step in range(len(ids)):
                consume(prefetcher.get(step))

    return run


_inherited: list[ImageSource] = []


def in_processes(shards: Path, decoder: str, processes: int) -> Run:
    """The same by processes that share nothing and hand nothing over: as much as the machine's cores can give."""
    source = source_of(shards, decoder)
    # Forked, they have the source.
    pool = multiprocessing.get_context("fork").Pool(processes, _inherited.append, (source,))

    def run(block: int) -> None:
        ids = block_ids(len(source.split), block, LONG)
        pool.map(_fetch_all, [ids[first::processes] for first in range(processes)], chunksize=1)

    return run


def _fetch_all(batches: np.ndarray) -> None:
    for ids in batches:
        consume(_inherited[0].fetch(ids, 0))


def in_file_order(store: ShardStore, block: int, blocks: int) -> np.ndarray:
    """Samples that lie one after the other, each block's somewhere else: int64 [LONG * BATCHES, BATCH]."""
    order, images = np.lexsort((store.offset, store.shard)), LONG * BATCHES * BATCH
    start = block * (len(order) - images) // max(blocks - 1, 1)
    return order[start : start + images].reshape(-1, BATCH)


def in_random_order(store: ShardStore, block: int, blocks: int) -> np.ndarray:
    """The samples of all blocks of `in_file_order`, shuffled over the blocks, so that the sum is of the same work."""
    ids = np.concatenate([in_file_order(store, other, blocks) for other in range(blocks)]).ravel()
    mine: np.ndarray = generator("random order").permutation(ids).reshape(blocks, -1, BATCH)[block]
    return mine


def region_floor(shards: Path, blocks: int) -> Run:
    """Region decode by libjpeg-turbo alone, of the crops that `ours` makes: no resize, no batch, no draw."""
    store = open_index(str(shards)).train.store
    decoder = open_decoder("turbojpeg")
    crops: dict[int, list[tuple[int, tuple[int, int, int, int]]]] = {}
    for block in range(blocks):
        crops[block] = []
        for place in block_ids(len(store.names), block).ravel().tolist():
            picture = decoder(store.read(place), "")
            rng = generator(0, "augment", 0, place)
            rng.random()
            crops[block].append((place, draw_crop(rng, picture.height, picture.width, 0.08)))

    def run(block: int) -> None:
        for place, crop in crops[block]:
            decoder(store.read(place), "").region(*crop)

    return run
