"""What a change of one Service sends to watchers and to nodes: octets by the size of the cluster, in four ways.

| way                              | the API server sends to                    | kdns sends to                    |
|----------------------------------|--------------------------------------------|----------------------------------|
| 1 Endpoints                      | every node, the object of the Service      | nobody                           |
| 2 EndpointSlices                 | every node, the slice that changed         | nobody                           |
| 3 kdns                           | its replicas, the slice that changed       | nobody: nodes ask at a TTL's end |
| 4 kdns --endpoints headless,     | its replicas, the slice, if it is headless | nodes that hold the name, the    |
|   nodelocal's subscriptions      |                                            | records that changed             |

One update: a pod ceases to be ready, or is again: one event of the object that has it and, in 4, one push of one A
record. A rolling update replaces every pod once: an event without the old endpoint and one with the new one, and a push
for each; so a replacement is two updates. Controllers are not assumed to batch. A real one writes up to twice as many
events (a pod is there but not ready, a pod terminates) where no DNS record changes: 1, 2 and 3 are lower bounds.

An event is the very line of JSON, a push what ``kdns.proto.dso`` makes. The simulation then has the stand-in API server
and a real kdns send both.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import statistics
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from ipaddress import IPv4Address
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode
from uuid import NAMESPACE_OID, uuid5

from bench.process import BenchError, free_port, Process
from bench.report import progress, Report, Row
from kdns.proto import dso
from kdns.proto.query import SERVFAIL
from tests.support.api_server import ApiServer
from tests.support.kube import namespace, service
from zones.names import Name
from zones.records import A, RRset

SLICE_ENDPOINTS: Final = 100
"""Of one slice: the default of kube-controller-manager's ``--max-endpoints-per-slice``."""
MAX_WHOLE: Final = 1000
"""Endpoints that an Endpoints object has at most since Kubernetes 1.22."""
MAX_ENDPOINTS: Final = 150_000
"""Pods of the largest cluster that Kubernetes means to support."""
MAX_PARTIES: Final = 100
"""Watchers or subscribers of the simulation: the stand-in has a thread for each watch."""
ROLLED_PODS: Final = 20
"""Pods of the rolling update that is simulated."""
WAIT_SECONDS: Final = 10.0
VERSION: Final = 100_000_000
"""Resource versions have nine digits, as in a cluster that has run for months."""

HEADLESS: Final = "web"
CLUSTER_IP: Final = "app"
"""The two Services; names of one length, so that a difference is not the names'."""
LABEL: Final = "service.kubernetes.io/headless"

_MADE_AT: Final = "2026-11-22T11:39:10Z"
_UNITS: Final = ("kB", "MB", "GB", "TB", "PB", "EB")

Json = dict[str, Any]


# -- the very objects -------------------------------------------------------------------------------------------------


def address_of(number: int) -> str:
    """Return a pod's address; all are equally long, so that it does not matter which pod changes."""
    return f"10.{100 + number // 10_000}.{100 + number // 100 % 100}.{100 + number % 100}"


def _pod(name: str, number: int) -> Json:
    uid = _uid("Pod", name, number)
    reference = {"kind": "Pod", "namespace": "default", "name": f"{name}-6d4b75cb6d-{uid[:5]}", "uid": uid}
    return {"targetRef": reference, "nodeName": f"node-{number % 15_000:05}"}


def _uid(*parts: object) -> str:
    return str(uuid5(NAMESPACE_OID, repr(parts)))


def _meta(name: str, uid: str, version: str, labels: Json, fields: Json) -> Json:
    labelled: Json = {"f:labels": {".": {}, **{f"f:{key}": {} for key in labels}}}
    fields = {**fields, "f:metadata": {**labelled, **fields.get("f:metadata", {})}}
    entry = {"manager": "kube-controller-manager", "operation": "Update", "apiVersion": version, "time": _MADE_AT}
    meta = {"name": name, "namespace": "default", "uid": uid, "creationTimestamp": _MADE_AT, "labels": labels}
    return {**meta, "managedFields": [{**entry, "fieldsType": "FieldsV1", "fieldsV1": fields}]}


def slice_object(
    name: str, numbers: Iterable[int], unready: frozenset[int] = frozenset(), *, part: int = 0, is_headless: bool = True
) -> Json:
    """Return the EndpointSlice *part* of a Service with the pods of these *numbers*, but for its resource version.

    Source: what Kubernetes 1.36's controller wrote in the recordings, managedFields included.
    """
    labels = {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
    labels |= {"kubernetes.io/service-name": name, **({LABEL: ""} if is_headless else {})}
    uid, owner = _uid("EndpointSlice", name, part), _uid("Service", name)
    owned: Json = {"f:generateName": {}, "f:ownerReferences": {".": {}, f'k:{{"uid":"{owner}"}}': {}}}
    fields: Json = {"f:addressType": {}, "f:endpoints": {}, "f:metadata": owned, "f:ports": {}}
    reference = {"apiVersion": "v1", "kind": "Service", "name": name, "uid": owner, "controller": True}
    meta = _meta(f"{name}-{uid[:5]}", uid, "discovery.k8s.io/v1", labels, fields)
    meta |= {"generateName": f"{name}-", "generation": 1234}
    endpoints = [
        {
            "addresses": [address_of(number)],
            "conditions": {"ready": number not in unready, "serving": number not in unready, "terminating": False},
            **_pod(name, number),
            "zone": "zone-a",
        }
        for number in numbers
    ]
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {**meta, "ownerReferences": [{**reference, "blockOwnerDeletion": True}]},
        "addressType": "IPv4",
        "endpoints": endpoints or None,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}] if endpoints else None,
    }


def endpoints_object(name: str, numbers: Sequence[int], unready: frozenset[int] = frozenset()) -> Json:
    """Return the Endpoints object of a headless Service with all of these pods, but for its resource version.

    No recording has one: metadata in the manner of the slices', addresses as the core/v1 API has them.
    """
    labels = {"endpoints.kubernetes.io/managed-by": "endpoint-controller", LABEL: ""}
    subset: Json = {"ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}
    for number in numbers:
        key = "notReadyAddresses" if number in unready else "addresses"
        subset.setdefault(key, []).append({"ip": address_of(number), **_pod(name, number)})
    meta = _meta(name, _uid("Endpoints", name), "v1", labels, {"f:subsets": {}})
    return {"kind": "Endpoints", "apiVersion": "v1", "metadata": meta, **({"subsets": [subset]} if numbers else {})}


def event_octets(item: Json) -> int:
    """Return the octets of the line that a watch sends when *item* is modified, newline included."""
    shown = {**item, "metadata": {**item["metadata"], "resourceVersion": str(VERSION)}}
    return len(_line({"type": "MODIFIED", "object": shown}))


def _line(event: Json) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def push_octets(removed: Sequence[int], added: Sequence[int]) -> int:
    """Return the octets of the pushes that tell of pods of the headless Service, each with its 2 octets of length."""
    owner = _owner(HEADLESS)
    gone, new = (
        [RRset(owner, A, 5, tuple(IPv4Address(address_of(number)).packed for number in some))] if some else []
        for some in (removed, added)
    )
    return sum(2 + len(wire) for wire in dso.make_pushes(gone, new))


def _owner(name: str) -> Name:
    return Name.from_text(f"{name}.default.svc.cluster.local")


# -- the arithmetic ---------------------------------------------------------------------------------------------------


class Way(NamedTuple):
    """How nodes follow one Service: octets for one watcher, and for one node that holds the name."""

    title: str
    service: str
    """Which Service it is about: any, cluster IP or headless."""
    watchers: int | None
    """Of the API server; None: every node."""
    update_event: int
    rolling_events: int
    update_push: int = 0
    rolling_pushes: int = 0


class Cost(NamedTuple):
    """Octets that the API server sends to all its watchers, and that kdns pushes to all nodes."""

    api: int
    push: int


def update_octets(way: Way, nodes: int, holders: float) -> Cost:
    """Return what one update costs a cluster of so many *nodes*; *holders* is the share of them that hold the name."""
    watchers = nodes if way.watchers is None else way.watchers
    return Cost(watchers * way.update_event, round(holders * nodes) * way.update_push)


def rolling_octets(way: Way, nodes: int, holders: float) -> Cost:
    """Return what one rolling update of the whole Service costs, like ``update_octets``."""
    watchers = nodes if way.watchers is None else way.watchers
    return Cost(watchers * way.rolling_events, round(holders * nodes) * way.rolling_pushes)


def slice_event(count: int, *, unready: int = 0, is_headless: bool = True) -> int:
    """Return the octets of an event of a slice of *count* endpoints, of which so many are *unready*."""
    name = HEADLESS if is_headless else CLUSTER_IP
    return event_octets(slice_object(name, range(count), frozenset(range(unready)), is_headless=is_headless))


def slice_rolling(count: int, pods: int) -> int:
    """Return the octets of the events of a headless slice of *count* endpoints while so many *pods* are replaced."""
    return pods * (slice_event(count - 1) + slice_event(count)) if pods else 0


def ways(endpoints: int, replicas: int) -> list[Way]:
    """Return all ways to follow a Service of so many *endpoints*. Those for any Service have the headless one's sizes,
    some 80 octets an event above those of one with a cluster IP."""
    found = []
    for count in dict.fromkeys((endpoints, min(endpoints, MAX_WHOLE))):
        is_cut = count < endpoints
        full = event_octets(endpoints_object(HEADLESS, range(count)))
        # of an object that is cut, a pod that goes makes room for one that was left out
        less = full if is_cut else event_octets(endpoints_object(HEADLESS, range(count - 1)))
        update = event_octets(endpoints_object(HEADLESS, range(count), frozenset((0,))))
        title = f"1 cut at {MAX_WHOLE:,}" if is_cut else "1 Endpoints"
        found.append(Way(title, "any", None, update, endpoints * (less + full)))
    whole, rest = divmod(endpoints, SLICE_ENDPOINTS)
    update = slice_event(min(endpoints, SLICE_ENDPOINTS), unready=1)
    rolling = whole * slice_rolling(SLICE_ENDPOINTS, SLICE_ENDPOINTS) + slice_rolling(rest, rest)
    gone, new = push_octets((0,), ()), push_octets((), (0,))
    return [
        *found,
        Way("2 EndpointSlices", "any", None, update, rolling),
        Way("3 kdns", "any", replicas, update, rolling),
        Way("4 kdns + push", "cluster IP", replicas, 0, 0),
        Way("4 kdns + push", "headless", replicas, update, rolling, gone, endpoints * (gone + new)),
    ]


def octets_text(octets: int) -> str:
    """Return *octets* with four digits and a decimal unit."""
    power = min((len(str(octets)) - 1) // 3, len(_UNITS))
    return f"{octets / 1000**power:.4g} {_UNITS[power - 1]}" if power else f"{octets} B"


# -- the simulation ---------------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """What a party got of one Service: octets as they came and without the stand-in's blanks, objects or records."""

    service: str
    octets: int
    dense: int
    things: int


class _Party:
    """Somebody who is told."""

    def __init__(self, told: Iterator[Told]) -> None:
        self._told = told
        self.got: list[Told] = []

    def read(self) -> None:
        """Wait for what is told next."""
        self.got.append(next(self._told))


def _watch(port: int, selector: str) -> Generator[Told]:
    """Watch slices over plain HTTP; the first that is yielded is empty and says that the watch stands."""
    path = "/apis/discovery.k8s.io/v1/endpointslices?"
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)) as connection:
        connection.request("GET", f"{path}limit=1")
        version = json.load(connection.getresponse())["metadata"]["resourceVersion"]
        query = urlencode({"watch": "true", "resourceVersion": version, "labelSelector": selector})
        connection.request("GET", path + query)
        body = connection.getresponse()
        yield Told("", 0, 0, 0)
        while (line := body.readline()).endswith(b"\n"):
            event = json.loads(line)
            name = event["object"]["metadata"]["labels"]["kubernetes.io/service-name"]
            yield Told(name, len(line), len(_line(event)), 1)
    raise BenchError("the API server ended a watch")


def _subscribe(port: int, number: int) -> Generator[Told]:
    """Subscribe to both Services' addresses, as a nodelocal that holds them does; ask again until kdns knows all."""
    address, source = ("127.0.0.1", port), (f"127.0.1.{1 + number}", 0)
    deadline = time.monotonic() + WAIT_SECONDS
    with socket.create_connection(address, WAIT_SECONDS, source) as sock, sock.makefile("rb") as stream:
        requests = [
            dso.make_dso(at, dso.subscribe(_owner(name), A)) for at, name in enumerate((CLUSTER_IP, HEADLESS), 1)
        ]
        for wire in requests:
            sock.sendall(len(wire).to_bytes(2, "big") + wire)
        while (size := int.from_bytes(stream.read(2), "big")) and len(wire := stream.read(size)) == size:
            message = dso.read_dso(wire)
            if not message.is_response:
                notices = dso.read_push(wire)
                name = notices[0].owner.to_text().partition(".")[0]
                yield Told(name, 2 + len(wire), 2 + len(wire), len(notices))
            elif message.rcode == SERVFAIL and time.monotonic() < deadline:
                time.sleep(0.05)
                wire = requests[message.message_id - 1]
                sock.sendall(len(wire).to_bytes(2, "big") + wire)
            elif message.rcode:
                raise BenchError(f"kdns refused a subscription with RCODE {message.rcode}")
    raise BenchError("kdns ended a session")


def simulate(endpoints: int, watchers: int, subscribers: int) -> list[Row]:
    """Have a stand-in API server and a real kdns tell of updates; return what was predicted and what came.

    Every change waits until all have been told of the one before, so nothing is batched.
    """
    first = min(endpoints, SLICE_ENDPOINTS)
    found: list[Row] = []
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(ApiServer())
        api.restore(VERSION)
        api.bookmark_seconds = 600.0
        api.put(namespace(), service(HEADLESS), service(CLUSTER_IP, "10.96.255.1"))
        api.put(slice_object(CLUSTER_IP, range(first), is_headless=False))
        for part, at in enumerate(range(0, endpoints, SLICE_ENDPOINTS)):
            api.put(slice_object(HEADLESS, range(at, min(at + SLICE_ENDPOINTS, endpoints)), part=part))
        port = free_port()
        command = [sys.executable, "-m", "kdns", "serve", "--api-server", api.url, "--listen", f"127.0.0.1:{port}"]
        command += ["--admin", "127.0.0.1:0", "--push", "tcp", "--lameduck", "0", "--endpoints", "headless"]
        stack.enter_context(Process("kdns", command, port, _owner(CLUSTER_IP)))

        def party(told: Generator[Told]) -> _Party:
            return _Party(stack.enter_context(contextlib.closing(told)))

        everything, headless = ([party(_watch(api.port, some)) for _ in range(watchers)] for some in ("", LABEL))
        told = [party(_subscribe(port, number)) for number in range(subscribers)]
        everyone = [*everything, *headless, *told]

        def put(numbers: Iterable[int], unready: frozenset[int] = frozenset()) -> None:
            api.put(slice_object(HEADLESS, numbers, unready))
            for one in everyone:
                one.read()

        def compare(what: str, name: str, *predicted: int) -> None:
            sorts = {"watcher": everything, "headless watcher": headless, "subscriber": told}
            for (who, some), octets in zip(sorts.items(), predicted, strict=True):
                found.append(_compared(what, who, octets, told_of(some, name)))

        def forget() -> None:
            for one in everyone:
                one.got.clear()

        def told_of(some: Sequence[_Party], name: str) -> list[list[Told]]:
            return [[each for each in one.got if each.service == name] for one in some]

        for one in (*everything, *headless):
            one.read()
        for one in told:  # each at once: kdns closes a session that leaves what it is sent for seconds
            while sum(each.things for each in one.got) < 1 + endpoints:
                one.read()
        found.append(_compared("beginning", "subscriber", push_octets((), range(endpoints)), told_of(told, HEADLESS)))
        forget()
        api.put(slice_object(CLUSTER_IP, range(first), frozenset((0,)), is_headless=False))
        for one in everything:
            one.read()
        put(range(first), frozenset((0,)))  # told in order: who got anything of the other Service has read that first
        event = slice_event(first, unready=1)
        compare("update, cluster IP", CLUSTER_IP, slice_event(first, unready=1, is_headless=False), 0, 0)
        compare("update, headless", HEADLESS, event, event, push_octets((0,), ()))
        put(range(first))
        forget()
        pods = min(first, ROLLED_PODS)
        for number in range(pods):
            left, new = list(range(number + 1, first)), list(range(endpoints, endpoints + number + 1))
            put([*left, *new[:-1]])
            put([*left, *new])
        events, pushes = slice_rolling(first, pods), pods * (push_octets((0,), ()) + push_octets((), (0,)))
        compare(f"rolling, {pods} pod{'s' * (pods > 1)}", HEADLESS, events, events, pushes)
    return found


def _compared(what: str, who: str, predicted: int, got: Sequence[Sequence[Told]]) -> Row:
    came = [sum(each.octets for each in some) for some in got]
    measured, dense = (
        round(statistics.mean(sums)) for sums in (came, [sum(one.dense for one in some) for some in got])
    )
    ratios = [f"{octets / predicted:.3f}" if predicted else None for octets in (measured, dense)]
    row = {"what": what, "who": who, "count": len(got), "predicted": predicted, "measured": measured, "dense": dense}
    return {**row, "ratio": ratios[0], "dense_ratio": ratios[1], "least": min(came), "most": max(came)}


# -- the bench --------------------------------------------------------------------------------------------------------


def run(
    report: Report,
    *,
    endpoints: int,
    replicas: int,
    holders: float,
    nodes: Sequence[int],
    watchers: int,
    subscribers: int,
) -> None:
    """Report what one update and one rolling update cost; *holders* is the share of nodes that hold the name."""
    if not 1 <= endpoints <= MAX_ENDPOINTS:
        raise BenchError(f"{endpoints} endpoints: takes from 1 to {MAX_ENDPOINTS:,}")
    if not 0 <= holders <= 1:
        raise BenchError(f"{holders:g} is no share of the nodes that hold the name: takes from 0 to 1")
    if not nodes or min(*nodes, replicas, watchers, subscribers) < 1 or max(watchers, subscribers) > MAX_PARTIES:
        raise BenchError(f"takes 1 or more nodes and replicas, and from 1 to {MAX_PARTIES} watchers and subscribers")
    every = ways(endpoints, replicas)
    for title, cost_of in (("One update", update_octets), ("One rolling update", rolling_octets)):
        rows = [_row(way, count, cost_of(way, count, holders)) for count in nodes for way in every]
        shown = {"nodes": "nodes", "way": "way", "service": "Service"}
        shown |= {"api": "API server", "push": "push", "total": "total"}
        report.table(f"{title} of a Service of {endpoints:,} endpoints", rows, columns=shown)
    _draw(report, every, endpoints, nodes, holders)
    progress(f"simulation: {watchers} watchers of each sort, {subscribers} subscribers")
    try:
        measured = simulate(endpoints, watchers, subscribers)
    except (OSError, http.client.HTTPException) as exc:
        raise BenchError(f"the simulation broke off: {str(exc) or type(exc).__name__}") from exc
    shown = {key: key for key in ("what", "who", "predicted", "measured", "ratio")}
    shown |= {"dense": "no blanks", "dense_ratio": "ratio"}
    report.table("Simulation: octets that each of them got", measured, columns=shown)
    for text in _notes(every, endpoints, replicas, holders):
        report.note(text)


def _row(way: Way, nodes: int, cost: Cost) -> Row:
    octets = {"api": cost.api, "push": cost.push, "total": cost.api + cost.push}
    texts = {key: octets_text(value) for key, value in octets.items()}
    event = {"update_event_octets": way.update_event, "update_push_octets": way.update_push}
    numbers = {f"{key}_octets": value for key, value in octets.items()}
    return {"nodes": nodes, "way": way.title, "service": way.service, **texts, **numbers, **event}


def _draw(report: Report, every: Sequence[Way], endpoints: int, nodes: Sequence[int], holders: float) -> None:
    title = f"One rolling update of a headless Service of {endpoints:,} endpoints"
    with report.figure(title, "nodes", "sent by API server and kdns together") as axes:
        axes.set_xscale("log")
        axes.set_yscale("log")
        drawn = [way for way in every if way.service != "cluster IP"]
        lines = [[sum(rolling_octets(way, count, holders)) for count in nodes] for way in drawn]
        for way, totals, mark in zip(drawn, lines, "ovs^D"[-len(drawn) :], strict=True):
            axes.plot(nodes, totals, marker=mark, label=way.title)
        axes.plot([], [], " ", label="(4 with a cluster IP: nothing)")
        axes.set_xticks(list(nodes), [f"{count:,}" for count in nodes])
        least, most = (len(str(bound(map(bound, lines)))) for bound in (min, max))
        decades = [10**power for power in range(least - 1, most + 1)]
        axes.set_yticks(
            decades, [f"{10 ** (power % 3)} {('B', *_UNITS)[power // 3]}" for power in range(least - 1, most + 1)]
        )
        axes.minorticks_off()
        axes.tick_params(labelsize="small")
        axes.legend(fontsize="small")


def _notes(every: Sequence[Way], endpoints: int, replicas: int, holders: float) -> list[str]:
    whole, fourth = every[0].update_event, every[-1]
    answer = 12 + len(_owner(HEADLESS).wire) + 4 + 16 * endpoints
    return [
        f"{replicas} replicas; {holders:.0%} of the nodes hold the name. One event: Endpoints {whole:,} octets, "
        f"a slice {fourth.update_event:,}; one push: {fourth.update_push}.",
        "Counted are lines of JSON, and DNS messages with their 2 octets of length; not TCP, IP, TLS and HTTP, nor "
        "lists, bookmarks, keepalives and what begins a subscription.",
        f"Kubernetes cuts Endpoints at {MAX_WHOLE:,} endpoints since 1.22: whoever reads them misses the others. "
        "The whole object is what it would cost to see all; etcd takes none above 1.5 MB.",
        "Agents written in Go may ask for protobuf, smaller than JSON; kube-proxy leaves headless slices out.",
        "4 with a cluster IP: its slices are not watched, and its records do not change with its pods.",
        "Not counted: nodes of 3 ask again when a TTL ends; nodelocal in 4 drops what it was pushed about, and asks "
        f"again when a client does. The whole answer has {answer:,} octets"
        + (", more than a DNS message can." if answer > 65_535 else "."),
        "The stand-in API server writes JSON with blanks, a real one without: hence two figures.",
    ]
