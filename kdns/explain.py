"""Why a name is answered as it is: the zone, the rule, the objects; for a pod, every step of its search path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from kdns.answer.authority import Ask
from kdns.cluster import Cluster
from kdns.config import Config
from kdns.proto.message import make_question, read_message
from kdns.proto.query import Query, Transport
from kdns.proto.text import message_to_text
from zones.names import Name, split_labels
from zones.objects import Kind, ObjectKey, Service
from zones.pods import PodMode
from zones.records import address_to_text, rrtype_to_text
from zones.reverse import digits_of, IN_ADDR_ARPA, IP6_ARPA

Versions = Mapping[tuple[Kind, ObjectKey], str]
"""The resourceVersions of objects, as far as they are known."""

NO_VERSIONS: Final[Versions] = {}


def explain(cluster: Cluster, qname: Name, qtype: int, versions: Versions = NO_VERSIONS) -> Iterator[str]:
    """Yield the lines that say how the question is answered, and by what."""
    yield f"{qname} {rrtype_to_text(qtype)}"
    wire = make_question(b"\0\0", qname, qtype, edns=False)
    query = Query(b"\0\0", 0x0100, qname, qtype, 1, wire[12:], len(wire), Transport.TCP)
    for rule in cluster.config.rewrites:
        if qname == rule.source or (rule.is_suffix and qname.is_under(rule.source)):
            yield f"  rewritten by --rewrite: {rule.source} becomes {rule.target}"
            break
    if cluster.overlay is not None and cluster.overlay.records.at(qname.key) is not None:
        yield "  a static record (--record, --hosts) has the name"
    zone = cluster.authority.zones.closest(qname)
    if zone is None:
        yield "  in none of the zones: " + ", ".join(one.origin.to_text() for one in cluster.zones.all)
    else:
        yield f"  in the zone {zone.origin}"
        yield from (f"  {line}" for line in _objects(cluster, qname, zone.origin, versions))
    answer = cluster.authority.answer(query)
    if isinstance(answer, Ask):
        yield f"  asked of the upstreams: {answer.qname} {rrtype_to_text(answer.qtype)}"
        return
    yield from (f"  {line}" for line in message_to_text(read_message(b"\0\0" + answer.tails[0])))


def explain_as(
    cluster: Cluster,
    config: Config,
    typed: str,
    qtype: int,
    namespace: str,
    versions: Versions = NO_VERSIONS,
    *,
    ndots: int = 5,
) -> Iterator[str]:
    """Yield how a pod of *namespace* comes to an answer: each step of its search path, until one answers."""
    zone = config.zones[0]
    typed_name = Name.from_text(typed)
    steps: list[Name] = []
    for labels in ((namespace.encode(), b"svc"), (b"svc",), ()):
        front = [*split_labels(typed_name.wire), *labels]
        if zone.has_room_for(*front):
            steps.append(zone.prefixed(*front))
    is_absolute, dots = typed.endswith("."), typed.rstrip(".").count(".")
    steps = [typed_name] if is_absolute else [typed_name, *steps] if dots >= ndots else [*steps, typed_name]
    many = f"{len(steps)} step{'s' * (len(steps) != 1)}"
    yield f"a pod of namespace {namespace} looks {typed} up in {many} at most (ndots:{ndots})"
    for number, step in enumerate(steps, 1):
        lines = list(explain(cluster, step, qtype, versions))
        yield f"{number}. {lines[0]}"
        yield from lines[1:]
        if any(line.strip().startswith("answer") for line in lines):
            yield "ends here"
            return
    yield "ends nowhere: the name does not exist for that pod, unless an upstream or the node's search domains have it"


def _objects(cluster: Cluster, qname: Name, origin: Name, versions: Versions) -> Iterator[str]:
    if origin.is_under(IN_ADDR_ARPA) or origin.is_under(IP6_ARPA):
        yield from _reverse(cluster, qname)
        return
    labels = qname.labels[: len(qname.labels) - len(origin.labels)]
    if not labels:
        yield "its apex: SOA and NS are the server's own"
        return
    if origin not in cluster.config.zones or labels[-1] not in (b"svc", b"pod"):
        return
    store = cluster.store
    if len(labels) < 2:
        yield "exists because namespaces are below it"
        return
    namespace = labels[-2]
    if store.get(Kind.NAMESPACE, ObjectKey(b"", namespace)) is None:
        text = namespace.decode(errors="replace")
        yield f"there is no namespace {text}, or it is not shown (--namespace, --namespace-labels)"
        return
    if len(labels) < 3:
        yield f"namespace {namespace.decode()}"
        return
    if labels[-1] == b"pod":
        mode = cluster.config.pods
        yield f"pods are {mode.value} (--pods)" + (", so no such name exists" if mode is PodMode.DISABLED else "")
        return
    name = labels[-3]
    thing = store.get(Kind.SERVICE, ObjectKey(namespace, name))
    if not isinstance(thing, Service):
        yield f"there is no Service {name.decode(errors='replace')} in namespace {namespace.decode()}"
        return
    yield from _service(cluster, thing, labels[:-3], versions)


def _at(versions: Versions, kind: Kind, namespace: bytes, name: bytes) -> str:
    version = versions.get((kind, ObjectKey(namespace, name)))
    return f" at version {version}" if version else ""


def _service(cluster: Cluster, service: Service, below: Sequence[bytes], versions: Versions) -> Iterator[str]:
    where = f"Service {service.namespace.decode()}/{service.name.decode()}"
    where += _at(versions, Kind.SERVICE, service.namespace, service.name)
    if service.external_name is not None:
        yield f"{where}: an alias of {service.external_name} (ExternalName)"
        return
    ports = ", ".join(
        f"{port.name.decode() or '(no name)'} {port.protocol.decode()} {port.number}" for port in service.ports
    )
    kind = "headless" if service.is_headless else ", ".join(map(address_to_text, service.cluster_ips)) or "no address"
    yield f"{where}: {kind}; ports: {ports or 'none'}"
    slices = cluster.store.slices_of(service)
    ends = [endpoint for piece in slices for endpoint in piece.endpoints]
    ready = sum(endpoint.is_ready for endpoint in ends)
    if service.is_headless or cluster.config.ignore_empty_service or below:
        told = (
            piece.name.decode() + _at(versions, Kind.ENDPOINT_SLICE, piece.namespace, piece.name) for piece in slices
        )
        names = ", ".join(sorted(told)) or "none"
        not_ready = " (not-ready ones answer, too: publishNotReadyAddresses)" if service.publish_not_ready else ""
        yield f"EndpointSlices: {names}; {ready} of {len(ends)} endpoints ready{not_ready}"
    if service.is_headless and not ends:
        yield "without an endpoint the name of a headless Service does not exist"
    if cluster.config.ignore_empty_service and not service.is_headless and not ready:
        yield "without a ready endpoint it does not exist (--ignore-empty-service)"


def _reverse(cluster: Cluster, qname: Name) -> Iterator[str]:
    digits = digits_of(qname)
    size = 4 if qname.is_under(IN_ADDR_ARPA) else 32
    if digits is None:
        yield "spells no address"
        return
    if len(digits) < size:
        yield "a part of an address: exists where there are addresses below it"
        return
    address = bytes(digits) if size == 4 else bytes.fromhex("".join(f"{digit:x}" for digit in digits))
    owner = cluster.store.cluster_ip_owner(address)
    if owner is not None:
        yield f"{address_to_text(address)} is the address of Service {owner.namespace.decode()}/{owner.name.decode()}"
        return
    owners = cluster.store.endpoint_owners(address)
    for service, label in owners:
        where = f"{service.namespace.decode()}/{service.name.decode()}"
        yield f"{address_to_text(address)} is an endpoint, {label.decode()}, of Service {where}"
    if not owners:
        yield f"{address_to_text(address)} is nobody's in this cluster"
