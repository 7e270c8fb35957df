"""Ray: its version against the lock's, and whether it starts here, or is where the sweep will look for it."""

from __future__ import annotations

import os
import time

from infra.installation.findings import of_error, ok
from infra.installation.packages import own_lock, pinned, remedy
from infra.installation.wanted import Wanted
from infra.job_server import client_errors, open_job_server, refusal
from infra.ray_capacity import Need
from infra.ray_runtime import Cluster, ray_session
from trainables.data.doctor.finding import Finding
from trainables.errors import ClusterError, Epoch14Error


def check(wanted: Wanted) -> list[Finding]:
    """Whether a trial of the sweep finds its Ray."""
    import ray

    lock = own_lock()
    locked = pinned(lock).get("ray")
    found = []
    if locked and ray.__version__ != locked:
        summary = f"Ray {ray.__version__} is installed; the lock has {locked}"
        found.append(Finding("ray", "warning", summary, remedy(lock)))
    address = wanted.address or os.environ.get("RAY_ADDRESS")
    try:
        if address and "://" in address and not address.startswith("ray://"):
            return [*found, _job_server(address, ray.__version__)]
        return [*found, _session(wanted, address)]
    except Epoch14Error as error:
        return [*found, of_error("ray", error)]


def _session(wanted: Wanted, address: str | None) -> Finding:
    import ray

    need = Need(wanted.workers, wanted.cpus_per_worker, wanted.gpus_per_worker, wanted.placement)
    started = time.monotonic()
    try:
        with ray_session(local=False, address=address, need=need) as cluster:
            seconds = time.monotonic() - started
            where = f"at {ray.get_runtime_context().gcs_address}" if address else f"started here in {seconds:.0f} s"
            return ok("ray", f"Ray {ray.__version__} {where}: {_size(cluster)}")
    except Epoch14Error:
        raise
    except Exception as error:  # noqa: BLE001 - Ray's start fails in many ways, and each is the finding
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        summary = f"Ray {ray.__version__} does not start: {reason}"
        return Finding("ray", "error", summary, "see /tmp/ray/session_latest/logs")


def _size(cluster: Cluster) -> str:
    most = cluster.capacity
    nodes = "1 node" if most.nodes == 1 else f"{most.nodes:g} nodes"
    return f"{nodes}, {most.cpus:g} CPUs, {most.gpus:g} GPUs"


def _job_server(address: str, here: str) -> Finding:
    """A cluster that takes jobs over HTTP, whose Ray may be another."""
    client = open_job_server(address)
    try:
        there = client._do_request("GET", "/api/version").json()["ray_version"]  # noqa: SLF001 - no public way tells it
    except client_errors() as error:
        raise ClusterError(refusal(address, error)) from None
    same = "as here" if there == here else f"here {here}, which does for jobs"
    return ok("ray", f"the cluster at {address} takes jobs: Ray {there}, {same}")
