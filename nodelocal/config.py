"""The configuration of ``nodelocal``: every option, read from flags and a TOML file, checked whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from kdns.admin.pages import Audience
from kdns.errors import ConfigError, Problem
from kdns.net.addresses import Listen
from kdns.options import (
    api_options,
    choice,
    client_options,
    cookie_option,
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
from kdns.upstream.servers import Protocol, Server, server_from_text
from nodelocal.cluster import ClusterService, service_from_text
from nodelocal.entry import Limits
from nodelocal.expand import Mode
from nodelocal.network.plan import NODE_OPTIONS, Plan, plan_of
from zones.names import Name
from zones.records import RRset
from zones.rewrite import Rule

CLUSTER_ENV: Final = "KUBE_DNS_UPSTREAM_SERVICE_HOST"
"""Where a pod finds the address of the Service kube-dns-upstream, as NodeLocal DNSCache does (CONTRACT row 16.9)."""

STATIC_TTL: Final = 30
"""The TTL of static records that have none of their own."""

MIN_CACHE_OCTETS: Final = 2**20
MAX_CACHE_OCTETS: Final = 2**36

ASKED: Final = "Who is asked"
CACHE: Final = "Cache"
EXPANSION: Final = "Search-path expansion"
PODS: Final = "The node's pods (without --node, the name asked for alone tells the namespace, by stricter rules)"

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

DEFAULT_CONTROL: Final = "/run/nodelocal/control.sock"

_UNITS: Final = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that ``nodelocal serve`` was told, valid as a whole; each field is explained by its ``Option``."""

    listen: tuple[Listen, ...]
    plan: Plan | None = None
    supervise: bool = False
    admin: tuple[Listen, ...]
    status: Audience
    control: Path
    cluster: tuple[Server, ...]
    cluster_service: ClusterService | None = None
    zone: str | None = None
    cluster_zones: tuple[Name, ...]
    upstreams: tuple[Server | Path, ...]
    stubs: dict[Name, tuple[Server, ...]]
    hosts: tuple[Path, ...]
    records: tuple[RRset, ...]
    rewrites: tuple[Rule, ...]
    subscribe: bool
    tls_ca: Path | None
    random_case: bool
    expand: Mode
    search: tuple[Name, ...] | None
    absolute_first: bool
    limits: Limits
    cookie_secret: bytes | None
    client_rate: float
    client_slip: int
    node: str | None
    kubeconfig: Path | None
    context: str | None
    api_server: str | None
    lameduck: float
    log_queries: bool
    log_errors: bool
    log_format: LogFormat
    dnstap: Collector | None

    @property
    def is_watching(self) -> bool:
        """Whether the API server is asked for anything."""
        return self.node is not None or self.cluster_service is not None


class PublicNames:
    """How names under public top-level domains are walked for; the values are what a user writes."""

    CLUSTER_FIRST: Final = "cluster-first"
    ABSOLUTE_FIRST: Final = "absolute-first"


def _size(value: Any) -> int:
    """Read octets: ``33554432``, ``32MiB``."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
        number = int(value)
    else:
        written = text(value).strip().lower()
        digits = written.rstrip("kmgib")
        unit = written[len(digits) :]
        if not (digits.isascii() and digits.isdigit()) or unit not in _UNITS:
            raise ValueError("no size")
        number = int(digits) * _UNITS[unit]
    if not MIN_CACHE_OCTETS <= number <= MAX_CACHE_OCTETS:
        raise ValueError("out of range")
    return number


def _public(value: Any) -> bool:
    if value not in (PublicNames.CLUSTER_FIRST, PublicNames.ABSOLUTE_FIRST):
        raise ValueError
    return bool(value == PublicNames.ABSOLUTE_FIRST)


def _subscribe(value: Any) -> bool:
    if value not in ("auto", "off"):
        raise ValueError
    return bool(value == "auto")


def _stub(value: Any) -> tuple[Name, tuple[Server, ...]]:
    name, equals, servers = text(value).partition("=")
    if not equals or not servers:
        raise ValueError("no ZONE=ADDR")
    return zone(name), tuple(server_from_text(server.strip()) for server in servers.split(","))


def _cluster(value: Any) -> Server | ClusterService:
    return service_from_text(text(value)) or server_from_text(text(value), default=Protocol.TCP)


OPTIONS: Final[Sequence[Option]] = (
    *listen_options(["169.254.20.10:53"], ["169.254.20.10:8080", "[::]:9253", "[::]:9353"], admin_port=9253),
    Option(
        "control",
        "PATH",
        "The Unix socket at which `nodelocal stats`, `dump`, `flush` and `explain` ask this process.",
        "a path in a folder that exists or can be made",
        lambda value: Path(text(value)),
        DEFAULT_CONTROL,
        group=SERVING,
    ),
    LAMEDUCK,
    *NODE_OPTIONS,
    *client_options(default_slip=1),
    cookie_option(
        "Give DNS cookies (RFC 9018) to clients that ask with one, and ask upstreams with some: who has shown one must "
        "repeat ours from then on."
    ),
    Option(
        "cluster",
        "SERVER",
        "The cluster's DNS, asked for --cluster-zone and for reverse names: an address (asked over TCP), udp://ADDR, "
        "tls://ADDR#NAME, or kubernetes: the ready endpoints of the Service kube-system/kube-dns (another one: "
        "kubernetes:NAMESPACE/NAME), the addresses while those are not known. Repeatable, in the order to ask. Without "
        f"it, the address in ${CLUSTER_ENV}.",
        "an address such as 10.96.0.10, udp://10.96.0.10 or tls://10.96.0.10#dns.example, or kubernetes",
        _cluster,
        is_list=True,
        needs_one=True,
        group=ASKED,
    ),
    Option(
        "zone",
        "ZONE",
        "The topology zone of this node: with --cluster kubernetes, servers there are asked first; those on the node "
        "itself, where --node is known, before all.",
        "the name of a zone",
        text,
        group=ASKED,
    ),
    Option(
        "cluster-zone",
        "ZONE",
        "A zone of the cluster. Repeatable.",
        "a domain name such as cluster.local",
        zone,
        ["cluster.local"],
        is_list=True,
        needs_one=True,
        group=ASKED,
    ),
    Option(
        "upstream",
        "SERVER",
        "Who is asked for all other names: an address (asked over UDP), tcp://ADDR, tls://ADDR#NAME, or a resolv.conf "
        "followed as it changes. Repeatable, in the order to ask.",
        "an address such as 192.0.2.1, tcp://192.0.2.1 or tls://192.0.2.1#dns.example, or the path of a resolv.conf",
        partial(upstream, default=Protocol.UDP),
        ["/etc/resolv.conf"],
        is_list=True,
        group=ASKED,
    ),
    Option(
        "stub",
        "ZONE=ADDR[,ADDR]",
        "A zone with servers of its own. Repeatable.",
        "a zone and its servers, such as corp.example=192.0.2.1,tcp://192.0.2.2",
        _stub,
        is_list=True,
        group=ASKED,
    ),
    Option(
        "subscribe",
        "WHEN",
        "auto: where the cluster's DNS is a kdns that pushes changes, be told of those to what the cache holds; off.",
        "auto or off",
        _subscribe,
        "auto",
        group=ASKED,
    ),
    Option(
        "tls-ca",
        "FILE",
        "Certificates to trust for tls:// servers in place of the system's.",
        "a readable file of PEM certificates",
        readable_file,
        group=ASKED,
    ),
    Option(
        "random-case",
        None,
        "Spell names at random in questions over UDP, and take only replies that repeat the spelling (0x20); a server "
        "that does not is asked over TCP.",
        "true or false",
        switch,
        default=False,
        group=ASKED,
    ),
    Option(
        "expand",
        "MODE",
        "transparent: the first step of a pod's search path is answered with what the whole path ends at; explicit: "
        "only names of the form <name>.search.<namespace>.<zone>.ap.k8s.io are; off.",
        "transparent, explicit or off",
        choice(Mode),
        "transparent",
        group=EXPANSION,
    ),
    Option(
        "search",
        "DOMAIN",
        "A search domain that pods have behind those of the cluster. Repeatable; by default those of the resolv.conf "
        "files among --upstream.",
        "a domain name such as corp.example",
        zone,
        is_list=True,
        group=EXPANSION,
    ),
    Option(
        "public-names",
        "ORDER",
        "Names under a public top-level domain (example.com) are looked for as clients do, in the cluster first, or as "
        "they are before any namespace but the pod's own, so that one called com cannot take them: cluster-first or "
        "absolute-first.",
        "cluster-first or absolute-first",
        _public,
        "cluster-first",
        group=EXPANSION,
    ),
    Option(
        "cache-size",
        "SIZE",
        "Memory for the cache; a quarter of it is for denials.",
        "a size from 1MiB to 64GiB, such as 32MiB",
        _size,
        "32MiB",
        group=CACHE,
    ),
    Option(
        "min-ttl",
        "SECONDS",
        "The least TTL: also what upstreams want kept for less, or not at all, is kept for this long.",
        "whole seconds from 0 to 3600",
        whole_number(3600),
        0,
        group=CACHE,
    ),
    Option(
        "max-ttl",
        "SECONDS",
        "The most that an answer is kept for.",
        "whole seconds from 0 to 86400",
        whole_number(86_400),
        3600,
        group=CACHE,
    ),
    Option(
        "max-negative-ttl",
        "SECONDS",
        "The most that a denial is kept for.",
        "whole seconds from 0 to 3600",
        whole_number(3600),
        1800,
        group=CACHE,
    ),
    Option(
        "max-stale",
        "SECONDS",
        "How long after its TTL an answer may still be served while no upstream answers; 0: never.",
        "whole seconds from 0 to 259200",
        whole_number(259_200),
        3600,
        group=CACHE,
    ),
    *STATIC_OPTIONS,
    Option(
        "node",
        "NAME",
        "Watch the pods of this node: only they are expanded for, each in its own namespace, names without a dot too.",
        "the name of a node",
        text,
        group=PODS,
    ),
    *api_options(PODS),
    *LOG_OPTIONS,
)


def load(flags: Mapping[str, Any], file: Path | None) -> Config:
    """Build the configuration from *flags* (option name to what was written; None or empty: not given) and *file*.

    Raises ConfigError with every problem at once.
    """
    given = read_options(OPTIONS, flags, file, program="nodelocal")
    values, written, problems = given.values, given.written, given.problems
    cluster = list(values["cluster"])
    if "cluster" not in written and (file is None or given.has_file):  # an unreadable file may well have named one
        address = os.environ.get(CLUSTER_ENV)
        if address is None:
            problems.append(Problem("--cluster", f"nothing, and no ${CLUSTER_ENV}", "the address of the cluster's DNS"))
        else:
            try:
                cluster = [server_from_text(address, default=Protocol.TCP)]
            except ValueError as exc:
                problems.append(Problem(f"${CLUSTER_ENV}", f"{address!r} ({exc})", "an address"))
    plan, listen = plan_of(values, written, problems)
    stubs = _stubs(values, written, problems)
    _check_together(values, written, problems)
    records = static_records(values, written, problems, ttl=STATIC_TTL)
    if problems:
        raise ConfigError(problems)
    return Config(
        listen=listen,
        plan=plan,
        supervise=values["supervise"],
        admin=tuple(dict.fromkeys(values["admin"])),
        status=values["status"],
        control=values["control"],
        cluster=tuple(dict.fromkeys(one for one in cluster if isinstance(one, Server))),
        cluster_service=next((one for one in cluster if isinstance(one, ClusterService)), None),
        zone=values["zone"],
        cluster_zones=tuple(dict.fromkeys(values["cluster-zone"])),
        upstreams=tuple(dict.fromkeys(values["upstream"])),
        stubs=stubs,
        hosts=tuple(dict.fromkeys(values["hosts"])),
        records=records,
        rewrites=tuple(values["rewrite"]),
        subscribe=values["subscribe"],
        tls_ca=values["tls-ca"],
        random_case=values["random-case"],
        expand=values["expand"],
        search=tuple(dict.fromkeys(values["search"])) if "search" in written else None,
        absolute_first=values["public-names"],
        limits=Limits(
            max_octets=values["cache-size"],
            min_ttl=values["min-ttl"],
            max_ttl=values["max-ttl"],
            max_negative_ttl=values["max-negative-ttl"],
            max_stale=values["max-stale"],
        ),
        cookie_secret=os.urandom(16) if values["cookies"] else None,
        client_rate=values["client-rate"],
        client_slip=values["client-slip"],
        node=values["node"],
        kubeconfig=values["kubeconfig"],
        context=values["context"],
        api_server=values["api-server"],
        lameduck=values["lameduck"],
        log_queries=values["log-queries"],
        log_errors=values["log-errors"],
        log_format=values["log-format"],
        dnstap=values["dnstap"],
    )


def _stubs(
    values: Mapping[str, Any], written: Mapping[str, tuple[str, Any]], problems: list[Problem]
) -> dict[Name, tuple[Server, ...]]:
    stubs: dict[Name, tuple[Server, ...]] = {}
    for stub in values["stub"]:
        if stub is None:
            continue
        name, servers = stub
        place = written["stub"][0]
        if name in stubs:
            problems.append(Problem(place, f"{name} twice", "each zone once, with all of its servers"))
        if name in [known for known in values["cluster-zone"] if known is not None]:
            problems.append(Problem(place, f"{name}, a --cluster-zone", "a zone that --cluster is not asked for"))
        stubs[name] = servers
    return stubs


def _check_together(values: Mapping[str, Any], written: Mapping[str, tuple[str, Any]], problems: list[Problem]) -> None:
    zones = [known for known in values["cluster-zone"] if known is not None]
    problems.extend(
        Problem(written["cluster-zone"][0], f"{known} a second time", "each zone once")
        for at, known in enumerate(zones)
        if known in zones[:at]
    )
    api = [name for name in ("kubeconfig", "api-server") if name in written]
    if len(api) > 1:
        found = " and ".join(written[name][0] for name in api)
        problems.append(Problem("API server", found, "one of --kubeconfig and --api-server"))
    if "context" in written and "kubeconfig" not in written:
        problems.append(Problem(written["context"][0], "no --kubeconfig", "a kubeconfig that has the context"))
    services = [one for one in values["cluster"] if isinstance(one, ClusterService)]
    watching = ["node"] * ("node" in written) + ["cluster"] * bool(services)
    if watching and not api and not SERVICE_ACCOUNT.is_dir():
        expected = "--kubeconfig or --api-server, or to run in a pod with a service account"
        problems.extend(Problem(written[name][0], "no API server", expected) for name in watching)
    if not watching:
        expected = "--node, whose pods are to be watched, or --cluster kubernetes"
        problems.extend(Problem(written[name][0], "nothing to watch", expected) for name in api)
    if len(services) > 1:
        problems.append(Problem(written["cluster"][0], " and ".join(map(str, services)), "one Service"))
    if "zone" in written and not services:
        problems.append(Problem(written["zone"][0], "no --cluster kubernetes", "--cluster kubernetes, which it orders"))
    least, most = values["min-ttl"], values["max-ttl"]
    if least is not None and most is not None and least > most:
        place = written.get("min-ttl", written.get("max-ttl", ("min-ttl",)))[0]
        problems.append(Problem(place, f"{least}, above max-ttl {most}", "at most max-ttl"))


def load_plan(flags: Mapping[str, Any], file: Path | None) -> Plan:
    """Build the plan of the node's network alone, from the same options. Raises ConfigError with every problem."""
    given = read_options(OPTIONS, {**flags, "setup-network": True}, file, program="nodelocal")
    plan, _ = plan_of(given.values, given.written, given.problems)
    if given.problems or plan is None:
        raise ConfigError(given.problems)
    return plan
