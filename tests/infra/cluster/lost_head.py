"""A sweep of one-worker trials that loses a spot node under one of them, and then the head; it is gone on with."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from pipelines.submit import told_by
from tests.infra.cluster.laptop import end
from tests.infra.cluster.simulation import Simulation
from tests.infra.cluster.watch import (
    HOLD,
    KEPT,
    LIMIT_S,
    STEPS,
    checkpoints,
    head_of,
    lose_first_node,
    take_away,
    wait_for,
    witnessed,
)

log = logging.getLogger(__name__)

NAME, TRIALS = "lone", ("node", "head")
"""The sweep; its trials by what each one loses."""


@dataclass(frozen=True)
class Outlived:
    """What the sweep left."""

    folder: Path
    outputs: tuple[str, str]
    """Of `submit` before the head's end, and of the one that went on."""
    exit_code: int
    lost_instance: str
    """The spot node."""


def lose_node_then_head(cluster: Simulation, preset: str, folder: Path, settings: tuple[str, ...]) -> Outlived:
    """Submit `preset`, whose trials write to `folder`; take a node away, then the head; `ray up`, and go on."""
    logs = [cluster.folder / f"submit-{NAME}-{time}.log" for time in (1, 2)]
    lost = _lose_node(cluster, preset, folder, settings, logs[0])
    old = head_of(cluster).instance_id
    take_away(cluster, old)
    log.info("the head %s is taken away, with a trial at step %d; ray up", old, HOLD)
    cluster.laptop.ray("up", "--yes", "--no-config-cache", str(cluster.file))
    assert head_of(cluster).instance_id != old
    said = logs[0].read_text(encoding="utf-8")
    code = _go_on(cluster, preset, folder, (*settings, "--resume", told_by(said).folder), logs[1])
    return Outlived(folder, (said, logs[1].read_text(encoding="utf-8")), code, lost)


def _lose_node(cluster: Simulation, preset: str, folder: Path, settings: tuple[str, ...], output: Path) -> str:
    """Until one trial has lost its node and come to its end, and the other waits; the lost node."""
    with cluster.laptop.dashboard(cluster.file, cluster.folder / "dashboard-1.log") as address:
        log.info("epoch14 submit of one-worker trials")
        job = cluster.laptop.submit(output, preset, address, *settings)
        try:
            lost = lose_first_node(cluster, job, output, folder, NAME, TRIALS, ranks=1)
            wait_for(
                lambda: job.poll() is not None or bool(checkpoints(cluster, NAME, STEPS)),
                "end of the trial that lost its node",
            )
            assert job.poll() is None, output.read_text()
            log.info("the first trial has come to its end")
        finally:
            end(job)
    return lost


def _go_on(cluster: Simulation, preset: str, folder: Path, words: tuple[str, ...], output: Path) -> int:
    """On the new head, to the sweep's end; the exit code."""
    with cluster.laptop.dashboard(cluster.file, cluster.folder / "dashboard-2.log") as address:
        log.info("epoch14 submit %s", " ".join(words))
        job = cluster.laptop.submit(output, preset, address, *words)
        try:
            # Not before the new process waits: the old one, if it were alive, would go on too.
            again = 2 * (HOLD + 1) - KEPT
            wait_for(lambda: job.poll() is not None or len(witnessed(folder, "head")) == again, "trial that goes on")
            log.info("the second trial is at step %d again, and is let go", HOLD)
            (folder / "head.go").touch()
            code = job.wait(timeout=LIMIT_S)
        finally:
            end(job)
    log.info("the sweep has ended with exit code %d", code)
    return code
