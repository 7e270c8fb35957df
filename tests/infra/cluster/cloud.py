"""Simulated AWS on the bridge: moto's server, and a thread that gives each running instance of it a node."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.infra.cluster.bridge import ADDRESS
from tests.infra.cluster.node import Node

log = logging.getLogger(__name__)

REGION = "us-west-2"
PORT = 5555
ENDPOINT = f"http://{ADDRESS}:{PORT}"
START_LIMIT_S = 60.0
POLL_S = 0.3


@dataclass(frozen=True)
class Keys:
    """An access key."""

    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """What makes AWS's clients use it, here."""
        return {
            "AWS_ENDPOINT_URL": ENDPOINT,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        """A client of that service."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=ENDPOINT,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )


ANYONE = Keys("someone", "something")
"""Let in until there are keys of the server's own (accounts.py)."""


@dataclass
class Server:
    """moto's server as a process."""

    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = str(Path(sys.executable).with_name("moto_server"))
        command = ["setpriv", "--pdeathsig", "KILL", program, "-H", ADDRESS, "-p", str(PORT)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            try:
                urllib.request.urlopen(f"{ENDPOINT}/moto-api/", timeout=2).close()  # noqa: S310 - our own
            except OSError:
                time.sleep(0.1)
            else:
                return

    def end(self) -> None:
        """Kill it."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@dataclass
class Machines:
    """The nodes, which follow what simulated EC2 says of its instances."""

    keys: Keys
    folder: Path
    venv: Path
    environment_of: dict[str, dict[str, str]]
    """head or worker -> environment: with it the key that stands for the role of its instance profile."""
    nodes: dict[str, Node] = field(default_factory=dict)
    """Instance -> its node, while it runs."""
    markets: dict[str, str] = field(default_factory=dict)
    """Instance -> spot or on demand; those that have gone too."""

    def __post_init__(self) -> None:
        self._ec2 = self.keys.client("ec2")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="machines", daemon=True)

    def start(self) -> None:
        """Follow from now on."""
        self._thread.start()

    def end(self) -> None:
        """End every node, and follow no longer."""
        self._stop.set()
        self._thread.join(timeout=30)
        for instance in list(self.nodes):
            self._end(instance)

    def reclaim(self, instance_id: str) -> None:
        """Take a spot instance away, as AWS does."""
        self._ec2.terminate_instances(InstanceIds=[instance_id])

    def running(self) -> list[dict[str, Any]]:
        """What EC2 says of the instances that run."""
        pages = self._ec2.describe_instances()["Reservations"]
        instances = [instance for page in pages for instance in page["Instances"]]
        return [instance for instance in instances if instance["State"]["Name"] == "running"]

    def _follow(self) -> None:
        while not self._stop.wait(POLL_S):
            running = {instance["InstanceId"]: instance for instance in self.running()}
            for instance_id in self.nodes.keys() - running.keys():
                self._end(instance_id)
            for instance_id in running.keys() - self.nodes.keys():
                self._start(running[instance_id])

    def _start(self, instance: dict[str, Any]) -> None:
        instance_id = instance["InstanceId"]
        # moto forgets the instance profile, so the kind comes from Ray's tag.
        (kind,) = (tag["Value"] for tag in instance["Tags"] if tag["Key"] == "ray-node-type")
        node = Node(instance_id, instance["PrivateIpAddress"], self.folder / instance_id)
        node.start(self._public_key(instance["KeyName"]), self.venv, self.environment_of[kind])
        self.nodes[instance_id] = node
        self.markets[instance_id] = instance.get("InstanceLifecycle", "on demand")
        log.info("%s %s started, %s", kind, instance_id, self.markets[instance_id])

    def _end(self, instance_id: str) -> None:
        node = self.nodes.pop(instance_id)
        node.end()
        log.info("%s ended", instance_id)
        # Ray's logs, objects and copies of the working tree.
        shutil.rmtree(node.folder / "ray", ignore_errors=True)

    def _public_key(self, name: str) -> str:
        """The public half of a key pair, as an instance finds it in its metadata."""
        (pair,) = self._ec2.describe_key_pairs(KeyNames=[name], IncludePublicKey=True)["KeyPairs"]
        return str(pair["PublicKey"])
