"""The Ray in use has what a trial needs, or one line says what is missing."""

from __future__ import annotations

import pytest

from infra.ray_runtime import Need, check_cpus, check_gpus
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
