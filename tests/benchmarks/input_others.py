"""Loaders by others, for `input.py`: how they are installed, and each one's way to a batch of uint8 pixels, in process.

webdataset, mosaicml-streaming and Ray Data get torchvision's decoder and transforms: what differs is the loader. FFCV
has its own format and its own decoder, compiled at installation; its resize averages areas.
"""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
import tarfile
from collections.abc import Callable
from itertools import islice
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.benchmarks.input_arms import BATCH, BATCHES, QUALITY, SIDE, Places, Run, block_ids, consume
from trainables.data.decode import decode_rgb
from trainables.rng import generator

RAY_BLOCKS = 4
"""Blocks that Ray Data runs at once, as each plan that it carries out has a cost of its own."""
PACKAGES = (
    "webdataset braceexpand mosaicml-streaming transformers tokenizers huggingface-hub regex hf-xet xxhash zstd Brotli "
    "python-snappy cramjam catalogue azure-core paramiko"
)
"""Of webdataset and mosaicml-streaming, without what is here already: torch would come twice."""
FFCV_NEEDS = "numba llvmlite opencv-python-headless"
"""To run FFCV; to compile it: g++, pkg-config, libopencv-dev and libturbojpeg0-dev besides."""


def install(folder: Path) -> None:
    """Have the others in a folder, unless something is there already, and on the import path, after what is ours."""
    if not folder.is_dir() or not any(folder.iterdir()):
        _uv(folder, *PACKAGES.split())
        _uv(folder, *FFCV_NEEDS.split())
        _uv(folder, "ffcv")
    sys.path.append(str(folder))


def _uv(folder: Path, *what: str) -> None:
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder), "--no-deps"]
    done = subprocess.run([*command, *what], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"  not installed: {' '.join(what)}: {done.stderr.strip()[-400:]}", file=sys.stderr, flush=True)


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


def ffcv(places: Places) -> Run:
    """FFCV's format with its photos encoded again at the same quality, read at random, one thread."""
    fields, writer, loader, transforms = (
        importlib.import_module(f"ffcv.{part}") for part in ("fields.rgb_image", "writer", "loader", "transforms")
    )
    files = sorted((places.few / "train").rglob("*.jpg"))
    path = str(places.root / "ffcv.beton")

    class Photos:
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, place: int) -> tuple[Image.Image]:
            return (Image.open(files[place]).convert("RGB"),)

    field = fields.RGBImageField(write_mode="jpg", jpeg_quality=int(QUALITY))
    writer.DatasetWriter(path, {"image": field}, num_workers=1).from_indexed_dataset(Photos())
    crop = fields.RandomResizedCropRGBImageDecoder((SIDE, SIDE))
    pipeline = [crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    order = loader.OrderOption.SEQUENTIAL
    batches = loader.Loader(path, BATCH, num_workers=1, os_cache=True, order=order, pipelines={"image": pipeline})

    def run(block: int) -> None:
        # The order is that of the ids, which are random, and ends with the block: nothing is made ahead of the next.
        batches.traversal_order.indices = block_ids(len(files), block).ravel()
        for (images,) in batches:
            consume(images)

    # Numba compiles in the first block.
    run(0)
    return run
