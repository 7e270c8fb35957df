"""Start Ray or join it, and disarm what is dangerous in it; infra/ray_local.py knows what is new in which Ray.

Ray 2.54.1 carries CVE-2026-41486: four Arrow extension types that it registers run a pickle out of any Parquet file
that names them, and in 2.60 one still does. `disarm_arrow_types` takes them out of the registry and puts inert ones in
their place; the driver, the Tune actor and each Train worker call it before they read anything.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from infra.ray_capacity import Capacity, Need, capacity, check_cpus, check_gpus, check_nodes
from infra.ray_local import IN_PROCESS, in_local_mode
from trainables.errors import ClusterError, ConfigError, complaint

ARROW_TYPES = (
    "ray.data.arrow_tensor",
    "ray.data.arrow_tensor_v2",
    "ray.data.arrow_variable_shaped_tensor",
    "ray.data.arrow_pickled_object",
)
ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Train V2, polled 5 times a second; rows hold lists, which Tune's CSV and TensorBoard loggers can't write; Tune's own
tables off; relative paths keep their meaning; CPU trials keep CUDA_VISIBLE_DEVICES, without a warning."""
OBJECT_STORE_BYTES = 256 * 2**20
"""Rows and code are all that passes through it."""
STATE_API_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 5.0
SLOW_START = "timed out during startup"
"""In what Ray raises, a plain Exception, on a machine that is too busy."""
DRIVER_RESOURCE = "trial_driver"
HEAD_RESOURCE = "node:__internal_head__"


@dataclass(frozen=True)
class Cluster:
    """What the Ray in use has."""

    local_mode: bool
    capacity: Capacity
    driver_resource: dict[str, float]
    """What a driver of a worker group asks for: a place on the head that takes no CPU from the workers."""


def prepare_environment() -> None:
    """Set what Ray reads from the environment, where the user has not; call it before Ray is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def disarm_arrow_types() -> None:
    """Make Ray's four pickling Arrow types inert in this process, also against a later import of Ray (idempotent)."""
    import pyarrow as pa

    for name in ARROW_TYPES:
        with contextlib.suppress(pa.ArrowKeyError):
            pa.unregister_extension_type(name)
        pa.register_extension_type(_inert_type(name))


@contextlib.contextmanager
def ray_session(*, local: bool, address: str | None, need: Need) -> Iterator[Cluster]:
    """A Ray to run trials on: the caller's, the one at `address`, or one started here and shut down at the end.

    Raises ConfigError where the Ray in use can't run a trial that needs `need`, ClusterError where none can be reached.
    """
    prepare_environment()
    import ray

    disarm_arrow_types()
    if ray.is_initialized():
        _check_callers_ray(local=local, address=address)
        yield _checked(need)
        return
    address = address or os.environ.get("RAY_ADDRESS")
    with _without_resource_warnings():
        if local:
            _check_local(need.workers)
            check_gpus(need, _machine_gpus(), "this machine")
            # No trial uses it, so it offers nothing, for which it would start processes.
            _init(address="local", include_dashboard=False, num_cpus=0, num_gpus=0, namespace=IN_PROCESS)
        elif address:
            _join(address)
        else:
            check_cpus(need, _machine_cpus(), _machine_cpus(), "this machine")
            check_gpus(need, _machine_gpus(), "this machine")
            check_nodes(need, 1, "this machine")
            _start(dashboard=need.workers > 1)
    try:
        yield _checked(need)
    finally:
        with _without_resource_warnings():
            ray.shutdown()


def tell_address_to_train() -> None:
    """Give the worker groups that this process starts the address of their own Ray.

    The actor that frees a dead group's CPUs asks the State API, and looks for it by the names of processes: where two
    Rays run on one machine it finds two, gives up, and the next trial waits for ever.
    """
    import ray
    from ray.train.v2._internal import constants

    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    constants.ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")


def _check_callers_ray(*, local: bool, address: str | None) -> None:
    if address:
        allowed = "none, for Ray runs in this process already"
        raise ConfigError(complaint("address", address, allowed, "drop it, or call ray.shutdown() first"))
    if local and not in_local_mode():
        allowed = "False, for Ray runs in this process already and not in local mode"
        raise ConfigError(complaint("local", local, allowed, "drop it, or call ray.shutdown() first"))


def _check_local(workers: int) -> None:
    if workers > 1:
        remedy = "drop --local, or set resources.workers=1"
        raise ConfigError(complaint("resources.workers", workers, "1 in local mode, which is one process", remedy))


def _start(*, dashboard: bool) -> None:
    """Start Ray on this machine; the dashboard, which worker groups need and which takes 10 s, only for them."""
    import ray

    if dashboard and importlib.util.find_spec("aiohttp_cors") is None:
        remedy = "install ray[default]: pip install -r requirements.lock"
        raise ClusterError(complaint("ray", ray.__version__, "a Ray with its State API (the extra `default`)", remedy))
    # Without an address Ray would join whatever cluster this machine happens to run.
    _init(address="local", include_dashboard=dashboard, num_cpus=_machine_cpus())


def _init(**options: Any) -> None:
    """Start a Ray; raises ClusterError where the machine is too busy for it."""
    import ray

    try:
        ray.init(**options, **_quiet_init())
    except Exception as error:
        if SLOW_START not in str(error):
            raise
        remedy = "try again when the machine is less busy"
        raise ClusterError(
            complaint("ray", "not started", "a Ray that is up after 30 s, its own limit", remedy)
        ) from None


def _quiet_init() -> dict[str, Any]:
    return {"logging_level": logging.ERROR, "log_to_driver": False, "object_store_memory": OBJECT_STORE_BYTES}


def _join(address: str) -> None:
    import ray

    try:
        if address != "auto":
            _knock(address)
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "start Ray there (ray start --head) or drop --address; from outside the cluster use epoch14 submit"
        allowed = f"HOST:6379 of a running Ray, or auto ({reason[:120]})"
        raise ClusterError(complaint("--address", address, allowed, remedy)) from None


def _knock(address: str) -> None:
    """Raise OSError or ValueError unless something listens there: Ray itself asks for minutes, and logs it."""
    if "://" in address:
        raise ValueError("a URL")
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()


@contextlib.contextmanager
def _without_resource_warnings() -> Iterator[None]:
    """Ray leaves its log files and child processes to the garbage collector."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ResourceWarning)
        yield


def _checked(need: Need) -> Cluster:
    """The initialised Ray, found able to run trials of that size."""
    cluster = _describe()
    if cluster.local_mode:
        _check_local(need.workers)
        return cluster
    most = cluster.capacity
    check_cpus(need, most.cpus, most.node_cpus, "the Ray in use")
    check_gpus(need, most.gpus, "the Ray in use")
    check_nodes(need, most.nodes, "the Ray in use")
    if need.workers > 1:
        _check_state_api()
    return cluster


def _describe() -> Cluster:
    import ray

    resources = ray.cluster_resources()
    local = in_local_mode()
    return Cluster(
        local_mode=local,
        capacity=Capacity() if local else capacity(),
        driver_resource={DRIVER_RESOURCE: 1} if DRIVER_RESOURCE in resources else {HEAD_RESOURCE: 0.001},
    )


def _check_state_api() -> None:
    """Train frees a stopped trial's CPUs by the State API; without it the next trial waits for ever."""
    import ray
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    try:
        list_nodes(ray.get_runtime_context().gcs_address, limit=1, timeout=STATE_API_TIMEOUT_S)
    except (RayStateApiException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        remedy = "install ray[default] on the head and start it with its dashboard, or set resources.workers=1"
        raise ClusterError(complaint("ray", reason, "a Ray whose State API answers", remedy)) from None


def _machine_cpus() -> int:
    """CPUs as Ray counts them: those of the container, where there is one."""
    from ray._private.utils import get_num_cpus

    return int(get_num_cpus())


def _machine_gpus() -> float:
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    return float(manager.get_current_node_num_accelerators()) if manager else 0.0


def _inert_type(name: str) -> Any:
    """An Arrow type of that name which does nothing with the metadata of the file that asks for it."""
    import pyarrow as pa

    class Inert(pa.ExtensionType):  # type: ignore[misc]
        def __init__(self, storage: Any) -> None:
            super().__init__(storage, name)

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Inert:
            return cls(storage)

    return Inert(pa.null())
