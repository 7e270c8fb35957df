"""What a batch of training images costs: our shards against torchvision's ImageFolder and other loaders.

    make bench-input ARGS="--blocks 12"
    make bench-input ARGS="--others DIR"

DIR keeps the other loaders, which uv installs where it is empty or missing; without it they go to a temporary folder. A
loader that can't be had is named as such, with the reason.

The baseline is torchvision's reference the way it is run: in a DataLoader with two worker processes, whose cost counts.
The table has it in one process too, which is cheaper, as nothing travels between processes.

Costs are CPU-seconds over all processes of an arm, each of which runs in a process of its own. Arms take turns, block
by block and in random order, which cancels what drifts: ratios are sound on a machine that others use too. Only the
scaling to two threads is of wall-clock time, and of blocks in which others used less than 5 % of the machine.
Two data sets: photos as they are (30 kB), and the same made as large as ImageNet's (110 kB, 468x401); or your own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks import input_arms, input_others  # noqa: E402 - after the path
from tests.benchmarks.input_arms import BATCH, BATCHES, LONG, SMALLER, Places, Run  # noqa: E402
from tests.benchmarks.input_resume import resume  # noqa: E402

PHOTOS = ROOT.parent / "shared" / "data" / "clothing" / "fullsize"
FORK = multiprocessing.get_context("fork")
BUSY = 0.05
"""Share of the machine that others may use in a block whose wall-clock time counts."""
FEWEST = 4
"""Blocks without which there is no wall-clock ratio."""
BASELINE, IN_PROCESS = "ImageFolder, 2 workers", "ImageFolder, in process"
DEFAULT, FAST, NVIDIA, FLOOR = "ours", "ours, fast", "ours, nvimgcodec", "region decode alone"
PROCESSES = f"{FAST}, 2 processes"
OTHERS = ("webdataset", "mosaicml-streaming", "Ray Data", "FFCV")


@dataclass(frozen=True)
class Cost:
    """Of one image in one block."""

    cpu: float
    """Seconds, over all processes of the arm."""
    wall: float
    """Seconds."""
    others: float
    """Share of the machine's CPU time that other processes used meanwhile."""


@dataclass(eq=False)
class Arm:
    """A loader in a process of its own; `gone` says why there is none."""

    name: str
    make: Callable[[], Run]
    blocks_at_once: int = 1
    gone: str = ""
    costs: dict[int, Cost] = field(default_factory=dict)
    process: multiprocessing.process.BaseProcess | None = None

    def start(self) -> None:
        """Make the loader and have it warm up."""
        if self.gone:
            return
        self.pipe, theirs = FORK.Pipe()
        self.process = FORK.Process(target=_serve, args=(self.make, theirs))
        self.process.start()
        theirs.close()
        self._run(0)

    def run(self, block: int) -> None:
        """Run a block, unless the loader is gone."""
        cost = None if self.gone else self._run(block)
        if cost is not None:
            self.costs[block] = cost

    def stop(self) -> None:
        """End the process."""
        if self.process is None:
            return
        if not self.gone:
            self.pipe.send(None)
        self.process.join(30)
        if self.process.is_alive():
            self.process.kill()

    def _run(self, block: int) -> Cost | None:
        try:
            self.pipe.send(block)
            answer = self.pipe.recv()
        except (EOFError, OSError):
            answer = "its process died"
        if isinstance(answer, str):
            self.gone = answer
            return None
        images = BATCH * BATCHES * self.blocks_at_once
        return Cost(answer.cpu / images, answer.wall / images, answer.others)


def _serve(make: Callable[[], Run], pipe: multiprocessing.connection.Connection) -> None:
    """Run the blocks that are asked for, until the other end closes."""
    import torch

    torch.set_num_threads(1)
    try:
        run = make()
        while (block := pipe.recv()) is not None:
            descendants, machine, own = _descendants(), _machine(), time.process_time()
            began = time.perf_counter()
            run(block)
            wall = time.perf_counter() - began
            own = time.process_time() - own
            used = _machine() - machine
            cpu = own + _descendants() - descendants
            pipe.send(Cost(cpu, wall, max(0.0, used - cpu) / (wall * psutil.cpu_count())))
    except ImportError as error:
        pipe.send(f"not installed ({error})")
    except Exception as error:  # noqa: BLE001 - another library's; the table says which
        pipe.send(f"failed: {type(error).__name__}: {error}"[:160])


def _descendants() -> float:
    """CPU-seconds of all processes below this one, dead ones included."""
    total = os.times().children_user + os.times().children_system
    for process in psutil.Process().children(recursive=True):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return float(total)


def _machine() -> float:
    """CPU-seconds that all processes have used."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def arms_of(places: Places, blocks: int, *, all_of_them: bool) -> list[Arm]:
    """The loaders of a data set."""
    shards = places.shards()
    reference = ((IN_PROCESS, 0), (BASELINE, 2))
    arms = [Arm(name, partial(input_arms.imagefolder, places.folder, workers)) for name, workers in reference]
    decoders = ((DEFAULT, "torchvision"), (FAST, "turbojpeg"))
    for name, decoder in (*decoders, (NVIDIA, "nvimgcodec")):
        arms += [Arm(f"{name}, {n} threads", partial(input_arms.ours, shards, decoder, n), LONG) for n in (1, 2)]
    if not all_of_them:
        return arms
    arms.append(Arm(PROCESSES, partial(input_arms.in_processes, shards, "turbojpeg", 2), LONG))
    arms.append(Arm(FLOOR, partial(input_arms.region_floor, shards, blocks + 1)))
    for name, decoder in decoders:
        for short in SMALLER:
            make = partial(input_arms.ours, places.shards(short), decoder, 2)
            arms.append(Arm(f"{name}, short side {short}", make, LONG))
    for name, order in (("in file order", input_arms.in_file_order), ("random", input_arms.in_random_order)):
        ids_of = partial(_ids, order, blocks)
        arms.append(Arm(f"{DEFAULT}, {name}", partial(input_arms.ours, shards, "torchvision", 0, ids_of), LONG))
    others = (input_others.webdataset, input_others.streaming, input_others.ray_data, input_others.ffcv)
    for name, make_other in zip(OTHERS, others, strict=True):
        arms.append(Arm(name, partial(make_other, places), input_others.RAY_BLOCKS if name == "Ray Data" else 1))
    return arms


def _ids(order: Callable[[Any, int, int], np.ndarray], blocks: int, store: Any, block: int) -> np.ndarray:
    # Block 0 warms up.
    return order(store, max(block - 1, 0), blocks)


@contextmanager
def running(arms: list[Arm]) -> Iterator[None]:
    """Their processes."""
    for arm in arms:
        arm.start()
        print(f"  {arm.name}: {arm.gone or 'ready'}", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        for arm in arms:
            arm.stop()


def ratio(top: Arm, bottom: Arm, what: str = "cpu", *, idle: bool = False) -> tuple[float, float, float] | None:
    """Cost of `top` over that of `bottom`, with a 95 % interval over blocks; None where there is nothing to compare."""
    both = [(top.costs[block], bottom.costs[block]) for block in top.costs if block in bottom.costs]
    if idle:
        both = [pair for pair in both if max(cost.others for cost in pair) < BUSY]
    if len(both) < (FEWEST if idle else 1):
        return None
    pairs = np.array([[getattr(cost, what) for cost in pair] for pair in both])
    drawn = pairs[np.random.default_rng(0).integers(0, len(pairs), (4000, len(pairs)))].sum(axis=1)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return float(pairs[:, 0].sum() / pairs[:, 1].sum()), float(low), float(high)


def mean_cpu(arm: Arm) -> float:
    """CPU-seconds of an image."""
    return float(np.mean([cost.cpu for cost in arm.costs.values()])) if arm.costs else float("inf")


def measure(title: str, arms: list[Arm], blocks: int, end: float) -> dict[str, Arm]:
    """Run the arms in turns, at most until `end` (of time.monotonic), and print their costs."""
    order = random.Random(0)  # noqa: S311 - an order of turns
    print(f"{title}: starting {len(arms)} loaders", file=sys.stderr, flush=True)
    with running(arms):
        began = time.monotonic()
        for block in range(1, blocks + 1):
            order.shuffle(arms)
            for arm in arms:
                arm.run(block)
            each = (time.monotonic() - began) / block
            left = min(each * (blocks - block), end - time.monotonic())
            print(f"  block {block} of {blocks}, about {left:.0f} s left", file=sys.stderr, flush=True)
            if left < each:
                break
    found = {arm.name: arm for arm in arms}
    baseline = found[BASELINE]
    print(f"\n{title}; {block} blocks of {BATCH * BATCHES} images, of ours {LONG} times as many, {input_arms.SIDE} px")
    print(f"{'':32} {'ms CPU/image':>12} {'images/s/core':>14} {'x baseline':>11} {'95 % interval':>16}")
    for arm in sorted(arms, key=mean_cpu):
        over = ratio(baseline, arm)
        if arm.gone or over is None:
            print(f"{arm.name:32} {arm.gone}")
            continue
        cpu = mean_cpu(arm)
        print(f"{arm.name:32} {cpu * 1e3:12.3f} {1 / cpu:14.0f} {over[0]:11.2f} {over[1]:9.2f} to {over[2]:.2f}")
    return found


class Verdicts:
    """Compares figures with targets."""

    def __init__(self) -> None:
        self.missed = 0

    def say(self, what: str, least: float | None, found: tuple[float, float, float] | None, why: str = "") -> None:
        """Print one figure and its target, which it must reach; None: it has none."""
        target = "" if least is None else f"{least:.2f}"
        if found is None:
            print(f"{what:58} {target:>7}  not measured {why}")
            return
        missed = least is not None and found[0] < least
        self.missed += missed
        word = "" if least is None else "MISSED" if missed else "met"
        print(f"{what:58} {target:>7} {found[0]:8.2f}  ({found[1]:.2f} to {found[2]:.2f})  {word}")


def judge(arms: dict[str, Arm], verdicts: Verdicts) -> None:
    """The targets, which are of images of ImageNet's size."""
    baseline = arms[BASELINE]
    default, fast = arms[f"{DEFAULT}, 2 threads"], arms[f"{FAST}, 2 threads"]
    print(f"\n{'':58} {'target':>7} {'found':>8}")
    verdicts.say("default over ImageFolder, images/s/core", 2.1, ratio(baseline, default))
    verdicts.say("fast over ImageFolder", 2.75, ratio(baseline, fast))
    verdicts.say("fast over region decode alone", 0.7, ratio(arms[FLOOR], fast))
    smaller = [arms[f"{name}, short side {short}"] for name in (DEFAULT, FAST) for short in SMALLER]
    verdicts.say("re-encoded (the best) over ImageFolder", 5.0, ratio(baseline, min(smaller, key=mean_cpu)))
    best = min((default, fast), key=mean_cpu)
    for name in OTHERS:
        found = None if arms[name].gone else ratio(arms[name], best)
        verdicts.say(f"ours over {name}", 1.0, found, f"({arms[name].gone})")
    for name, least in ((DEFAULT, 1.75), (FAST, 1.9)):
        one, two = (arms[f"{name}, {n} threads"] for n in (1, 2))
        found = ratio(one, two, "wall", idle=True)
        verdicts.say(f"two threads over one, wall clock, {name}", least, found, "(others used the machine)")
    limit = ratio(arms[f"{FAST}, 1 threads"], arms[PROCESSES], "wall", idle=True)
    verdicts.say("two processes over this one thread: what the cores give", None, limit, "(others used the machine)")
    sequence, shuffled = arms[f"{DEFAULT}, in file order"], arms[f"{DEFAULT}, random"]
    verdicts.say("random over sequential access, images/s/core", 1 / 1.05, ratio(sequence, shuffled))


def main() -> int:
    """Write the data, run all, print the tables; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=PHOTOS, help="class folders of JPEG files")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=15, help="after which no block begins")
    parser.add_argument("--others", type=Path, help="where other loaders are, or are installed to")
    parser.add_argument("--without", nargs="*", default=[], help="names of other loaders")
    arguments = parser.parse_args()
    photos = input_arms.find_photos(arguments.data) if arguments.data.is_dir() else []
    if not photos:
        print(f"skipped: {arguments.data} has no JPEG files in class folders")
        return 0
    verdicts, end = Verdicts(), time.monotonic() + 60 * arguments.minutes
    milliseconds, reads = resume()
    print(f"resume at sample 1,000,000 of 1,280,000: {milliseconds:.1f} ms (target 50), {reads} reads (target 0)")
    verdicts.missed += milliseconds >= 50 or reads > 0
    own = arguments.data != PHOTOS
    with tempfile.TemporaryDirectory() as folder:
        input_others.install(arguments.others or Path(folder, "others"))
        plain, large = Places(Path(folder, "plain")), Places(Path(folder, "large"))
        print("writing the data", file=sys.stderr, flush=True)
        writer = FORK.Process(target=_write, args=(photos, plain, large, arguments.rows, own))
        writer.start()
        writer.join()
        assert writer.exitcode == 0
        few = arms_of(plain, arguments.blocks, all_of_them=own)
        found = measure(str(arguments.data), _chosen(few, arguments.without), arguments.blocks, end)
        if not own:
            many = arms_of(large, arguments.blocks, all_of_them=True)
            found = measure("photos of ImageNet's size", _chosen(many, arguments.without), arguments.blocks, end)
        judge(found, verdicts)
    return 1 if verdicts.missed else 0


def _chosen(arms: list[Arm], without: list[str]) -> list[Arm]:
    for arm in arms:
        arm.gone = "left out" if arm.name in without else ""
    return arms


def _write(photos: list[Path], plain: Places, large: Places, rows: int, own: bool) -> None:  # noqa: FBT001 - of a process
    input_arms.write_layouts(photos, plain, rows, others=own)
    if not own:
        input_arms.write_layouts(input_arms.like_imagenet(photos, large.root / "photos"), large, rows, others=True)


if __name__ == "__main__":
    sys.exit(main())
