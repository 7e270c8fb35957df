"""Python, the limits of this process, and the disks of this machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
from pathlib import Path

from infra.installation.findings import ok
from infra.installation.folders import GB, probe_folder
from infra.installation.wanted import Wanted
from infra.ray_runtime import OBJECT_STORE_BYTES
from trainables.data.doctor.finding import Finding
from trainables.data.index import default_cache_dir

OPEN_FILES = 8192
"""What Ray asks for; it raises the soft limit itself, up to the hard one."""
FULL = 0.95
"""Share of a disk from which Ray calls it full, and stops writing to it (RAY_local_fs_capacity_threshold)."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the shared memory itself, not a temporary file
NETWORK_DISKS = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "ceph", "9p")


def check(wanted: Wanted) -> list[Finding]:
    """Whether a sweep has room to start on this machine."""
    del wanted
    return [_python(), _open_files(), _shared_memory(), _ray_disk(), *_cache()]


def _python() -> Finding:
    from packaging.specifiers import SpecifierSet

    try:
        allowed = importlib.metadata.metadata("epoch14")["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        return Finding("python", "warning", "epoch14 is not installed in this Python", "run `make setup`")
    here = platform.python_version()
    if not SpecifierSet(allowed).contains(here):
        return Finding("python", "error", f"this is Python {here}; epoch14 runs on {allowed}", "run `make setup`")
    return ok("python", f"Python {here}")


def _open_files() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        summary = f"a process may open {hard} files at most; Ray wants {OPEN_FILES}"
        remedy = "raise it: `ulimit -Hn 65536` as root, nofile in /etc/security/limits.conf, or docker --ulimit nofile"
        return Finding("open files", "warning", summary, remedy)
    many = "any number of" if hard == resource.RLIM_INFINITY else f"{hard}"
    return ok("open files", f"a process may open {many} files")


def _shared_memory() -> Finding:
    if not SHARED_MEMORY.is_dir():
        remedy = f"mount a tmpfs at {SHARED_MEMORY}"
        return Finding("shared memory", "warning", f"there is no {SHARED_MEMORY}; Ray takes a disk for it", remedy)
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < OBJECT_STORE_BYTES:
        summary = f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free; Ray's objects take {OBJECT_STORE_BYTES / 1e6:.0f}"
        remedy = "remove what fills it; docker run --shm-size=1g; in Kubernetes an emptyDir of medium Memory"
        return Finding("shared memory", "warning", summary, remedy)
    return ok("shared memory", f"{SHARED_MEMORY} has {free / GB:.1f} GB free")


def _ray_disk() -> Finding:
    folder = os.environ.get("RAY_TMPDIR") or "/tmp"  # noqa: S108 - Ray's own default, whatever TMPDIR says
    usage = shutil.disk_usage(folder)
    share = 1 - usage.free / usage.total
    summary = f"the disk of {folder}, where Ray has its logs, is {100 * share:.0f} % full"
    if share > FULL:
        summary += f"; from {100 * FULL:.0f} % on Ray writes no more"
        return Finding("disk", "warning", summary, "free space there, or set RAY_TMPDIR")
    return ok("disk", summary)


def _cache() -> list[Finding]:
    folder = default_cache_dir()
    found = probe_folder("cache", folder, "set EPOCH14_CACHE to a folder on a local disk")
    kind = _disk_kind(folder)
    if kind in NETWORK_DISKS:
        summary = f"{folder} lies on a network disk ({kind}); images are mapped from there, once a batch"
        found.append(Finding("cache", "warning", summary, "set EPOCH14_CACHE to a folder on a local disk"))
    return found


def _disk_kind(folder: Path) -> str:
    """File system that the folder is or will be on; empty where that can't be told."""
    import psutil

    there = folder.absolute()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[path] for path in (there, *there.parents) if path in mounts), "")
