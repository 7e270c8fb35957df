"""Who may reach whom, read from NetworkPolicies as a network plugin reads them.

Source: the description of NetworkPolicySpec in Kubernetes' API reference. A pod that no policy selects is open; one
that policies select takes what any of them allows; a connection needs the egress of one side and the other's ingress.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.infra.manifests.kustomize import Manifest

Labels = Mapping[str, str]


def may_reach(manifests: Iterable[Manifest], source: Labels, target: Labels, port: int) -> bool:
    """Whether a pod with the labels `source` may open TCP `port` of one with `target`, both of the overlay."""
    manifests = list(manifests)
    leaves = _allowed(_policies(manifests), "Egress", source, target, port)
    return leaves and lets_in(manifests, source, target, port)


def lets_in(manifests: Iterable[Manifest], source: Labels, target: Labels, port: int) -> bool:
    """Whether the side of the target alone would take it."""
    return _allowed(_policies(manifests), "Ingress", target, source, port)


def _policies(manifests: Iterable[Manifest]) -> list[dict[str, Any]]:
    return [manifest["spec"] for manifest in manifests if manifest["kind"] == "NetworkPolicy"]


def _allowed(policies: Sequence[dict[str, Any]], way: str, pod: Labels, peer: Labels, port: int) -> bool:
    """Whether the policies that select `pod` let it talk that way with `peer`."""
    selecting = [one for one in policies if way in one["policyTypes"] and _matches(one["podSelector"], pod)]
    rules, side = way.lower(), {"Ingress": "from", "Egress": "to"}[way]
    return not selecting or any(
        _has_port(rule, port) and _has_peer(rule, side, peer) for policy in selecting for rule in policy.get(rules, [])
    )


def _has_port(rule: Mapping[str, Any], port: int) -> bool:
    return "ports" not in rule or any(one["protocol"] == "TCP" and one["port"] == port for one in rule["ports"])


def _has_peer(rule: Mapping[str, Any], side: str, labels: Labels) -> bool:
    """Whether a rule names a pod of this namespace: one that it names in another namespace is not ours."""
    return side not in rule or any(
        "ipBlock" in peer or ("namespaceSelector" not in peer and _matches(peer["podSelector"], labels))
        for peer in rule[side]
    )


def _matches(selector: Mapping[str, Any], labels: Labels) -> bool:
    equal = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in expressions)
    return equal and all(labels.get(one["key"]) in one["values"] for one in expressions)
