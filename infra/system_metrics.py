"""How busy the machine of a trial is, among what the trial reports, so that MLflow's page of system metrics shows it.

MLflow's own monitor writes to the store from each process: it needs an address and a password there, a second writer
that no restore knows of, and 3 s of CPU for the import. These few numbers go the way of all others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

PREFIX = "system/"
"""MLflow shows metrics of this prefix on a page of their own, and knows the names."""
KEY = "system"
"""Key of a trial's row that holds them."""

Report = Callable[[dict[str, Any]], None]


class SystemSampler:
    """Samples the machine, at most once in `every_s` seconds; what is busy is the mean since the last sample."""

    def __init__(self, every_s: float) -> None:
        import psutil

        self._psutil = psutil
        self._every_s = every_s
        self._gpus = _open_gpus()
        self._next = time.monotonic()
        # The first answer of it means nothing.
        psutil.cpu_percent()

    def read(self) -> dict[str, float]:
        """Metric's name -> value; empty where it is too early for another sample."""
        now = time.monotonic()
        if now < self._next:
            return {}
        self._next = now + self._every_s
        memory = self._psutil.virtual_memory()
        values = {
            "cpu_utilization_percentage": self._psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
        }
        for index, gpu in enumerate(self._gpus):
            values |= {f"gpu_{index}_{name}": value for name, value in _read_gpu(gpu).items()}
        return {f"{PREFIX}{name}": round(value, 1) for name, value in values.items()}


def with_system_metrics(report: Callable[..., Any], every_s: float | None) -> Report:
    """`report`, whose rows hold the machine's numbers now and then; None: never."""
    if every_s is None:
        return report
    sampler = SystemSampler(every_s)

    def reporting(row: Mapping[str, Any]) -> None:
        report({**row, KEY: sampler.read()})

    return reporting


def _open_gpus() -> list[Any]:
    """NVML's handles of the machine's GPUs; none where it has no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _read_gpu(gpu: Any) -> dict[str, float]:
    """What NVML tells of a GPU; some tell less."""
    import pynvml

    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        busy = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
    except pynvml.NVMLError:
        return {}
    used = {"memory_usage_megabytes": memory.used / 1e6, "memory_usage_percentage": 100 * memory.used / memory.total}
    return used | {"utilization_percentage": float(busy)}
