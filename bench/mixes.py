"""What is asked: query mixes made from a cluster's own objects, or in the shapes of kubernetes/perf-tests.

| mix         | questions                                                              | must be answered          |
|-------------|------------------------------------------------------------------------|---------------------------|
| cluster     | A, AAAA, SRV and PTR of every Service, shuffled                        | NOERROR                   |
| hot         | A of a thousand Services                                               | NOERROR                   |
| service     | a Service by each step of a pod's search path, A and AAAA              | any of these, or REFUSED  |
| nx-domain   | names that do not exist, each once                                     | NXDOMAIN                  |
| outside     | names outside the cluster by each step of the search path, A and AAAA  | any of these, or REFUSED  |
| pod-ip      | names made of addresses of pods                                        | NOERROR or NXDOMAIN       |
| all         | service, nx-domain, outside and pod-ip, shuffled                       | any of these              |
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

from bench.process import BenchError
from kdns import config
from kdns.cluster import Cluster
from kdns.errors import ConfigError
from zones.objects import dashed_address, Service
from zones.records import address_to_text

SEED: Final = 1
HOT_NAMES: Final = 1000
MISSING_NAMES: Final = 1_000_000
PERF_SERVICES: Final = 100
"""Services of which the mixes in the shapes of perf-tests ask."""
PODS: Final = 1000
LIST_SECONDS: Final = 60.0

OUTSIDE: Final = ("www.example.com", "example.org", "registry.example.net")

Question = tuple[str, str]
"""A name without its last dot, and a type."""

ANSWERED: Final = frozenset({"NOERROR"})
DENIED: Final = frozenset({"NXDOMAIN"})
WALKED: Final = ANSWERED | DENIED | {"REFUSED"}
"""A search path ends in the name as it stands, which an authority without upstreams refuses."""


class Mix(msgspec.Struct, frozen=True):
    """Questions, and the RCODEs that a server that works answers them with."""

    name: str
    questions: tuple[Question, ...]
    rcodes: frozenset[str]


class Known(msgspec.Struct, frozen=True):
    """What of a cluster is asked for: Services as (name, namespace, ports' labels, cluster IPs), addresses of pods."""

    services: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...]
    pods: tuple[tuple[str, str], ...]
    zone: str = "cluster.local"


NAMES: Final = ("cluster", "hot", "service", "nx-domain", "outside", "pod-ip", "all")


def generated(services: int, namespaces: int = 10) -> Known:
    """Return what is known of a cluster that ``bench.cluster`` generates."""
    some = tuple(
        (f"svc{number}", f"ns{number % namespaces}", ("_http._tcp",), (_address(number),)) for number in range(services)
    )
    return Known(
        some, tuple((f"ns{number % namespaces}", f"10-1-{number >> 8}-{number & 255}") for number in range(PODS))
    )


def _address(number: int) -> str:
    return f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def read_cluster(
    *, manifests: Sequence[Path] = (), kubeconfig: Path | None = None, context: str | None = None, zone: str
) -> Known:
    """Return what is known of a cluster from its manifests or its API server. Raises BenchError."""
    flags = {
        "manifests": [str(path) for path in manifests],
        "kubeconfig": str(kubeconfig) if kubeconfig is not None else None,
        "context": context,
        "zone": [zone],
    }
    try:
        return trio.run(_read, config.load(flags, None))
    except ConfigError as exc:
        raise BenchError("; ".join(map(str, exc.problems))) from exc


async def _read(conf: config.Config) -> Known:
    cluster = Cluster(conf)
    cluster.load()
    if not cluster.sink.is_synced:
        with trio.move_on_after(LIST_SECONDS) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cluster.source.run)
                await cluster.synced.wait()
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            found = "; ".join(cluster.sink.troubles.values()) or "it did not list everything"
            raise BenchError(f"API server: {found}, within {LIST_SECONDS:g} s")
    services = tuple(
        _known(service) for service in cluster.store.services() if service.cluster_ips and service.external_name is None
    )
    if not services:
        raise BenchError("the cluster has no Service with a cluster IP to ask for")
    pods = [
        (namespace.decode(), dashed_address(endpoint.address).decode())
        for namespace in cluster.store.namespaces()
        for service in cluster.store.services()
        if service.namespace == namespace
        for piece in cluster.store.slices_of(service)
        for endpoint in piece.endpoints[: PODS // 10]
    ]
    return Known(services, tuple(pods[:PODS]) or (("default", "10-0-0-1"),), conf.zones[0].to_text().rstrip("."))


def _known(service: Service) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    ports = tuple(f"_{port.name.decode()}._{port.protocol.decode()}" for port in service.ports if port.name)
    ips = tuple(address_to_text(address) for address in service.cluster_ips)
    return service.name.decode(), service.namespace.decode(), ports, ips


def make(name: str, known: Known, *, seed: int = SEED) -> Mix:
    """Return the mix of that name over what is known; another *seed* gives another order, and other missing names."""
    source = random.Random(seed)
    match name:
        case "cluster":
            questions = [question for service in known.services for question in _four(service, known.zone)]
            source.shuffle(questions)
            return Mix(name, tuple(questions), ANSWERED)
        case "hot":
            some = known.services[:HOT_NAMES]
            return Mix(name, tuple((_name(service, known.zone), "A") for service in some), ANSWERED)
        case "service":
            return Mix(name, _walks(known, [_short(s) for s in known.services[:PERF_SERVICES]]), WALKED)
        case "nx-domain":
            namespaces = sorted({service[1] for service in known.services})
            return Mix(
                name,
                tuple(
                    (f"x{source.getrandbits(48):012x}.{namespaces[at % len(namespaces)]}.svc.{known.zone}", "A")
                    for at in range(MISSING_NAMES)
                ),
                DENIED,
            )
        case "outside":
            return Mix(name, _walks(known, OUTSIDE), WALKED)
        case "pod-ip":
            return Mix(
                name,
                tuple((f"{label}.{namespace}.pod.{known.zone}", "A") for namespace, label in known.pods),
                ANSWERED | DENIED,
            )
        case "all":
            parts = [make(part, known, seed=seed) for part in ("service", "outside", "pod-ip")]
            missing = make("nx-domain", known, seed=seed).questions[:1000]
            questions = [*missing, *(question for part in parts for question in part.questions)]
            source.shuffle(questions)
            return Mix(name, tuple(questions), ANSWERED | DENIED | {"REFUSED"})
    raise BenchError(f"no mix {name!r}; there are {', '.join(NAMES)}")


def _name(service: tuple[str, str, tuple[str, ...], tuple[str, ...]], zone: str) -> str:
    return f"{service[0]}.{service[1]}.svc.{zone}"


def _short(service: tuple[str, str, tuple[str, ...], tuple[str, ...]]) -> str:
    return f"{service[0]}.{service[1]}"


def _four(service: tuple[str, str, tuple[str, ...], tuple[str, ...]], zone: str) -> list[Question]:
    name = _name(service, zone)
    questions = [(name, "A"), (name, "AAAA")]
    questions += [(f"{port}.{name}", "SRV") for port in service[2][:1]]
    questions += [(_reverse(address), "PTR") for address in service[3][:1]]
    return questions


def _reverse(address: str) -> str:
    if ":" in address:
        from ipaddress import IPv6Address

        return IPv6Address(address).reverse_pointer
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


def _walks(known: Known, names: Sequence[str]) -> tuple[Question, ...]:
    """Return what the search path of a pod makes of *names*: every step, as ``ndots:5`` has it."""
    namespace = known.services[0][1]
    steps = (f"{namespace}.svc.{known.zone}", f"svc.{known.zone}", known.zone)
    return tuple(
        (question, rrtype)
        for name in names
        for question in (*(f"{name}.{step}" for step in steps), name)
        for rrtype in ("A", "AAAA")
    )
