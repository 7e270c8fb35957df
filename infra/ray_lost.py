"""Tells a worker group that lost a node from one whose own work failed.

When a node goes, its worker dies without a word, and the others' collective operations break: what they raise looks
like a failure of their own. Only Ray knows of the node, and some seconds later, so this waits until it does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

WAIT_S = 75.0
"""Ray takes a node for dead after 5 checks, 3 s apart, each of which may take 10 s."""
POLL_S = 0.5
TAKEN_AS_IDLE = "AUTOSCALER_DRAIN_IDLE"
"""Why Ray says that a node has gone which no worker was on."""


def known_nodes() -> dict[str, bool]:
    """Id of each node that Ray knows -> whether it was lost: it has died, and not because it was idle."""
    import ray

    return {node["NodeID"]: not node["Alive"] and str(node.get("DeathReason")) != TAKEN_AS_IDLE for node in ray.nodes()}


def lost_nodes(
    failures: Iterable[BaseException],
    before: dict[str, bool],
    *,
    known: Callable[[], dict[str, bool]] = known_nodes,
    wait_s: float = WAIT_S,
) -> frozenset[str]:
    """Nodes lost since `before`, where the workers' `failures` can come of that; none: the failures are their own.

    Waits up to `wait_s` for Ray to notice. It doesn't wait where Ray has had one node only, which is this one, nor
    where a worker raised what no peer can cause.
    """
    if not all(may_come_of_a_lost_node(failure) for failure in failures):
        return frozenset()
    deadline = time.monotonic() + wait_s
    while True:
        nodes = known()
        lost = frozenset(node for node, is_lost in nodes.items() if is_lost and not before.get(node, False))
        if lost or len(nodes) < 2 or time.monotonic() >= deadline:
            return lost
        time.sleep(POLL_S)


def may_come_of_a_lost_node(failure: BaseException) -> bool:
    """Whether the end of a peer, or of the worker itself, can have caused it.

    What a worker's own code raised comes in a wrapper; the rest is Ray's word that it can't reach the worker. gloo and
    NCCL raise RuntimeErrors (torch.distributed.DistError is one), and so does a trial that was interrupted by SIGTERM,
    which comes before a node's end.
    """
    raised = getattr(failure, "_base_exc", None)
    return raised is None or isinstance(raised, RuntimeError | ConnectionError)
