"""Two processes that sum a number, as the workers of a trial do: over gloo, and over NCCL where there are two GPUs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.installation.findings import ok
from infra.installation.wanted import Wanted
from trainables.data.doctor.finding import Finding, Severity

if TYPE_CHECKING:
    import torch

LIMIT_S = 25
"""Of the meeting of the two, and of each sum."""
INTERFACE = {"gloo": "GLOO_SOCKET_IFNAME", "nccl": "NCCL_SOCKET_IFNAME"}
_LONELY = "without GPUs: one for each of two ranks"


def check(wanted: Wanted) -> list[Finding]:
    """Whether workers of a trial can sum their gradients, and by which network interface they meet."""
    chosen = [_interface(backend, wanted.workers) for backend in INTERFACE]
    wrong = [finding for finding in chosen if finding is not None]
    if any(finding.severity == "error" for finding in wrong):
        return wrong
    with tempfile.TemporaryDirectory(prefix="epoch14-ranks-") as folder:
        meeting = Path(folder) / "meeting"
        command = [sys.executable, "-m", "infra.installation.ranks", str(meeting)]
        # One more process, since this one is a rank itself; whoever started this one ends both.
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as other:  # noqa: S603 - ours
            try:
                said = sum_over_two(0, meeting)
            except (RuntimeError, ValueError) as error:
                other.kill()
                reason = " ".join(str(error).split())[:200]
                remedy = "name an interface that both can use: export GLOO_SOCKET_IFNAME=... and NCCL_SOCKET_IFNAME=..."
                return [*wrong, Finding("ranks", "error", f"two processes could not sum a number: {reason}", remedy)]
    return [ok("ranks", said), *wrong]


def sum_over_two(rank: int, meeting: Path) -> str:
    """Take part in a group of two and sum; returns over what. Raises RuntimeError where that fails."""
    import torch
    from torch import distributed

    limit = timedelta(seconds=LIMIT_S)
    address = meeting.absolute().as_uri()
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=limit)
    try:
        _sum(torch.device("cpu"), None, rank)
        if torch.cuda.device_count() < 2 or not distributed.is_nccl_available():
            return f"two processes summed over gloo; NCCL was not tried ({_LONELY})"
        _sum(torch.device("cuda", rank), distributed.new_group(backend="nccl", timeout=limit), rank)
        version = ".".join(map(str, torch.cuda.nccl.version()))
        return f"two processes summed over gloo, and two GPUs over NCCL {version}"
    finally:
        distributed.destroy_process_group()


def _sum(device: torch.device, group: Any, rank: int) -> None:
    import torch
    from torch import distributed

    number = torch.full((1024,), float(rank + 1), device=device)
    distributed.all_reduce(number, group=group)
    if not bool((number == 3).all()):
        raise RuntimeError(f"1 + 2 came to {number[0].item():g}")


def _interface(backend: str, workers: int) -> Finding | None:
    """What is wrong with the interface that a backend will use, for trials of so many workers."""
    variable, names = INTERFACE[backend], [name for _, name in socket.if_nameindex()]
    named = os.environ.get(variable)
    if named:
        # NCCL also takes prefixes, exclusions (^) and exact names (=); gloo names alone.
        plain = [part for part in named.split(",") if part and not part.startswith(("^", "="))]
        strange = [part for part in plain if not any(name.startswith(part) for name in names)]
        if not strange:
            return None
        summary = f"{variable}={named!r} names no interface of this machine ({', '.join(names)})"
        return Finding("ranks", "error", summary, f"unset {variable}, or name one of them")
    if backend == "nccl" or not _is_loopback():
        return None
    severity: Severity = "warning" if workers > 1 else "info"
    summary = f"this machine's name, {socket.gethostname()!r}, leads to itself alone, and gloo meets there"
    remedy = f"for workers on several nodes: export {variable}={_reachable() or 'INTERFACE'} on each"
    return Finding("ranks", severity, summary, remedy)


def _reachable() -> str:
    """The first interface with an address that others may reach; empty where there is none."""
    import psutil

    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = (
        name
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if name in up and address.family == socket.AF_INET and not address.address.startswith("127.")
    )
    return next(found, "")


def _is_loopback() -> bool:
    """Whether the name of this machine, which gloo looks up, leads only to itself."""
    try:
        return socket.gethostbyname(socket.gethostname()).startswith("127.")
    except OSError:
        return True


if __name__ == "__main__":
    sum_over_two(1, Path(sys.argv[1]))
