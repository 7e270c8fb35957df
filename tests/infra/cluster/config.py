"""The repository's own ray_cluster.yaml, with what the simulation can't do taken out, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "ray_cluster.yaml"
INSTALLS = ("pip install", "pip sync", "uv venv")
"""Set-up commands that reach for packages: a node has this machine's environment instead."""
IDLE_MINUTES = 0.5
"""Time after which an idle node goes."""


def simulated(name: str) -> dict[str, Any]:
    """The cluster `name` as it can be run here."""
    cluster: dict[str, Any] = yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))
    cluster["cluster_name"] = name
    cluster["idle_timeout_minutes"] = IDLE_MINUTES
    # Public addresses lead nowhere here.
    cluster["provider"]["use_internal_ips"] = True
    cluster["setup_commands"] = [
        command for command in cluster["setup_commands"] if not any(word in command for word in INSTALLS)
    ]
    for kind, node in cluster["available_node_types"].items():
        if kind != cluster["head_node_type"]:
            # Ray starts a process for each CPU at once, and this machine has two.
            node["resources"]["CPU"] = 1
            # Ray takes either market where both have room; here it is to be one that can be taken away.
            if "InstanceMarketOptions" not in node["node_config"]:
                node["max_workers"] = 0
    return cluster


def write_simulated(folder: Path, name: str) -> Path:
    """Write it into `folder`; returns the file."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(simulated(name)), encoding="utf-8")
    return path
