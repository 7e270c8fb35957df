"""GPUs: the driver against torch's CUDA build, what this process may see, and how much memory is free."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from infra.installation.findings import ok
from infra.installation.wanted import Wanted
from trainables.data.doctor.finding import Finding

CHECK = "gpu"
BUSY = 0.1
"""Share of a GPU's memory that others may have before it is told."""
GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML has it."""

    name: str
    total: int
    """Bytes of memory."""
    free: int


@dataclass(frozen=True)
class Gpus:
    """What the driver, torch's build and the environment say."""

    driver: str = ""
    """Version; empty: there is none."""
    driver_cuda: tuple[int, int] = (0, 0)
    """The newest CUDA that the driver runs."""
    torch_cuda: str = ""
    """CUDA that torch was built with, such as 13.0; empty: none."""
    usable: int = 0
    """Devices that torch can use."""
    unsupported: tuple[str, ...] = ()
    """Names of devices that torch's build has no code for."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES."""
    devices: tuple[Gpu, ...] = ()


def check(wanted: Wanted) -> list[Finding]:
    """Whether the sweep's trials can use the GPUs of this machine."""
    return judge(read_gpus(), wanted_gpu=wanted.wants_gpu and wanted.address is None)


def judge(seen: Gpus, *, wanted_gpu: bool) -> list[Finding]:
    """What there is to say; a machine without a GPU is a fault only where the sweep asks for one."""
    if not seen.driver or not seen.devices:
        what = "no NVIDIA driver" if not seen.driver else f"driver {seen.driver}, and no GPU"
        if wanted_gpu:
            remedy = "install the driver, start the container with --gpus all, or set device=auto and gpus_per_worker=0"
            return [Finding(CHECK, "error", f"there is {what}; the sweep asks for a GPU", remedy)]
        return [Finding(CHECK, "info", f"there is {what}: trials run on the CPU", "")]
    return [_torch(seen), *_memory(seen)]


def _torch(seen: Gpus) -> Finding:
    driver = f"driver {seen.driver} (CUDA up to {seen.driver_cuda[0]}.{seen.driver_cuda[1]})"
    if not seen.torch_cuda:
        summary = f"{driver} is there, but this torch is built for the CPU alone"
        return Finding(CHECK, "error", summary, "install requirements.lock, whose torch is built for CUDA")
    if seen.usable == 0 and seen.visible is not None:
        summary = f"CUDA_VISIBLE_DEVICES={seen.visible!r} hides all {len(seen.devices)} GPUs"
        return Finding(CHECK, "warning", summary, "unset it, or name GPUs that are there")
    # Within a major version an older driver runs a newer CUDA (NVIDIA's minor version compatibility).
    if int(seen.torch_cuda.partition(".")[0]) > seen.driver_cuda[0]:
        summary = f"{driver} is too old for torch, which is built with CUDA {seen.torch_cuda}"
        return Finding(CHECK, "error", summary, "update the driver, or install a torch built for this CUDA")
    if seen.usable == 0:
        remedy = "see nvidia-smi, the kernel's log and, in a container, the NVIDIA container toolkit"
        return Finding(CHECK, "error", f"{driver} is there, but torch can use none of {len(seen.devices)} GPUs", remedy)
    if seen.unsupported:
        summary = f"torch {seen.torch_cuda} has no code for {', '.join(seen.unsupported)}"
        return Finding(CHECK, "error", summary, "install a torch whose build names this GPU's architecture")
    names = ", ".join(sorted({gpu.name for gpu in seen.devices}))
    usable = f"{seen.usable} of {len(seen.devices)} GPUs usable ({names})"
    return ok(CHECK, f"{usable}, {driver}, torch with CUDA {seen.torch_cuda}")


def _memory(seen: Gpus) -> list[Finding]:
    found = []
    for index, gpu in enumerate(seen.devices):
        if gpu.total - gpu.free > BUSY * gpu.total:
            summary = f"GPU {index} has {gpu.free / GIB:.1f} of {gpu.total / GIB:.1f} GiB free: others use it"
            found.append(Finding(CHECK, "warning", summary, "end them (nvidia-smi names them), or choose other GPUs"))
    return found


def read_gpus() -> Gpus:
    """Ask NVML; torch is asked only where there is a GPU, since its import takes seconds."""
    import pynvml

    try:
        pynvml.nvmlInit()
        driver, cuda = pynvml.nvmlSystemGetDriverVersion(), pynvml.nvmlSystemGetCudaDriverVersion()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        devices = tuple(_read_gpu(handle) for handle in handles)
    except pynvml.NVMLError:
        return Gpus(torch_cuda=_torch_cuda())
    usable, unsupported = _ask_torch() if devices else (0, ())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    newest = (cuda // 1000, cuda % 1000 // 10)
    return Gpus(str(driver), newest, _torch_cuda(), usable, unsupported, visible, devices)


def _read_gpu(handle: object) -> Gpu:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(str(pynvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.free))


def _torch_cuda() -> str:
    """CUDA of torch's build, read without importing torch."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return ""
    spec = importlib.util.spec_from_file_location("torch_version", Path(found.origin).with_name("version.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(getattr(module, "cuda", None) or "")


def _ask_torch() -> tuple[int, tuple[str, ...]]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    built = torch.cuda.get_arch_list()
    majors = {name.removeprefix("sm_").removeprefix("compute_")[:-1].rstrip("a") for name in built}
    strange = [
        torch.cuda.get_device_name(index)
        for index in range(count)
        if majors and str(torch.cuda.get_device_capability(index)[0]) not in majors
    ]
    return count, tuple(strange)
