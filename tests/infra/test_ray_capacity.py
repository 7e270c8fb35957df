"""The Ray in use has what a trial needs, or one line says what is missing."""

from __future__ import annotations

import math

import pytest

from infra.ray_capacity import Capacity, Need, bootstrapped, check_cpus, check_gpus, check_nodes
from trainables.errors import ConfigError


def test_cpus_that_no_node_has() -> None:
    """A worker that fits on no node is refused by name, where Ray would let it wait for ever."""
    with pytest.raises(ConfigError, match=r"resources\.cpus_per_worker: 4 is not allowed.*at most 2.*of this machine"):
        check_cpus(Need(cpus_per_worker=4), total=16, largest_node=2, where="this machine")


def test_workers_that_do_not_fit_together() -> None:
    """Workers that fit one by one, but not all at once, are refused with the share that would fit."""
    need = Need(workers=3, cpus_per_worker=2)
    with pytest.raises(ConfigError, match=r"at most 1 with resources\.workers=3"):
        check_cpus(need, total=4, largest_node=2, where="the Ray in use")
    check_cpus(need, total=6, largest_node=2, where="the Ray in use")


def test_gpus_that_are_not_there() -> None:
    """GPUs that nobody has are refused by name; none asked for is always fine."""
    with pytest.raises(ConfigError, match=r"resources\.gpus_per_worker: 1 is not allowed.*has 0 GPUs"):
        check_gpus(Need(gpus_per_worker=1), total=0, where="this machine")
    check_gpus(Need(), total=0, where="this machine")


def test_workers_that_want_a_node_each() -> None:
    """Only strict_spread needs as many nodes as workers."""
    with pytest.raises(ConfigError, match=r"resources\.placement: 'strict_spread' is not allowed.*has 1 node"):
        check_nodes(Need(workers=2, placement="strict_spread"), total=1, where="this machine")
    for placement in ("pack", "spread"):
        check_nodes(Need(workers=2, placement=placement), total=1, where="this machine")
    check_nodes(Need(workers=2, placement="strict_spread"), total=2, where="the Ray in use")


BOOTSTRAP = """\
max_workers: {max_workers}
head_node_type: head
available_node_types:
  head: {{resources: {{CPU: 0, trial_driver: 16}}, max_workers: 0}}
  on_demand: {{resources: {{CPU: 48, GPU: 4}}, max_workers: 2}}
  spot: {{resources: {{CPU: 96, GPU: 8}}, max_workers: 8}}
"""


def test_what_a_cluster_may_start_counts() -> None:
    """A cluster of `ray up` that runs nothing has what its node types may bring, as far as max_workers goes."""
    assert bootstrapped(BOOTSTRAP.format(max_workers=20)) == Capacity(
        cpus=2 * 48 + 8 * 96, gpus=2 * 4 + 8 * 8, node_cpus=96, nodes=10
    )
    assert bootstrapped(BOOTSTRAP.format(max_workers=3)) == Capacity(cpus=3 * 96, gpus=3 * 8, node_cpus=96, nodes=3)


def test_a_head_without_cpus_is_no_node_for_workers() -> None:
    """Nodes count where they have CPUs; the largest of each of two capacities counts."""
    there = Capacity.of([(1, 0, 0), (2, 4, 0)])
    assert there == Capacity(cpus=8, gpus=0, node_cpus=4, nodes=2)
    assert there.largest(Capacity(cpus=4, gpus=1, node_cpus=16, nodes=1)) == Capacity(8, 1, 16, 2)
    assert Capacity.of([(math.inf, 4, 0)]) == Capacity(math.inf, 0, 4, math.inf)
