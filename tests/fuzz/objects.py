"""Targets that read what describes a cluster, or the program itself: events, manifests, configuration, snapshots, files."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import trio

from kdns import config as kdns_config
from kdns.control.client import Access, ApiServer
from kdns.control.cluster import CORE, paths_of
from kdns.control.events import EventDecoder
from kdns.control.framing import encode
from kdns.control.manifests import ManifestReader
from kdns.control.reflector import Reflector
from kdns.control.resource import Resource
from kdns.control.sink import StoreSink
from kdns.errors import ConfigError
from kdns.snapshot import FILE, Snapshots
from nodelocal import config as nodelocal_config
from tests.support.kube import endpoint_slice, namespace, pod, service
from zones.cluster import ClusterZone
from zones.decode import Decoder
from zones.names import Name
from zones.objects import Endpoint, EndpointSlice, Kind, Namespace, Object, Service
from zones.pods import PodMode
from zones.selectors import Scope
from zones.static import read_hosts
from zones.store import Store
from zones.zone import Serial

KINDS = {Kind.NAMESPACE, Kind.SERVICE, Kind.ENDPOINT_SLICE, Kind.POD}
ORIGIN = Name.from_text("cluster.local.")


def _event(kind: str, thing: dict[str, Any], version: int) -> str:
    thing = {**thing, "metadata": {**thing["metadata"], "resourceVersion": str(version)}}
    return json.dumps({"type": kind, "object": thing})


def _histories() -> tuple[bytes, ...]:
    web, db = service("web", "10.96.0.1"), service("db")
    ends = endpoint_slice("db", "10.1.0.1", "10.1.0.2")
    history = [
        ("ADDED", namespace()), ("ADDED", web), ("ADDED", db), ("ADDED", ends), ("ADDED", pod("p", "10.9.0.1")),
        ("MODIFIED", endpoint_slice("db", "10.1.0.2", "10.1.0.3", ready=False)), ("MODIFIED", service("web", "10.96.0.2")),
        ("DELETED", web), ("ADDED", service("ext", "", type="ExternalName", externalName="www.example.com")),
        ("MODIFIED", pod("p", "10.9.0.1", phase="Failed")), ("DELETED", namespace()), ("ADDED", namespace()),
        ("MODIFIED", endpoint_slice("db", "2001:db8::1")), ("DELETED", ends),
        ("BOOKMARK", {"kind": "Service", "metadata": {}}),
        ("ERROR", {"kind": "Status", "metadata": {}, "code": 410, "message": "too old", "reason": "Expired"}),
    ]  # fmt: skip
    lines = [_event(kind, thing, 10 + at).encode() for at, (kind, thing) in enumerate(history)]
    # Large slices, of which only what changed is read: one endpoint replaced, one gone and one come, all the same.
    addresses = [f"10.2.0.{number}" for number in range(80)]
    versions = [
        addresses,
        [*addresses[:40], "10.2.1.1", *addresses[41:]],
        [*addresses[:20], *addresses[21:], "10.2.1.2"],
        addresses,
    ]
    large = [_event("MODIFIED", endpoint_slice("db", *some), 50 + at).encode() for at, some in enumerate(versions)]
    lines[3:3] = large
    return (
        b"\n".join(lines),
        b"\n".join(lines[:5]),
        b"\n".join(lines[5:10]),
        b"\n".join(lines[8:]),
        lines[3],
        lines[1],
        b"\n".join(large),
    )


EVENTS = _histories()


def events(data: bytes) -> None:
    """A watch's lines, whatever is in them: bad ones are counted, and the names are those of the objects that are left."""
    trio.run(_take_events, data)


async def _take_events(data: bytes) -> None:
    store = Store()
    sink = StoreSink(store, KINDS, on_change=lambda change: None, on_synced=lambda: None)
    server = ApiServer(Access(url="http://192.0.2.1"))
    reflectors = {kind: Reflector(server, Resource(kind, paths_of(kind)), sink, Decoder()) for kind in KINDS}
    decoders = {kind: EventDecoder(kind, Decoder()) for kind in KINDS}
    for kind in KINDS:
        sink.complete(kind)
    for line in data.split(b"\n"):
        kind = next((kind for kind in KINDS if b'"%s"' % kind.value.encode() in line), Kind.SERVICE)
        batch = decoders[kind].lines([line], "a watch")
        anew = EventDecoder(kind, Decoder()).lines([line], "a watch")
        assert (batch.puts, batch.deletes, batch.bad) == (anew.puts, anew.deletes, anew.bad), (
            "what was before counts not"
        )
        if batch.error is None:
            await reflectors[kind].take(batch)
    again = Store()
    for kind in KINDS:
        for key in store.keys(kind):
            thing = store.get(kind, key)
            assert thing is not None
            again.put(thing)
    assert _records(store) == _records(again), "events give the names that the objects give at once"


def _records(store: Store) -> list[tuple[bytes, int, tuple[bytes, ...]]]:
    zone = ClusterZone(ORIGIN, store, serial=Serial(1), pods=PodMode.VERIFIED)
    return sorted((rrset.owner.key, rrset.rtype, tuple(sorted(rrset.rdatas))) for rrset in zone.walk())


MANIFESTS = (
    json.dumps({"apiVersion": "v1", "kind": "List", "items": [service("web", "10.96.0.1"), endpoint_slice("db", "10.1.0.1")]}).encode(),
    b"apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: a}\nspec:\n  clusterIP: 10.96.0.1\n  ports:\n  - {name: http, port: 80}\n"
    b"---\nkind: Namespace\napiVersion: v1\nmetadata:\n  name: b\n",
    b"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: db-1\n  labels: {kubernetes.io/service-name: db}\n"
    b"addressType: IPv4\nendpoints:\n- addresses: [10.1.0.1]\n  hostname: a\n  conditions: {ready: true}\nports:\n- port: 5432\n",
    b"a: &a [1, 2]\nb: *a\nkind: Pod\napiVersion: v1\nmetadata: {name: p}\nstatus: {podIPs: [{ip: 10.0.0.1}], phase: Running}\n",
)  # fmt: skip


@functools.cache
def _folder() -> Path:
    made = tempfile.TemporaryDirectory()
    _keep.append(made)
    return Path(made.name)


_keep: list[tempfile.TemporaryDirectory[str]] = []


def manifests(data: bytes) -> None:
    """A manifest: objects and problems, each problem with its place."""
    reader = ManifestReader(Decoder(), Scope(), CORE)
    for suffix in ("yaml", "json"):
        path = _folder() / f"m.{suffix}"
        path.write_bytes(data)
        loaded = reader.read(path)
        for problem in loaded.problems:
            assert str(problem).startswith(str(path)), problem
        store = Store()
        for thing in loaded.objects.values():
            store.put(thing)
        _records(store)


FILES = (
    b'listen = ["127.0.0.1:5300"]\nttl = 30\npods = "verified"\nupstream = ["tls://192.0.2.1#dns.example", "192.0.2.2"]\n'
    b'record = ["a.test 60 A 192.0.2.1"]\nrewrite = ["*.a.test=*.b.test"]\n',
    b'zone = ["cluster.local", "a.b"]\nreverse = ["10.0.0.0/8"]\nlameduck = 3\nworkers = 2\nclient-rate = 50.5\n[stub]\n"a.test" = ["192.0.2.1"]\n',
    b'cluster = ["192.0.2.1"]\nupstream = ["192.0.2.1:5353"]\ncache-size = 4\nexpand = "off"\nlog-format = "json"\nlog-queries = true\n',
)  # fmt: skip


def configuration(data: bytes) -> None:
    """A configuration file: a configuration, or every problem with its key."""
    path = _folder() / "c.toml"
    path.write_bytes(data)
    for load in (kdns_config.load, nodelocal_config.load):
        try:
            load({}, path)
        except ConfigError as exc:
            problems = exc.problems
        else:
            continue
        assert problems
        assert all(map(str, problems))


_AGREES = {"cluster": "a", "options": "b", "form": "c"}


def _objects() -> list[Object]:
    return [
        Namespace(b"default"),
        Service(b"default", b"web", (bytes((10, 96, 0, 1)),)),
        Service(b"default", b"ext", external_name=Name.from_text("www.example.com.")),
        EndpointSlice(b"default", b"db-1", b"db", (Endpoint(bytes((10, 1, 0, 1)), b"h"),)),
    ]


SNAPSHOTS = (b"".join(map(encode, _objects())), encode(_objects()[1]))


def snapshot(data: bytes) -> None:
    """A snapshot whose checksum is right, whatever its objects are: used, or not at all."""
    header = json.dumps({**_AGREES, "made_by": "fuzz", "made_at": 1.0}).encode()
    whole = b"kdns snapshot\n" + len(header).to_bytes(4, "big") + header + data
    (_folder() / FILE).write_bytes(whole + hashlib.sha256(whole).digest())
    store = Store()
    sink = StoreSink(store, KINDS, on_change=lambda change: None, on_synced=lambda: None)
    if not Snapshots(_folder(), _AGREES, sink).restore():
        assert not any(map(store.count, KINDS)), "nothing is left of one that is not used"
    (_folder() / FILE).write_bytes(data)
    assert not Snapshots(_folder(), _AGREES, sink).restore(), "without a checksum nothing is believed"


HOSTS = (b"10.0.0.1 a b.test # c\n2001:db8::1\ta\n\n# x\n1.2.3.4", "192.0.2.1 bücher.test\n".encode())


def hosts(data: bytes) -> None:
    """A hosts file: records, and bad lines by their number."""
    text = data.decode(errors="replace")
    records, bad = read_hosts(text, 60)
    lines = text.splitlines()
    assert all(1 <= one.number <= len(lines) for one in bad)
    assert all(len(rrset.owner.wire) <= 255 for rrset in records)


for _name in ("kdns.snapshot", "kdns.control.sink", "kdns.control.reflector"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)
