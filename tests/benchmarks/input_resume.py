"""What it costs to go on in the middle of ImageNet: the samples of a step, and no data read for it."""

from __future__ import annotations

import time

import numpy as np

from trainables.data.sampler import EpochSampler
from trainables.data.shards.format import ShardFile
from trainables.data.shards.store import ShardStore
from trainables.data.store import Encoded

ROWS, SAMPLE, BATCH = 1_280_000, 1_000_000, 256
REPEATS = 20


class CountedStore(ShardStore):
    """Counts what is read of it."""

    reads = 0

    def read(self, place: int) -> Encoded:
        """As the store's own, counted."""
        CountedStore.reads += 1
        return super().read(place)


def synthetic_store() -> CountedStore:
    """A row table of ImageNet's size whose shards don't exist: a read of an image would fail."""
    places = np.arange(ROWS)
    shards = tuple(
        ShardFile(name=f"train-{i:05d}.arrow", rows=1750, bytes=192_500_000, checksum="") for i in range(732)
    )
    shard, offset = (places // 1750).astype(np.int32), places % 1750 * 110_000
    return CountedStore("/nowhere", shards, ("",) * ROWS, shard, offset, np.full(ROWS, 110_000))


def resume() -> tuple[float, int]:
    """Median milliseconds from a fresh sampler to where the images of the step at SAMPLE lie; reads meanwhile."""
    store = synthetic_store()
    seconds = []
    for seed in range(REPEATS):
        began = time.perf_counter()
        ids = EpochSampler(ROWS, BATCH, seed).sample_ids(SAMPLE // BATCH)
        located = [store.locate(place) for place in ids.tolist()]
        seconds.append(time.perf_counter() - began)
        assert len(set(located)) > 1
    return sorted(seconds)[REPEATS // 2] * 1e3, CountedStore.reads
