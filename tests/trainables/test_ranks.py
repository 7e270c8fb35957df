"""Ranks take disjoint, equal shares, and a world of one is no special case. Two real ranks: test_trial.py."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from trainables.ranks import Ranks


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    """A real gloo group with this process in it."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_without_a_process_group_there_is_one_rank() -> None:
    """A plain `python` is rank 0 of 1."""
    assert Ranks.current() == Ranks(0, 1)


@pytest.mark.usefixtures("group_of_one")
def test_current_reads_the_process_group() -> None:
    """An initialised torch.distributed group is taken as it is."""
    assert Ranks.current() == Ranks(0, 1)


@pytest.mark.parametrize(("n", "world_size"), [(8, 1), (8, 2), (12, 3), (64, 8), (0, 4)])
def test_shares_are_a_partition_in_order(n: int, world_size: int) -> None:
    """The ranks' shares, one after the other, are the whole batch, each of the same size."""
    batch = list(range(n))
    shares = [batch[Ranks(rank, world_size).share(n)] for rank in range(world_size)]
    assert list(chain.from_iterable(shares)) == batch
    assert {len(share) for share in shares} == {n // world_size}


def test_sums_over_one_rank_change_nothing() -> None:
    """No collective is called where there is no group."""
    values = torch.tensor([1.5, -2.0], dtype=torch.float64)
    assert Ranks().sum(values) is values
    assert values.tolist() == [1.5, -2.0]
    assert Ranks().total(0.1) == 0.1
