"""What `input.py` compares: data sets of the same photos in every layout, and each loader's way to a batch of them.

An arm is made in a process of its own, and then runs blocks: a number of batches, from idle to idle, each consumed. All
decode at random, crop (8 to 100 % of the area, 3/4 to 4/3), resize to 224 px and mirror half of the images. The other
libraries get torchvision's decoder and uint8 batches too, in process: what differs is the loader.
"""

from __future__ import annotations

import importlib
import logging
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from multiprocessing.util import Finalize
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
IMAGENET_AREA, IMAGENET_BYTES = 468 * 401, 110_000
"""Mean size of ImageNet's training images, in pixels and bytes."""
NOISE, QUALITY = 10.0, 95
"""Standard deviation of the noise, in grey levels, and JPEG quality that give the photos ImageNet's mean size."""
SMALLER = (352, 256)
"""Short sides, in pixels, of re-encoded images; their quality is 90."""
RAY_BLOCKS = 4
"""Blocks that Ray Data runs at once, as each plan that it carries out has a cost of its own."""
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


def block_ids(n: int, block: int) -> np.ndarray:
    """Samples of a block, the same for every arm: int64 [BATCHES, BATCH]."""
    sampler = EpochSampler(n, BATCH, 0)
    return np.stack([sampler.sample_ids(block * BATCHES + step) for step in range(BATCHES)])


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


def ours(shards: Path, decoder: str, threads: int, ids_of: Callable[[Any, int], np.ndarray] | None = None) -> Run:
    """Shards to uint8 batches in threads; `ids_of`: (store, block) -> ids where they are not those of `block_ids`."""
    split = open_index(str(shards)).train
    source = ImageSource(split, SIDE, "crop_flip", 0, crop_min_area=0.08, decoder=open_decoder(decoder))

    def run(block: int) -> None:
        ids = block_ids(len(split), block) if ids_of is None else ids_of(split.store, block)
        with Prefetcher(lambda step: source.fetch(ids[step], 0), threads, stop_step=BATCHES) as prefetcher:
            for step in range(BATCHES):
                consume(prefetcher.get(step))

    return run


def in_file_order(store: ShardStore, block: int, blocks: int) -> np.ndarray:
    """Samples that lie one after the other, each block's somewhere else: int64 [BATCHES, BATCH]."""
    order = np.lexsort((store.offset, store.shard))
    start = block * (len(order) - BATCH * BATCHES) // max(blocks - 1, 1)
    return order[start : start + BATCH * BATCHES].reshape(BATCHES, BATCH)


def in_random_order(store: ShardStore, block: int, blocks: int) -> np.ndarray:
    """The samples of all blocks of `in_file_order`, shuffled over the blocks, so that the sum is of the same work."""
    ids = np.concatenate([in_file_order(store, other, blocks) for other in range(blocks)]).ravel()
    mine: np.ndarray = generator("random order").permutation(ids).reshape(blocks, BATCHES, BATCH)[block]
    return mine


def region_floor(shards: Path, blocks: int) -> Run:
    """Region decode by nvImageCodec alone, of the crops that `ours` makes: no resize, no batch, no draw."""
    store = open_index(str(shards)).train.store
    decoder = open_decoder("nvimgcodec")
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


def other_transform() -> Callable[[bytes], torch.Tensor]:
    """Torchvision's decoder and transforms on tensors: bytes -> uint8 [3, SIDE, SIDE]."""
    change = v2.Compose([v2.RandomResizedCrop(SIDE, antialias=True), v2.RandomHorizontalFlip()])

    def transform(data: bytes) -> torch.Tensor:
        pixels: torch.Tensor = change(decode_rgb(np.frombuffer(bytearray(data), dtype=np.uint8), ""))
        return pixels

    return transform


def webdataset(places: Places) -> Run:
    """Tar shards, a shuffle buffer of 1,000 images, in process."""
    library: Any = importlib.import_module("webdataset")
    files = sorted((places.few / "train").rglob("*.jpg"))
    path = places.root / "webdataset.tar"
    with tarfile.open(path, "w", dereference=True) as archive:
        for number in generator("tar").permutation(len(files)).tolist():
            archive.add(files[number], f"{number:06d}.jpg")
    transform = other_transform()
    dataset = library.WebDataset(str(path), shardshuffle=False).repeat().shuffle(1000)
    batches = iter(dataset.map(lambda sample: (transform(sample["jpg"]),)).batched(BATCH, partial=False))

    def run(_block: int) -> None:
        for (batch,) in islice(batches, BATCHES):
            consume(batch)

    return run


def streaming(places: Places) -> Run:
    """MDS shards, random access, in process."""
    library: Any = importlib.import_module("streaming")
    files = sorted((places.few / "train").rglob("*.jpg"))
    path = str(places.root / "streaming")
    with library.MDSWriter(out=path, columns={"image": "bytes"}) as writer:
        for number in generator("mds").permutation(len(files)).tolist():
            writer.write({"image": files[number].read_bytes()})
    dataset, transform = library.StreamingDataset(local=path, batch_size=BATCH), other_transform()

    def run(block: int) -> None:
        for ids in block_ids(len(files), block):
            consume(torch.stack([transform(dataset[number]["image"]) for number in ids.tolist()]))

    return run


def ray_data(places: Places) -> Run:
    """Ray Data over the files, two CPUs."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    # A forked process runs no atexit.
    Finalize(None, ray.shutdown, exitpriority=1)
    ray.data.DataContext.get_current().enable_progress_bars = False
    files = [str(path.resolve()) for path in sorted((places.few / "train").rglob("*.jpg"))]

    def decode(batch: dict[str, Any]) -> dict[str, Any]:
        torch.set_num_threads(1)
        transform = other_transform()
        return {"image": torch.stack([transform(data) for data in batch["bytes"]]).numpy()}

    def run(block: int) -> None:
        several = range(block * RAY_BLOCKS, (block + 1) * RAY_BLOCKS)
        ids = np.concatenate([block_ids(len(files), number) for number in several]).ravel()
        paths = [files[number] for number in ids.tolist()]
        dataset = ray.data.read_binary_files(paths).map_batches(decode, batch_size=BATCH)
        for batch in dataset.iter_torch_batches(batch_size=BATCH):
            consume(batch["image"])

    return run
