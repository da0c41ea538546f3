"""From the JSON of Ingresses, Gateways and routes to what they claim: hostnames, and where they lead.

A route counts for the Gateways that accepted it. One without any status has not been looked at yet, as in a folder of
manifests: it counts for all that it names.
"""

from __future__ import annotations

from collections.abc import Iterable

from zones.errors import BadObject
from zones.fields import address_of, hostname_of, LABEL, namespace_of, own_name, shared, SUBDOMAIN
from zones.objects import Gateway, Ingress, Kind, Listener, ObjectKey, Parent, Route, Targets
from zones.shapes import (
    BalancedStatusJson,
    GatewayJson,
    GatewaySpecJson,
    GatewayStatusJson,
    IngressJson,
    IngressSpecJson,
    Meta,
    ParentRefJson,
    RouteJson,
    RouteSpecJson,
    ServiceJson,
    ServiceSpecJson,
)


def outside_of(json: ServiceJson) -> Targets:
    """Return where a Service is reached from outside: its ``externalIPs`` and its load balancer. Raises BadObject."""
    spec = json.spec or ServiceSpecJson()
    addresses = [address_of(text, f"spec.externalIPs[{at}]") for at, text in enumerate(spec.external_ips or ()) if text]
    balanced = _balanced(json.status)
    return Targets(tuple(dict.fromkeys((*addresses, *balanced.addresses))), balanced.aliases)


def ingress_of(json: IngressJson) -> Ingress:
    """Return an Ingress. Raises BadObject."""
    meta = json.metadata or Meta()
    rules = (json.spec or IngressSpecJson()).rules or ()
    hosts = [hostname_of(rule.host, f"spec.rules[{at}].host") for at, rule in enumerate(rules) if rule.host]
    return Ingress(
        namespace_of(meta),
        own_name(meta, SUBDOMAIN, "a DNS subdomain"),
        meta.creation_timestamp or "",
        tuple(dict.fromkeys(hosts)),
        shared(_balanced(json.status)),
    )


def gateway_of(json: GatewayJson) -> Gateway:
    """Return a Gateway. Raises BadObject."""
    meta = json.metadata or Meta()
    listeners = [
        Listener(
            (listener.name or "").encode(),
            hostname_of(listener.hostname, f"spec.listeners[{at}].hostname") if listener.hostname else None,
            listener.port or 0,
        )
        for at, listener in enumerate((json.spec or GatewaySpecJson()).listeners or ())
    ]
    addresses, aliases = [], []
    for at, target in enumerate((json.status or GatewayStatusJson()).addresses or ()):
        field = f"status.addresses[{at}].value"
        if target.type in (None, "IPAddress"):
            addresses.append(address_of(target.value or "", field))
        elif target.type == "Hostname":
            aliases.append(hostname_of(target.value or "", field))
    return Gateway(
        namespace_of(meta),
        own_name(meta, SUBDOMAIN, "a DNS subdomain"),
        meta.creation_timestamp or "",
        tuple(listeners),
        Targets(tuple(dict.fromkeys(addresses)), tuple(dict.fromkeys(aliases))),
    )


def route_of(kind: Kind, json: RouteJson) -> Route:
    """Return a route. Raises BadObject."""
    meta = json.metadata or Meta()
    spec = json.spec or RouteSpecJson()
    namespace = namespace_of(meta)
    hosts = [hostname_of(text, f"spec.hostnames[{at}]") for at, text in enumerate(spec.hostnames or ())]
    parents = _parents(spec.parent_refs or (), namespace)
    if json.status is not None and json.status.parents is not None:
        accepted = set(
            _parents(
                [
                    status.parent_ref
                    for status in json.status.parents
                    if status.parent_ref is not None
                    and any(c.type == "Accepted" and c.status == "True" for c in status.conditions or ())
                ],
                namespace,
            )
        )
        parents = [parent for parent in parents if parent in accepted]
    return Route(
        kind,
        namespace,
        own_name(meta, SUBDOMAIN, "a DNS subdomain"),
        meta.creation_timestamp or "",
        tuple(dict.fromkeys(hosts)),
        shared(tuple(parents)),
    )


def _parents(refs: Iterable[ParentRefJson], namespace: bytes) -> list[Parent]:
    """Return the Gateways among *refs*; a route of a service mesh has Services for parents."""
    parents = []
    for at, ref in enumerate(refs):
        if ref.kind not in (None, "Gateway") or ref.group not in (None, "gateway.networking.k8s.io"):
            continue
        if not ref.name or (ref.namespace and not LABEL.fullmatch(ref.namespace)):
            raise BadObject(f"spec.parentRefs[{at}]", ref.name, "the name of a Gateway")
        key = ObjectKey(ref.namespace.encode() if ref.namespace else namespace, ref.name.encode())
        parents.append(Parent(key, (ref.section_name or "").encode(), ref.port or 0))
    return parents


def _balanced(status: BalancedStatusJson | None) -> Targets:
    points = ((status.load_balancer.ingress if status.load_balancer else None) if status else None) or ()
    addresses, aliases = [], []
    for at, point in enumerate(points):
        field = f"status.loadBalancer.ingress[{at}]"
        if point.ip:
            addresses.append(address_of(point.ip, f"{field}.ip"))
        elif point.hostname:
            aliases.append(hostname_of(point.hostname, f"{field}.hostname"))
    return Targets(tuple(dict.fromkeys(addresses)), tuple(dict.fromkeys(aliases)))
