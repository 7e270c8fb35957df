"""A simulated instance: its own network, processes, mounts and host name, by namespaces, and an SSH server in it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.infra.cluster.bridge import ADDRESS, BRIDGE, PREFIX, PREFIX_LENGTH, drop, find_tool, ip

USER = "ubuntu"
HOME = Path("/home", USER)
START = """\
set -eu
hostname "$1"
mkdir -p /tmp/ray /run/sshd
mount --bind "$2/home" /home
mount --bind "$2/ray" /tmp/ray
mount --bind "$2/passwd" /etc/passwd
mount --bind "$2/hosts" /etc/hosts
mount -t tmpfs tmpfs /dev/shm
exec "$3" -D -e -f "$2/sshd_config"
"""
SSHD = """\
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
"""


@dataclass
class Node:
    """One instance, from its start to its end."""

    instance_id: str
    address: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """Of its network namespace."""
        return PREFIX + self.instance_id.removeprefix("i-")[-8:]

    @property
    def home(self) -> Path:
        """Its user's home, as this machine sees it."""
        return self.folder / "home" / USER

    def start(self, public_key: str, venv: Path, environment: Mapping[str, str]) -> None:
        """Boot it: `public_key` may log in, and finds `venv` as ~/epoch14/venv and `environment` set."""
        self._write_files(public_key, venv, environment)
        ip("netns", "add", self.name)
        plug = f"e14v{self.name[-8:]}"
        ip("link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", plug, "master", BRIDGE, "up")
        for words in (
            ("addr", "add", f"{self.address}/{PREFIX_LENGTH}", "dev", "eth0"),
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", ADDRESS),
        ):
            ip("-n", self.name, *words)
        # The first word ends it with the thread that started it, the last option all of its processes with the first.
        command = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.name]
        command += ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "--propagation=private"]
        command += ["--kill-child", "bash", "-c", START, "node", f"node-{self.name}", str(self.folder)]
        command += [str(find_tool("sshd"))]
        with (self.folder / "sshd.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def end(self) -> None:
        """Cut its power: every process gets SIGKILL, then its network goes."""
        if self.process is not None:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
        drop(self.name)

    def _write_files(self, public_key: str, venv: Path, environment: Mapping[str, str]) -> None:
        (self.home / "epoch14").mkdir(parents=True)
        (self.folder / "ray").mkdir()
        (self.home / "epoch14" / "venv").symlink_to(venv)
        # The user has root's number: nobody else could set up namespaces within one.
        (self.folder / "passwd").write_text(
            f"{USER}:x:0:0::{HOME}:/bin/bash\nroot:x:0:0::{HOME}:/bin/bash\nsshd:x:100:65534::/run/sshd:/bin/false\n"
        )
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} node-{self.name}\n")
        (self.folder / "authorized_keys").write_text(public_key)
        (self.folder / "sshd_config").write_text(SSHD.format(address=self.address, folder=self.folder))
        exports = "".join(f"export {name}='{value}'\n" for name, value in environment.items())
        (self.home / ".bashrc").write_text(exports)
        (self.home / ".profile").write_text(". ~/.bashrc\n")
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "host_key")]
        subprocess.run(key, check=True, timeout=30)
