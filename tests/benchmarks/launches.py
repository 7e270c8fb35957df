"""What decoding costs the thread that launches kernels: in threads of its process, and in a process beside it.

    make bench-launches ARGS="--rounds 10 --threads 2"

That thread does short work in Python and lets go of Python's lock after each piece, as a call into CUDA does; it has
the lock again when the threads that decode give it. Pieces a second, the longest wait for twenty of them and images a
second are printed for no decoding, threads and a process: medians of rounds that take turns, and the best round, which
is the one that other programs disturbed least. The launching thread has a core that no thread that decodes may use, so
that only the lock is between them.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from trainables.data.images import ImageSource  # noqa: E402 - after the path
from trainables.data.index import open_index  # noqa: E402
from trainables.data.loader_process import LoaderProcess  # noqa: E402

PHOTOS = ROOT.parent / "shared" / "data" / "clothing" / "160px"
BATCH = 32
CORES = sorted(os.sched_getaffinity(0))
Round = tuple[float, float, float]
"""Launches a second, the longest wait for twenty of them in ms, images a second."""


def launch(seconds: float) -> tuple[float, float]:
    """Launches a second, and the longest wait for twenty of them in ms."""
    small = torch.zeros(8)
    count, longest = 0, 0.0
    began = before = time.perf_counter()
    while before - began < seconds:
        for _ in range(20):
            # Each lets go of the lock for the time of a launch, about 5 us.
            small.add_(1.0)
        time.sleep(0)
        now = time.perf_counter()
        longest, before = max(longest, now - before), now
        count += 20
    return count / (before - began), longest * 1e3


def one_round(source: ImageSource | None, threads: int, seconds: float) -> Round:
    """Launch while `threads` fetch one batch after the other; no source: alone."""
    stopped, images = threading.Event(), [0] * threads

    def fetch(number: int) -> None:
        # Who only waits holds the lock for moments, and must not be held up by who decodes while it has it.
        os.sched_setaffinity(0, CORES if source is None or source.helper else CORES[1:])
        rng = np.random.default_rng(number)
        while source is not None and not stopped.is_set():
            source.fetch(rng.integers(0, len(source.split), BATCH), 0)
            images[number] += BATCH

    workers = [threading.Thread(target=fetch, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    began = time.perf_counter()
    rate, longest = launch(seconds)
    stopped.set()
    for worker in workers:
        worker.join()
    return rate, longest, sum(images) / (time.perf_counter() - began)


def main() -> int:
    """Take turns, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a round")
    parser.add_argument("--data", default=str(PHOTOS) if PHOTOS.is_dir() else "digits")
    arguments = parser.parse_args()
    if len(CORES) == 1:
        print("it takes two cores")
        return 2
    torch.set_num_threads(1)
    plain = ImageSource(open_index(arguments.data).train, 128, "crop_flip", 0)
    with LoaderProcess({"train": plain}, arguments.threads) as helper:
        helped = replace(plain, helper=helper)
        os.sched_setaffinity(0, CORES[1:])
        helped.fetch(np.arange(2), 0)
        os.sched_setaffinity(0, CORES[:1])
        ways: dict[str, Callable[[], Round]] = {
            "nothing": lambda: one_round(None, arguments.threads, arguments.seconds),
            "threads": lambda: one_round(plain, arguments.threads, arguments.seconds),
            "process": lambda: one_round(helped, arguments.threads, arguments.seconds),
        }
        found: dict[str, list[Round]] = {way: [] for way in ways}
        for _ in range(arguments.rounds):
            for way, run in ways.items():
                found[way].append(run())
    print(f"{'decoding':9} {'launches/s':>11} {'best':>8} {'best of alone':>14} {'longest wait':>13} {'images/s':>9}")
    alone = max(one[0] for one in found["nothing"])
    for way, rounds in found.items():
        rate, longest, images = (median(values) for values in zip(*rounds, strict=True))
        best = max(one[0] for one in rounds)
        print(f"{way:9} {rate:11.0f} {best:8.0f} {best / alone:14.2f} {longest:10.1f} ms {images:9.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
