"""A network of this machine's own: a bridge with one address, to which simulated nodes are plugged in.

Everything is named, so what a killed test left behind is found again and removed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

BRIDGE = "e14bridge"
PREFIX = "e14-"
"""Of the nodes' namespaces."""
ADDRESS = "172.31.255.254"
"""This machine's, in the range of a default VPC, where simulated EC2 puts its instances."""
PREFIX_LENGTH = 16
TOOLS = ("ip", "unshare", "setpriv", "sshd", "ssh", "rsync", "ssh-keygen")


def ip(*words: str, check: bool = True) -> str:
    """Run `ip` with these words; returns what it prints."""
    ended = subprocess.run(["ip", *words], check=False, capture_output=True, text=True, timeout=30)
    assert not check or ended.returncode == 0, f"ip {' '.join(words)}: {ended.stderr}"
    return ended.stdout


def find_tool(name: str) -> str | None:
    """Path of a program, also where only root has it on PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def why_not() -> str:
    """Why there can be no such network here; empty if there can."""
    if os.geteuid():
        return "network namespaces want root"
    if missing := [name for name in TOOLS if find_tool(name) is None]:
        return f"absent: {', '.join(missing)} (apt-get install openssh-server rsync iproute2)"
    probe = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc"]
    probe += ["ip", "link", "add", "probe", "type", "bridge"]
    ended = subprocess.run(probe, check=False, capture_output=True, text=True, timeout=30)
    return f"this kernel gives no namespaces: {ended.stderr.strip()}" if ended.returncode else ""


def raise_bridge() -> None:
    """Have the bridge, and nothing plugged into it."""
    clear()
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("addr", "add", f"{ADDRESS}/{PREFIX_LENGTH}", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")


def namespaces() -> list[str]:
    """Names of the namespaces that are ours."""
    return [line.split()[0] for line in ip("netns", "list").splitlines() if line.startswith(PREFIX)]


def clear() -> None:
    """Remove every namespace that is ours, with the processes in it, and the bridge."""
    for name in namespaces():
        drop(name)
    if Path("/sys/class/net", BRIDGE).exists():
        ip("link", "delete", BRIDGE)


def drop(name: str) -> None:
    """Kill what runs in one of our namespaces and remove it."""
    for pid in ip("netns", "pids", name, check=False).split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    ip("netns", "delete", name, check=False)
