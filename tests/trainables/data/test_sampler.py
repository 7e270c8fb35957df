"""Which samples make up step k."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from trainables.data.sampler import EpochSampler
from trainables.errors import DataError


def stream(sampler: EpochSampler, positions: int) -> np.ndarray:
    """The first samples of the stream, in order."""
    steps = -(-positions // sampler.global_batch_size)
    return np.concatenate([sampler.sample_ids(step) for step in range(steps)])[:positions]


@pytest.mark.parametrize("batch", [1, 7, 8, 32, 100])
def test_a_position_is_the_same_sample_for_every_batch_size(batch: int) -> None:
    """Trials that differ in batch size only see the same samples at the same stream positions."""
    np.testing.assert_array_equal(stream(EpochSampler(100, batch, 3), 450), stream(EpochSampler(100, 10, 3), 450))


def test_every_epoch_holds_each_sample_once() -> None:
    """Batches run across the border of epochs and drop nothing."""
    ids = stream(EpochSampler(103, 32, 0), 103 * 4).reshape(4, 103)
    for epoch in ids:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(103))


def test_epochs_and_seeds_differ_in_order() -> None:
    """No two of (seed, epoch) share their permutation."""
    orders = [stream(EpochSampler(100, 10, seed), 300).reshape(3, 100)[epoch] for seed in (0, 1) for epoch in range(3)]
    assert len({order.tobytes() for order in orders}) == 6


def test_epochs_name_the_epoch_of_each_sample() -> None:
    """In a batch across the border the first samples are of the old epoch and the rest of the new one."""
    sampler = EpochSampler(10, 4, 0)
    assert sampler.epochs(2).tolist() == [0, 0, 1, 1]
    assert [sampler.epoch(step) for step in range(6)] == [0, 0, 0, 1, 1, 2]
    assert sampler.steps_per_epoch == 3


def test_access_is_random() -> None:
    """Step k is the same whichever steps were asked for before, forwards, backwards and far away."""
    forwards = EpochSampler(50, 8, 1)
    expected = {step: forwards.sample_ids(step) for step in range(40)}
    jumping = EpochSampler(50, 8, 1)
    jumping.sample_ids(10**9)
    for step in reversed(range(40)):
        np.testing.assert_array_equal(jumping.sample_ids(step), expected[step])


def test_memory_does_not_grow_with_epochs() -> None:
    """At most two permutations are kept."""
    sampler = EpochSampler(20, 6, 0)
    for step in range(100):
        sampler.sample_ids(step)
        assert len(sampler._orders) <= 2


def test_threads_get_what_one_thread_gets() -> None:
    """Eight threads around epoch borders agree with a fresh sampler each."""
    shared = EpochSampler(30, 7, 5)
    steps = [step for _ in range(20) for step in range(30)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(shared.sample_ids, steps))
    expected = [EpochSampler(30, 7, 5).sample_ids(step) for step in range(30)] * 20
    np.testing.assert_array_equal(np.stack(found), np.stack(expected))


def test_a_batch_of_the_whole_data_set_is_allowed() -> None:
    """The largest batch is one epoch."""
    sampler = EpochSampler(12, 12, 0)
    assert sorted(sampler.sample_ids(5).tolist()) == list(range(12))


def test_a_batch_larger_than_the_data_set_is_an_error() -> None:
    """One line names the key, the value, what is allowed and the remedy."""
    message = r"^global_batch_size: 13 is not allowed; allowed: 1 to the 12 samples .*; remedy: "
    with pytest.raises(DataError, match=message):
        EpochSampler(12, 13, 0)


def test_it_survives_pickling() -> None:
    """A sampler may travel to another process."""
    sampler = EpochSampler(12, 5, 0)
    expected = sampler.sample_ids(3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(sampler)).sample_ids(3), expected)  # noqa: S301
