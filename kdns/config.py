"""The configuration of ``kdns``: every option, read from flags and a TOML file, checked whole.

``kdns.options`` has how they are read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import Enum
from ipaddress import ip_network, IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final

import msgspec

from kdns.admin.pages import Audience
from kdns.control.client import Access, SERVICE_ACCOUNT
from kdns.errors import ConfigError, Problem
from kdns.net.addresses import Listen, listen_from_text
from kdns.options import (
    ANSWERS,
    api_options,
    choice,
    client_options,
    cookie_option,
    existing,
    LAMEDUCK,
    listen_options,
    LOG_OPTIONS,
    LogFormat,
    Option,
    read_options,
    readable_file,
    SERVING,
    STATIC_OPTIONS,
    static_records,
    switch,
    text,
    upstream,
    whole_number,
    zone,
)
from kdns.tap import Collector
from kdns.upstream.servers import DNS_PORT, Server, TLS_PORT
from zones.names import Name
from zones.pods import PodMode
from zones.records import CNAME, RRset
from zones.reverse import IN_ADDR_ARPA, IP6_ARPA, reverse_zones_from_text
from zones.rewrite import Rule
from zones.selectors import Selector

MAX_TTL_SECONDS: Final = 3600
"""CoreDNS's bound: a client that keeps an answer for longer is a pod that talks to one long gone."""


class EndpointMode(Enum):
    """Which EndpointSlices are watched."""

    ALL = "all"
    HEADLESS = "headless"
    NONE = "none"


class PushMode(Enum):
    """Over which connections changes are pushed; the value is what a user writes."""

    OFF = "off"
    TLS = "tls"
    TCP = "tcp"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that ``kdns serve`` was told, valid as a whole; each field is explained by its ``Option``."""

    manifests: tuple[Path, ...]
    access: Access | None
    listen: tuple[Listen, ...]
    listen_tls: tuple[Listen, ...]
    tls_cert: Path | None
    tls_key: Path | None
    push: PushMode
    admin: tuple[Listen, ...]
    status: Audience
    zones: tuple[Name, ...]
    clusterset_zones: tuple[Name, ...]
    external_zones: tuple[Name, ...]
    reverse: tuple[Name, ...]
    pods: PodMode
    ttl: int
    endpoints: EndpointMode
    endpoint_pod_names: bool
    zonal: bool
    ignore_empty_service: bool
    namespaces: frozenset[str] | None
    namespace_labels: Selector
    labels: Selector
    hosts: tuple[Path, ...]
    records: tuple[RRset, ...]
    rewrites: tuple[Rule, ...]
    upstreams: tuple[Server | Path, ...]
    transfer_to: tuple[IPv4Network | IPv6Network, ...]
    notify: tuple[Listen, ...]
    compare_seconds: float
    state_dir: Path | None
    ready_when_stale: bool
    cookie_secret: bytes | None
    client_rate: float
    client_slip: int
    lameduck: float
    workers: int
    log_queries: bool
    log_errors: bool
    log_format: LogFormat
    dnstap: Collector | None


def _namespace(value: Any) -> str:
    name = text(value)
    if not all(char.isalnum() or char == "-" for char in name) or name != name.lower() or len(name) > 63:
        raise ValueError("no DNS label")
    return name


MAX_WORKERS: Final = 64
"""Each has the objects in memory; more processors than this are better used by more replicas."""


def _workers(value: Any) -> int:
    if value == "auto":
        own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(own, MAX_WORKERS)
    count = whole_number(MAX_WORKERS)(value)
    if not count:
        raise ValueError("none")
    return count


def _writable_folder(value: Any) -> Path:
    path = Path(text(value))
    if not path.is_dir() or not os.access(path, os.W_OK):
        raise ValueError("no folder that can be written to")
    return path


STATE: Final = "What outlives the process"
TRANSFER: Final = "Zone transfer"
SOURCE = "Where objects come from (exactly one; none of them: the service account of the pod this runs in)"

OPTIONS: Final[Sequence[Option]] = (
    Option(
        "manifests",
        "PATH",
        "A file or folder of manifests, YAML or JSON, followed as it changes. Repeatable.",
        "a file or folder",
        existing,
        is_list=True,
        needs_one=True,
        group=SOURCE,
    ),
    *api_options(SOURCE),
    Option(
        "compare-every",
        "SECONDS",
        "Compare what is known with what the API server has, this often; list anew what differs, and "
        "count it. 0: never.",
        "whole seconds from 0 to 86400",
        whole_number(86_400),
        default=3600,
        group=SOURCE,
    ),
    *listen_options(["[::]:53"], ["[::]:9153", "[::]:8080", "[::]:8181"], admin_port=9153),
    *client_options(default_slip=2),
    cookie_option("Give DNS cookies (RFC 9018) to clients that ask with one; who shows it is not limited."),
    Option(
        "upstream",
        "SERVER",
        "Ask there for names outside the zones: an address, ADDR:PORT, tcp://ADDR, tls://ADDR#NAME, or a resolv.conf "
        "followed as it changes. "
        "Repeatable, in the order to ask; without one such names are REFUSED.",
        "an address such as 192.0.2.1, tcp://192.0.2.1 or tls://192.0.2.1#dns.example, or the path of a resolv.conf",
        upstream,
        is_list=True,
        group=SERVING,
    ),
    Option(
        "listen-tls",
        "ADDR:PORT",
        "Answer there over TLS (DNS over TLS, RFC 7858). Repeatable; no port means 853.",
        f"an address and port such as 127.0.0.1:{TLS_PORT}",
        lambda value: listen_from_text(text(value), default_port=TLS_PORT),
        is_list=True,
        group=SERVING,
    ),
    Option(
        "tls-cert",
        "FILE",
        "The certificate for --listen-tls, with those it was signed by; read anew when it changes.",
        "a readable file of PEM certificates",
        readable_file,
        group=SERVING,
    ),
    Option("tls-key", "FILE", "Its key.", "a readable file with a PEM key", readable_file, group=SERVING),
    Option(
        "push",
        "MODE",
        "Push changes to those who subscribe (RFC 8765), as nodelocal does: off; tls, over --listen-tls alone; tcp, "
        "over plain TCP as well, which is for the cluster's own network.",
        "off, tls or tcp",
        choice(PushMode),
        "off",
        group=SERVING,
    ),
    LAMEDUCK,
    Option(
        "workers",
        "N",
        "Processes that answer; auto: one for each processor. With one, the process that follows the cluster answers "
        "as well; with more, it does nothing but feed them.",
        f"a whole number from 1 to {MAX_WORKERS}, or auto",
        _workers,
        1,
        group=SERVING,
    ),
    Option(
        "zone",
        "ZONE",
        "A cluster zone. Repeatable; the first is the one that reverse names point into.",
        "a domain name such as cluster.local",
        zone,
        ["cluster.local"],
        is_list=True,
        needs_one=True,
        group=ANSWERS,
    ),
    Option(
        "clusterset-zone",
        "ZONE",
        "A multicluster zone, such as clusterset.local: the ServiceImports of the cluster. Repeatable.",
        "a domain name such as clusterset.local",
        zone,
        is_list=True,
        group=ANSWERS,
    ),
    Option(
        "external-zone",
        "ZONE",
        "A zone for the outside world: <service>.<namespace> of Services with external addresses, and the hostnames "
        "of Ingresses, Gateways and their routes. Repeatable.",
        "a domain name such as apps.example.com",
        zone,
        is_list=True,
        group=ANSWERS,
    ),
    Option(
        "reverse",
        "ZONE|CIDR",
        "A reverse zone, or a network. Repeatable; by default the whole of in-addr.arpa and ip6.arpa.",
        "a network such as 10.96.0.0/12 or a zone such as 96.10.in-addr.arpa",
        lambda value: reverse_zones_from_text(text(value)),
        is_list=True,
        group=ANSWERS,
    ),
    Option(
        "pods",
        "MODE",
        "Names such as 10-1-2-3.default.pod: disabled, insecure (any address), verified (addresses of pods).",
        "disabled, insecure or verified",
        choice(PodMode),
        "disabled",
        group=ANSWERS,
    ),
    Option(
        "ttl",
        "SECONDS",
        "The TTL of answers.",
        f"whole seconds from 0 to {MAX_TTL_SECONDS}",
        whole_number(MAX_TTL_SECONDS),
        5,
    ),
    Option(
        "endpoints",
        "WHICH",
        "Watch all EndpointSlices; headless: those of headless Services alone, by the label that their controller "
        "gives them (slices made by hand may lack it, and endpoints of Services with a cluster IP have no names); or "
        "none: then headless Services have no names either.",
        "all, headless or none",
        choice(EndpointMode),
        "all",
    ),
    Option(
        "endpoint-pod-names",
        None,
        "Name endpoints without a hostname by their pod.",
        "true or false",
        switch,
        default=False,
    ),
    Option(
        "ignore-empty-service",
        None,
        "Deny Services with a cluster IP and no ready endpoint.",
        "true or false",
        switch,
        default=False,
    ),
    Option(
        "zonal",
        None,
        "Serve <topology zone>.pin._zone.<service>… and ….prefer._zone.<service>… of headless Services.",
        "true or false",
        switch,
        default=False,
    ),
    Option("namespace", "NAME", "Show this namespace alone. Repeatable.", "a namespace", _namespace, is_list=True),
    Option(
        "namespace-labels",
        "SELECTOR",
        "Show the namespaces with these labels alone.",
        "a label selector such as team=web",
        lambda value: Selector.from_text(text(value)),
    ),
    Option(
        "labels",
        "SELECTOR",
        "Use the Services, EndpointSlices and pods with these labels alone.",
        "a label selector such as app!=test",
        lambda value: Selector.from_text(text(value)),
    ),
    Option(
        "transfer-to",
        "CIDR",
        "Transfer the zones (AXFR) to secondaries in this network. Repeatable; without it nobody gets one.",
        "a network such as 192.0.2.0/24 or an address",
        lambda value: ip_network(text(value)),
        is_list=True,
        group=TRANSFER,
    ),
    Option(
        "notify",
        "ADDR:PORT",
        "Send NOTIFY there when a zone has changed. Repeatable.",
        "an address and port such as 192.0.2.1:53",
        lambda value: listen_from_text(text(value), default_port=DNS_PORT),
        is_list=True,
        group=TRANSFER,
    ),
    Option(
        "state-dir",
        "DIR",
        "Keep the serials of the zones there, so that they grow over a restart whatever the clock says; and the "
        "objects, so that a restart answers from them at once while the API server is away.",
        "a folder that can be written to",
        _writable_folder,
        group=STATE,
    ),
    Option(
        "ready-when-stale",
        None,
        "Be ready, too, while answering from what --state-dir has, the API server not having been heard yet.",
        "true or false",
        switch,
        default=False,
        group=STATE,
    ),
    *STATIC_OPTIONS,
    *LOG_OPTIONS,
)


def load(flags: Mapping[str, Any], file: Path | None, *, needs_source: bool = True) -> Config:
    """Build the configuration from *flags* (option name to what was written; None or empty: not given) and *file*.

    Raises ConfigError with every problem at once. Without *needs_source* a configuration that names none is fine.
    """
    given = read_options(OPTIONS, flags, file, program="kdns")
    values, written, problems = given.values, given.written, given.problems
    needs_source = needs_source and (file is None or given.has_file)  # an unreadable file may well have named one
    _check_together(values, written, problems, needs_source=needs_source)
    records = static_records(values, written, problems, ttl=values["ttl"])
    if problems:
        raise ConfigError(problems)
    reverse = [name for some in values["reverse"] for name in some] or [IN_ADDR_ARPA, IP6_ARPA]
    access = None
    if not values["manifests"]:
        access = Access(url=values["api-server"], kubeconfig=values["kubeconfig"], context=values["context"])
    return Config(
        manifests=tuple(values["manifests"]),
        access=access,
        listen=tuple(dict.fromkeys(values["listen"])),
        listen_tls=tuple(dict.fromkeys(values["listen-tls"])),
        tls_cert=values["tls-cert"],
        tls_key=values["tls-key"],
        push=values["push"],
        admin=tuple(dict.fromkeys(values["admin"])),
        status=values["status"],
        zones=tuple(dict.fromkeys(values["zone"])),
        external_zones=tuple(dict.fromkeys(values["external-zone"])),
        clusterset_zones=tuple(dict.fromkeys(values["clusterset-zone"])),
        reverse=tuple(dict.fromkeys(reverse)),
        pods=values["pods"],
        ttl=values["ttl"],
        endpoints=values["endpoints"],
        endpoint_pod_names=values["endpoint-pod-names"],
        zonal=values["zonal"],
        ignore_empty_service=values["ignore-empty-service"],
        namespaces=frozenset(values["namespace"]) or None,
        namespace_labels=values["namespace-labels"] or Selector(),
        labels=values["labels"] or Selector(),
        hosts=tuple(dict.fromkeys(values["hosts"])),
        records=records,
        rewrites=tuple(values["rewrite"]),
        upstreams=tuple(values["upstream"]),
        transfer_to=tuple(dict.fromkeys(values["transfer-to"])),
        notify=tuple(dict.fromkeys(values["notify"])),
        compare_seconds=values["compare-every"],
        state_dir=values["state-dir"],
        ready_when_stale=values["ready-when-stale"],
        cookie_secret=os.urandom(16) if values["cookies"] else None,
        client_rate=values["client-rate"],
        client_slip=values["client-slip"],
        lameduck=values["lameduck"],
        workers=values["workers"],
        log_queries=values["log-queries"],
        log_errors=values["log-errors"],
        log_format=values["log-format"],
        dnstap=values["dnstap"],
    )


_PARTIAL: Final = frozenset({EndpointMode.HEADLESS, EndpointMode.NONE})

_ZONES: Final = ("zone", "clusterset-zone", "external-zone")


def _check_together(
    values: Mapping[str, Any], written: Mapping[str, tuple[str, Any]], problems: list[Problem], *, needs_source: bool
) -> None:
    sources = [name for name in ("manifests", "kubeconfig", "api-server") if name in written]
    if len(sources) > 1:
        found = " and ".join(written[name][0] for name in sources)
        problems.append(Problem("source", found, "one of --manifests, --kubeconfig and --api-server"))
    if "context" in written and "kubeconfig" not in written:
        problems.append(Problem(written["context"][0], "no --kubeconfig", "a kubeconfig that has the context"))
    if not sources and needs_source and not SERVICE_ACCOUNT.is_dir():
        expected = "--manifests, --kubeconfig or --api-server, or to run in a pod with a service account"
        problems.append(Problem("source", "none", expected))
    if "notify" in written and "transfer-to" not in written:
        problems.append(Problem(written["notify"][0], "no --transfer-to", "who may have the zones, once told of them"))
    problems.extend(
        Problem(written["notify"][0], str(secondary), "a port from 1 on")
        for secondary in values["notify"]
        if secondary is not None and not secondary.port
    )
    problems.extend(
        Problem(written["listen-tls"][0], f"no --{name}", "a certificate and its key")
        for name in ("tls-cert", "tls-key")
        if "listen-tls" in written and name not in written
    )
    problems.extend(
        Problem(written[name][0], "no --listen-tls", "an address to answer over TLS at")
        for name in ("tls-cert", "tls-key")
        if name in written and "listen-tls" not in written
    )
    if values["push"] is PushMode.TLS and "listen-tls" not in written:
        problems.append(Problem(written["push"][0], "tls, and no --listen-tls", "an address to answer over TLS at"))
    if "ready-when-stale" in written and "state-dir" not in written:
        problems.append(Problem(written["ready-when-stale"][0], "no --state-dir", "a folder to answer from"))
    taken: dict[Listen, str] = {}
    for name in ("listen", "listen-tls", "admin"):
        for listen in dict.fromkeys(values[name]):
            if listen is not None and listen.port and taken.setdefault(listen, name) != name:
                place = written.get(name, (f"--{name}",))[0]
                problems.append(Problem(place, f"{listen}, which --{taken[listen]} has, too", "an address of its own"))
    if "namespace" in written and "namespace-labels" in written:
        place = written["namespace-labels"][0]
        problems.append(Problem(place, f"{written['namespace'][0]} besides", "one of the two"))
    mode = values["endpoints"]
    if "ignore-empty-service" in written and mode in _PARTIAL:
        place = written["ignore-empty-service"][0]
        problems.append(
            Problem(
                place, f"--endpoints {mode.value} besides", "one of the two: without its endpoints a Service is empty"
            )
        )
    problems.extend(
        Problem(written[name][0], f"--endpoints {mode.value} besides", "one of the two: it needs endpoints")
        for name, lacking in (("zonal", {EndpointMode.NONE}), ("clusterset-zone", _PARTIAL))
        if name in written and mode in lacking
    )
    problems.extend(
        Problem(written["record"][0], f"a CNAME at {rrset.owner}, the apex of a zone", "a CNAME below it")
        for rrset in values["record"]
        if rrset is not None
        and rrset.rtype == CNAME
        and any(rrset.owner == origin for name in _ZONES for origin in values[name])
    )
    origins = [(name, origin) for name in _ZONES for origin in values[name] if origin is not None]
    problems.extend(
        Problem(written[name][0], f"{origin}, a reverse zone", "a domain name for names; --reverse is for addresses")
        for name, origin in origins
        if origin.is_under(IN_ADDR_ARPA) or origin.is_under(IP6_ARPA)
    )
    for at, (name, origin) in enumerate(origins):
        if origin in [other for _, other in origins[:at]]:
            problems.append(Problem(written[name][0], f"{origin} a second time", "each zone once"))
