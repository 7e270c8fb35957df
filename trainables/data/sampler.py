"""Which samples make up step k: one endless stream of shuffled epochs, cut into batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainables.errors import DataError, complaint
from trainables.rng import generator

IntArray = NDArray[np.int64]


class EpochSampler:
    """Sample ids of every step, by random access.

    Position p of the stream (p = step * global_batch_size + place in the batch) is sample p mod n of the permutation
    of epoch p // n, keyed by (seed, epoch) only: trials that differ in batch size see the same samples at the same
    positions, and world size and loader threads play no part. Batches run across epoch borders; none is dropped.

    Args:
        num_samples: samples of the training split.
        global_batch_size: samples of one step over all workers.
        seed: keys the order, with the epoch.

    Raises:
        DataError: the batch is larger than the data set.

    """

    def __init__(self, num_samples: int, global_batch_size: int, seed: int) -> None:
        if not 1 <= global_batch_size <= num_samples:
            allowed = f"1 to the {num_samples} samples of the training split"
            raise DataError(complaint("global_batch_size", global_batch_size, allowed, "lower global_batch_size"))
        self.num_samples = num_samples
        self.global_batch_size = global_batch_size
        self.seed = seed
        self._orders: dict[int, IntArray] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every sample has been seen once, rounded up."""
        return -(-self.num_samples // self.global_batch_size)

    def epoch(self, step: int) -> int:
        """Epoch of the first sample of a step."""
        return step * self.global_batch_size // self.num_samples

    def epochs(self, step: int) -> IntArray:
        """Epoch of each sample of a step: int64 [global_batch_size]."""
        return self._positions(step) // self.num_samples

    def sample_ids(self, step: int) -> IntArray:
        """Samples of a step: int64 [global_batch_size]."""
        positions = self._positions(step)
        places = positions % self.num_samples
        first, last = self.epoch(step), int(positions[-1]) // self.num_samples
        ids = self._order(first)[places]
        if first != last:
            # A batch is at most one epoch long, so it touches two epochs at most.
            crossed = positions // self.num_samples == last
            ids[crossed] = self._order(last)[places[crossed]]
        return ids

    def _positions(self, step: int) -> IntArray:
        start = step * self.global_batch_size
        return np.arange(start, start + self.global_batch_size, dtype=np.int64)

    def _order(self, epoch: int) -> IntArray:
        """Permutation of an epoch: int64 [num_samples]; the last two that were asked for are kept."""
        orders = self._orders
        if epoch not in orders:
            order = generator(self.seed, "order", epoch).permutation(self.num_samples)
            # A new dict in one assignment, never a change in place, needs no lock: a thread that reads the old one
            # computes the same values again at worst.
            orders = self._orders = dict([*list(orders.items())[-1:], (epoch, order)])
        return orders[epoch]
