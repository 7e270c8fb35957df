"""Mutated JPEGs and folders of shards on their way to pixels: each decodes or is one line, in bounded time and memory.

    make bench-fuzz ARGS="--jpegs 10000 --shards 1000 --first 0"

Items run in a child process, so that a crash or a hang is seen, and named by the seed that makes it again. JPEGs go
through all decoders, whole and as random crops; shards are opened, read and verified. Exits 1 on a violation.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from trainables.data.decode import Decoder  # noqa: E402 - after the path
from trainables.data.decode_region import open_decoder  # noqa: E402
from trainables.data.images import ImageSource  # noqa: E402
from trainables.data.index import Split, open_index  # noqa: E402
from trainables.data.quarantine import Quarantine  # noqa: E402
from trainables.data.shards.convert import convert  # noqa: E402
from trainables.data.shards.plan import Settings  # noqa: E402
from trainables.data.shards.verify import verify  # noqa: E402
from trainables.data.store import Encoded  # noqa: E402
from trainables.errors import ConfigError, DataError  # noqa: E402
from trainables.rng import generator  # noqa: E402

PHOTOS = ROOT.parent / "shared" / "data" / "clothing" / "160px"
MOST_PHOTOS = 64
LIMIT_S = 30.0
"""Seconds of one item."""
LIMIT_BYTES = 3 << 30
"""Growth of the child's resident memory: the largest progressive image that is decoded, and its coefficients."""
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"subsampling": 0},
    {"progressive": True},
    {"restart_marker_blocks": 2},
    {"mode": "L"},
    {"mode": "CMYK"},
)
"""JPEGs of noise."""
Rng = np.random.Generator
Run = Callable[[int], str]


@dataclass(frozen=True)
class OneImage:
    """A store of one image in memory."""

    data: Encoded
    names: tuple[str, ...] = ("photo.jpg",)

    def locate(self, place: int) -> str:
        """Its name."""
        return self.names[place]

    def read(self, place: int) -> Encoded:
        """Its bytes."""
        assert place == 0
        return self.data


@cache
def seeds() -> list[bytes]:
    """Whole JPEGs: noise of every kind, and photos where they are beside the clone."""
    found = []
    for number, options in enumerate(KINDS):
        pixels = generator("fuzz noise", number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        for side in (32, 200):
            target = io.BytesIO()
            image = Image.fromarray(pixels).resize((side, side - 5)).convert(options.get("mode", "RGB"))
            image.save(target, "JPEG", **{key: value for key, value in options.items() if key != "mode"})
            found.append(target.getvalue())
    photos = sorted(PHOTOS.rglob("*.jpg"))
    return found + [path.read_bytes() for path in photos[:: max(1, len(photos) // MOST_PHOTOS)]]


def mutated(data: bytes, rng: Rng) -> bytes:
    """Flipped bits, a cut, a range of zeros, another file's header, another size, or some of these."""
    content = bytearray(data)
    for kind in rng.integers(0, 5, rng.integers(1, 3)).tolist():
        if not content:
            break
        start, stop = sorted(rng.integers(0, len(content) + 1, 2).tolist())
        if kind == 0:
            # Half of them in the header, which is a small part of the file.
            end = len(content) if rng.random() < 0.5 else min(len(content), 700)
            for place in rng.integers(0, end, rng.integers(1, 17)).tolist():
                content[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            # With its end put back, a cut is no longer told by that.
            del content[stop:]
            content += b"\xff\xd9" if rng.random() < 0.5 else b""
        elif kind == 2:
            content[start:stop] = bytes(stop - start)
        elif kind == 3:
            other = seeds()[int(rng.integers(len(seeds())))]
            content[: header_length(content)] = other[: header_length(other)]
        else:
            # Most are small, as a large one takes a second, and one past the limit none.
            most = 16 if rng.random() < 0.3 else 11
            resize(content, *(int(2**exponent) for exponent in rng.uniform(0, most, 2)))
    return bytes(content)


def header_length(content: bytes | bytearray) -> int:
    """Bytes before the data of the first scan."""
    return max(content.find(b"\xff\xda"), 2)


def resize(content: bytearray, height: int, width: int) -> None:
    """Announce another size."""
    places = [content.find(bytes((0xFF, marker, 0, length))) for marker in (0xC0, 0xC2) for length in (11, 17, 20)]
    for place in places:
        if 0 <= place < len(content) - 9:
            content[place + 5 : place + 9] = height.to_bytes(2) + width.to_bytes(2)


@cache
def decoders() -> list[Decoder]:
    """Those that are installed."""
    found = []
    for name in ("torchvision", "turbojpeg", "nvimgcodec"):
        with suppress(ConfigError):
            found.append(open_decoder(name))
    return found


def jpeg_item(seed: int) -> str:
    """One JPEG through all decoders."""
    rng = generator("fuzz", seed)
    data = mutated(seeds()[int(rng.integers(len(seeds())))], rng)
    split = Split(OneImage(np.frombuffer(data, dtype=np.uint8).copy()), np.zeros(1, dtype=np.int64))
    found = []
    for decoder in decoders():
        source = ImageSource(split, 64, "crop_flip", seed, crop_min_area=0.08, decoder=decoder)
        found += [outcome(partial(source.fetch, np.zeros(1, dtype=np.int64), epoch)) for epoch in (0, None)]
    return "/".join(found)


@cache
def sound_shards() -> Path:
    """A folder of shards of noise, which lives as long as the child."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for number, data in enumerate(seeds()[:12] * 2):
        folder = root / "images" / ("train" if number < 18 else "val") / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(data)
    convert(str(root / "images"), str(root / "sound"), Settings(shard_size=20_000), threads=1, listener=lambda _: None)
    return root


def shards_item(seed: int) -> str:
    """One folder of shards with a damaged file or two: opened, every image read, verified."""
    rng = generator("fuzz shards", seed)
    root = sound_shards()
    folder = root / "mutated"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / "sound", folder)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    # An index of these few files would be damaged too seldom.
    files += [folder / "index.json"] * 2
    for place in rng.integers(0, len(files), rng.integers(1, 3)).tolist():
        damage(files[place], rng)
    found = [
        outcome(lambda: verify(str(folder), threads=1, listener=lambda _: None)),
        outcome(lambda: open_index(str(folder))),
    ]
    if found[-1] == "error":
        return "/".join(found)
    index = open_index(str(folder))
    for split in (index.train, index.val):
        source = ImageSource(split, 32, "crop", seed, quarantine=Quarantine(split, 4))
        ids = np.arange(len(split))
        found += [outcome(partial(source.fetch, ids, 0)), outcome(partial(source.fetch_sound, ids))]
    return "/".join(found)


def damage(path: Path, rng: Rng) -> None:
    """Flip bits, cut, or zero a range."""
    content = bytearray(path.read_bytes())
    start, stop = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    kind = int(rng.integers(3))
    if kind == 0 and content:
        for place in rng.integers(0, len(content), rng.integers(1, 9)).tolist():
            content[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del content[stop:]
    else:
        content[start:stop] = bytes(stop - start)
    path.write_bytes(content)


def outcome(work: Callable[[], object]) -> str:
    """`sound`, or `error` for one line of the family; anything else is raised."""
    try:
        work()
    except DataError as error:
        if "\n" not in str(error):
            return "error"
        raise
    return "sound"


ITEMS: dict[str, Run] = {"jpegs": jpeg_item, "shards": shards_item}


def child(kind: str, connection: Connection) -> None:
    """Do the items whose seeds come in, and say how each went."""
    # libjpeg and nvImageCodec say on stderr what is wrong with each.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    while (seed := connection.recv()) is not None:
        try:
            connection.send(ITEMS[kind](seed))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            connection.send(f"VIOLATION {type(error).__name__}: {error}")
    if kind == "shards":
        shutil.rmtree(sound_shards())


class Watch:
    """A child, its items one after the other, and its limits."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.most_bytes = 0
        self.longest_s = 0.0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=child, args=(self.kind, theirs))
        self.process.start()
        theirs.close()
        # The first item pays for imports and seeds.
        self.connection.send(0)
        self.connection.recv()
        self.before = psutil.Process(self.process.pid).memory_info().rss

    def item(self, seed: int) -> str:
        """How one item went; VIOLATION and what it was."""
        began = time.monotonic()
        self.connection.send(seed)
        found = None
        while found is None and not self.connection.poll(0.02):
            grown = psutil.Process(self.process.pid).memory_info().rss - self.before
            self.most_bytes = max(self.most_bytes, grown)
            if grown > LIMIT_BYTES:
                found = f"VIOLATION {grown >> 20} MB of memory"
            elif time.monotonic() - began > LIMIT_S:
                found = f"VIOLATION no end after {LIMIT_S:.0f} s"
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        if found is None:
            try:
                return str(self.connection.recv())
            except (EOFError, ConnectionError):
                self.process.join()
                found = f"VIOLATION the process ended with {self.process.exitcode}"
        self.process.kill()
        self.process.join()
        self._start()
        return found

    def close(self) -> None:
        """End the child."""
        self.connection.send(None)
        self.process.join()


def fuzz(kind: str, first: int, count: int) -> int:
    """Run items; prints what came of them; the number of violations."""
    watch, outcomes, violations = Watch(kind), Counter[str](), 0
    began = printed = time.monotonic()
    for seed in range(first, first + count):
        found = watch.item(seed)
        if found.startswith("VIOLATION"):
            violations += 1
            print(f"{kind} seed {seed}: {found}", flush=True)
        outcomes[found.partition(" ")[0]] += 1
        if time.monotonic() - printed > 20:
            printed = time.monotonic()
            left = (printed - began) / (seed + 1 - first) * (first + count - seed - 1)
            print(f"{kind}: {seed + 1 - first} of {count} [about {left / 60:.0f} min left]", flush=True)
    watch.close()
    print(f"{kind}: {count} items in {time.monotonic() - began:.0f} s, {violations} violations")
    print(f"  most resident memory +{watch.most_bytes >> 20} MB, longest item {watch.longest_s:.2f} s")
    print(f"  {json.dumps(dict(outcomes.most_common(12)))}", flush=True)
    return violations


def main() -> int:
    """JPEGs, then shards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jpegs", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=1_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first item of each")
    arguments = parser.parse_args()
    return 1 if sum(fuzz(kind, arguments.first, getattr(arguments, kind)) for kind in ITEMS) else 0


if __name__ == "__main__":
    sys.exit(main())
