"""What NetworkPolicies let through: their meaning, as far as these manifests use it.

A connection passes when the policies of the sender let it out and those of the receiver let it in; a pod that no policy
selects for a direction is open in it. https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

from .conftest import Manifest

NAMESPACE, STAGES = "vision-mlops", "vision-mlops-stages"


@dataclass(frozen=True)
class End:
    """A pod, by its labels and the name of its namespace; or an address outside."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = NAMESPACE
    address: str | None = None


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector takes these labels."""
    unknown = set(selector) - {"matchLabels", "matchExpressions"}
    assert not unknown, unknown
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True


def _peer(peer: dict[str, Any], end: End, own: str) -> bool:
    """Whether a peer in a policy of the namespace `own` is this end."""
    if "ipBlock" in peer:
        if end.address is None:  # addresses of pods are whatever the cluster gives; a policy should not count on them
            return False
        address, block = ipaddress.ip_address(end.address), peer["ipBlock"]
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(address in ipaddress.ip_network(one) for one in block.get("except", []))
    if end.address is not None:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": end.namespace}):
            return False
    elif end.namespace != own:
        return False
    return selects(peer.get("podSelector", {}), end.labels)


def _passes(policies: list[Manifest], direction: str, of: End, other: End, port: int, protocol: str) -> bool:
    mine = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == of.namespace
        and direction in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], of.labels)
    ]
    if of.address is not None or not mine:
        return True
    key, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    for spec in mine:
        for rule in spec.get(key, []):
            ports = rule.get("ports")
            if ports and not any(p["port"] == port and p["protocol"] == protocol for p in ports):
                continue
            if peers not in rule or any(_peer(peer, other, of.namespace) for peer in rule[peers]):
                return True
    return False


def allowed(manifests: list[Manifest], sender: End, receiver: End, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection passes."""
    policies = [manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    out = _passes(policies, "Egress", sender, receiver, port, protocol)
    return out and _passes(policies, "Ingress", receiver, sender, port, protocol)
