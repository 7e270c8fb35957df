"""What a Ray has, with the nodes that its autoscaler may still start, and whether a trial fits.

A cluster that scales to nothing has no CPU while nothing runs, so only what it may start says what fits. `ray up`
leaves that on the head, where the driver of a submitted sweep runs; KubeRay keeps it in Kubernetes, out of reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from trainables.errors import ConfigError, complaint

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves the cluster's config on the head, complete with the CPUs and GPUs of each instance type."""


@dataclass(frozen=True)
class Need:
    """What one trial asks for."""

    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    placement: str = "pack"
    """Workers on as few nodes as there is room for (pack), on as many (spread), or on a node each (strict_spread)."""


@dataclass(frozen=True)
class Capacity:
    """Totals, and the largest node."""

    cpus: float = 0.0
    gpus: float = 0.0
    node_cpus: float = 0.0
    """CPUs of the largest node: a worker must fit on one."""
    nodes: float = 0.0
    """Nodes with CPUs."""

    @classmethod
    def of(cls, nodes: list[tuple[float, float, float]]) -> Capacity:
        """Of nodes in groups: (how many, CPUs of one, GPUs of one)."""
        nodes = [(count, cpus, gpus) for count, cpus, gpus in nodes if cpus > 0]
        return cls(
            cpus=sum(count * cpus for count, cpus, _ in nodes),
            gpus=sum(count * gpus for count, _, gpus in nodes if gpus),
            node_cpus=max((cpus for _, cpus, _ in nodes), default=0.0),
            nodes=sum(count for count, _, _ in nodes),
        )

    def largest(self, other: Capacity) -> Capacity:
        """The larger of each."""
        return Capacity(
            max(self.cpus, other.cpus),
            max(self.gpus, other.gpus),
            max(self.node_cpus, other.node_cpus),
            max(self.nodes, other.nodes),
        )


ANYTHING = Capacity(math.inf, math.inf, math.inf, math.inf)


def capacity() -> Capacity:
    """Of the initialised Ray."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    there = Capacity.of([(1, node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive])
    return there.largest(_startable())


def check_cpus(need: Need, total: float, largest_node: float, where: str) -> None:
    """Raise ConfigError where a trial would wait for CPUs for ever."""
    key, remedy = "resources.cpus_per_worker", "lower resources.cpus_per_worker or resources.workers"
    if need.cpus_per_worker > largest_node:
        allowed = f"at most {largest_node:g}, the CPUs of {where}"
        raise ConfigError(complaint(key, need.cpus_per_worker, allowed, f"set {key}={max(1, int(largest_node))}"))
    if need.workers * need.cpus_per_worker > total:
        allowed = (
            f"at most {int(total / need.workers)} with resources.workers={need.workers}: {where} has {total:g} CPUs"
        )
        raise ConfigError(complaint(key, need.cpus_per_worker, allowed, remedy))


def check_gpus(need: Need, total: float, where: str) -> None:
    """Raise ConfigError where a trial would wait for GPUs for ever."""
    if need.workers * need.gpus_per_worker > total:
        allowed = f"at most {total / need.workers:g} with resources.workers={need.workers}: {where} has {total:g} GPUs"
        remedy = f"set resources.gpus_per_worker={total / need.workers:g}"
        raise ConfigError(complaint("resources.gpus_per_worker", need.gpus_per_worker, allowed, remedy))


def check_nodes(need: Need, total: float, where: str) -> None:
    """Raise ConfigError where a trial whose workers want a node each would wait for nodes for ever."""
    if need.placement == "strict_spread" and need.workers > total:
        allowed = f"pack or spread with resources.workers={need.workers}: {where} has {total:g} node(s)"
        raise ConfigError(complaint("resources.placement", need.placement, allowed, "set resources.placement=spread"))


def _startable() -> Capacity:
    """What the autoscaler of the initialised Ray may run at most; anything, where it doesn't say."""
    from ray._private.state import state
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    told = state.get_cluster_config()
    if told is not None:
        return Capacity.of(
            [
                (
                    math.inf if group.max_count < 0 else group.max_count,
                    group.resources.get("CPU", 0.0),
                    group.resources.get("GPU", 0.0),
                )
                for group in told.node_group_configs
            ]
        )
    if not is_autoscaler_v2(fetch_from_server=True):
        return Capacity()
    bootstrap = BOOTSTRAP.expanduser()
    return bootstrapped(bootstrap.read_text(encoding="utf-8")) if bootstrap.is_file() else ANYTHING


def bootstrapped(text: str) -> Capacity:
    """What the cluster of a bootstrap config may run at most."""
    cluster = yaml.safe_load(text)
    kinds = [kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]]
    most = float(cluster["max_workers"])
    groups = [
        (
            min(most, kind.get("max_workers", most)),
            kind["resources"].get("CPU", 0.0),
            kind["resources"].get("GPU", 0.0),
        )
        for kind in kinds
    ]
    whole = Capacity.of(groups)
    return Capacity(
        min(whole.cpus, most * whole.node_cpus),
        min(whole.gpus, most * max((gpus for _, _, gpus in groups), default=0.0)),
        whole.node_cpus,
        min(whole.nodes, most),
    )
