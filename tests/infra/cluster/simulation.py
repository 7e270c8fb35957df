"""The whole of it: a network, simulated AWS with accounts, its machines, and a laptop."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.infra.cluster import bridge
from tests.infra.cluster.accounts import make_keys
from tests.infra.cluster.cloud import ANYONE, REGION, Keys, Machines, Server
from tests.infra.cluster.config import write_simulated
from tests.infra.cluster.laptop import Laptop

CLUSTER = "simulated"
BUCKET = "epoch14-results"
PATH = "/home/ubuntu/epoch14/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = {
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "300",
}
"""For Ray's own processes, of which a dozen nodes start a hundred on one machine."""
LOCK = Path(tempfile.gettempdir(), "epoch14-bridge.lock")


@dataclass(frozen=True)
class Simulation:
    """What a test may want of it."""

    folder: Path
    keys: Mapping[str, Keys]
    """Of owner, operator, head and worker."""
    machines: Machines
    laptop: Laptop
    file: Path
    """The cluster's YAML."""


def why_not() -> str:
    """Why it can't be run here; empty if it can."""
    if Path(sys.prefix).resolve().is_relative_to("/home"):
        return "the environment lies below /home, which nodes have of their own"
    return bridge.why_not()


@contextlib.contextmanager
def simulation(folder: Path, environment: Mapping[str, str]) -> Iterator[Simulation]:
    """Set it up, with `environment` on every node; at the end nothing of it is left."""
    with contextlib.ExitStack() as stack:
        # There is one bridge of that name.
        lock = stack.enter_context(LOCK.open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        stack.callback(bridge.clear)
        bridge.raise_bridge()
        server = Server(folder / "moto.log")
        stack.callback(server.end)
        server.start()
        for profile in ("epoch14-head", "epoch14-worker"):
            ANYONE.client("iam").create_instance_profile(InstanceProfileName=profile)
        place = {"LocationConstraint": REGION}
        ANYONE.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
        keys = make_keys(ANYONE)
        common = {**environment, **PATIENCE, "PATH": PATH, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        nodes = {name: common | keys[name].environment for name in ("head", "worker")}
        machines = Machines(keys["owner"], folder / "nodes", Path(sys.prefix).resolve(), nodes)
        stack.callback(machines.end)
        machines.start()
        laptop = Laptop(folder / "laptop", keys["operator"])
        yield Simulation(folder, keys, machines, laptop, write_simulated(folder, CLUSTER))
