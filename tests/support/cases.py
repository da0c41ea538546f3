"""Rows of spec tables: objects, a question, and the whole response, read by three decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import dnslib

from kdns.answer.authority import Authority, ZoneSet
from kdns.answer.responder import Responder
from kdns.proto.message import read_message
from kdns.proto.query import Transport
from kdns.proto.text import record_to_text
from zones.cluster import ClusterZone
from zones.external import ExternalZone
from zones.imports import Imports
from zones.multicluster import MulticlusterZone
from zones.names import Name
from zones.objects import Object
from zones.pods import PodMode
from zones.records import address_from_text
from zones.reverse import IN_ADDR_ARPA, IP6_ARPA, ReverseZone
from zones.rewrite import Rewrites, rule_from_text
from zones.static import merged, Overlaid, Overlay, read_hosts, record_from_text, StaticRecords
from zones.store import Store
from zones.zone import Serial, Timers, Zone

SERIAL = 1_800_000_000
SOA = f"cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. {SERIAL} 7200 1800 86400 5"
SOA_IN_ADDR = SOA.replace("cluster.local. 5", "in-addr.arpa. 5", 1)
SOA_IP6 = SOA.replace("cluster.local. 5", "ip6.arpa. 5", 1)
ORIGIN = Name.from_text("cluster.local.")


@dataclass(frozen=True)
class Setup:
    """A cluster, and the options that change its answers."""

    objects: Sequence[Object] = ()
    pods: PodMode = PodMode.DISABLED
    ignore_empty_service: bool = False
    own_addresses: Sequence[str] = ("192.0.2.53", "2001:db8::53")
    zones: Sequence[str] = ("cluster.local.",)
    reverse: Sequence[Name] = (IN_ADDR_ARPA, IP6_ARPA)
    synced: bool = True
    forwards: bool = False
    ttl: int = 5
    clusterset: Sequence[str] = ()
    external: Sequence[str] = ()
    zonal: bool = False
    records: Sequence[str] = ()
    hosts: str = ""
    rewrites: Sequence[str] = ()


class Cluster:
    """The pure half of kdns over the objects of a setup."""

    def __init__(self, setup: Setup) -> None:
        imports = Imports(ignore_empty=setup.ignore_empty_service) if setup.clusterset else None
        external = tuple(map(Name.from_text, setup.external))
        self.store = Store(ignore_empty_service=setup.ignore_empty_service, imports=imports, external_zones=external)
        self.serial = Serial(SERIAL)
        timers = Timers(ttl=setup.ttl)
        own = tuple(map(address_from_text, setup.own_addresses))
        self.cluster_zones = [
            ClusterZone(
                Name.from_text(text),
                self.store,
                serial=self.serial,
                timers=timers,
                pods=setup.pods,
                own_addresses=own,
                is_zonal=setup.zonal,
            )
            for text in setup.zones
        ]
        apex = self.cluster_zones[0].apex
        self.reverse_zones = [ReverseZone(origin, self.store, apex=apex, ttl=setup.ttl) for origin in setup.reverse]
        self.clustersets = [
            MulticlusterZone(
                Name.from_text(text), self.store, imports, serial=self.serial, timers=timers, own_addresses=own
            )
            for text in setup.clusterset
            if imports is not None
        ]
        self.externals = [
            ExternalZone(
                origin,
                self.store,
                outside,
                serial=self.serial,
                timers=timers,
                own_addresses=own,
                exists=lambda key: self.overlay.records.exists(key),
            )
            for origin in external
            if (outside := self.store.outside) is not None
        ]
        self.overlay = Overlay()
        rrsets, _ = read_hosts(setup.hosts, setup.ttl)
        records = merged(record_from_text(text, setup.ttl) for text in setup.records)
        self.overlay.records = StaticRecords([("the configuration", records), ("hosts", rrsets)])
        plain: list[Zone] = [*self.cluster_zones, *self.reverse_zones, *self.clustersets, *self.externals]
        self.zones: list[Zone] = [Overlaid(zone, self.overlay) for zone in plain]
        self.authority = Authority(
            ZoneSet(self.zones),
            forwards=setup.forwards,
            reverse=frozenset(zone.origin for zone in self.reverse_zones),
            overlay=self.overlay,
            rewrites=Rewrites([rule_from_text(text) for text in setup.rewrites]),
        )
        if setup.synced:
            self.authority.unsynced.clear()
        self.responder = Responder(self.authority, forwards=setup.forwards)
        for new in setup.objects:
            self.store.put(new)

    def respond(self, wire: bytes, transport: Transport = Transport.UDP) -> bytes | None:
        """Return the whole response, from the table if it is there."""
        entry = self.responder.tables[transport].find(wire[2:])
        if entry is not None:
            return wire[:2] + entry.next()
        found = self.responder.respond(wire, transport)
        assert isinstance(found, tuple)
        return None if found[0] is None else wire[:2] + found[0]


@dataclass(frozen=True)
class Case:
    """One row. Records are text; order does not count but for a CNAME, which must come before what it leads to."""

    row: str
    ask: str
    answer: Sequence[str] = ()
    rcode: str = "NOERROR"
    authority: Sequence[str] = ()
    additional: Sequence[str] = ()
    setup: Setup = field(default_factory=Setup)
    flags: str = "QR AA RD"
    edns: bool = False
    transport: Transport = Transport.UDP

    def __str__(self) -> str:
        return self.row


def question(ask: str, *, edns: bool = False, message_id: int = 4660) -> bytes:
    """``name TYPE`` in wire form, made by dnspython."""
    name, rrtype = ask.split()
    query = dns.message.make_query(name, rrtype, use_edns=0 if edns else -1, payload=1232)
    query.id = message_id
    return query.to_wire()


def check(case: Case) -> None:
    """Ask four times, so that the answer comes from each stage of the answer table as well, and compare it whole."""
    cluster = Cluster(case.setup)
    wire = question(case.ask, edns=case.edns)
    for _ in range(4):
        reply = cluster.respond(wire, case.transport)
        assert reply is not None
        check_reply(reply, case)


def check_reply(reply: bytes, case: Case) -> None:
    """Compare *reply* with the row, as dnspython reads it; dnslib and our own reader must agree."""
    message = dns.message.from_wire(reply)
    assert dns.rcode.to_text(message.rcode()) == case.rcode
    assert set(dns.flags.to_text(message.flags).split()) == set(case.flags.split())
    for section, wanted in (
        (message.answer, case.answer),
        (message.authority, case.authority),
        (message.additional, case.additional),
    ):
        assert sorted(_lines(section)) == sorted(map(_normal, wanted))
    reached = {message.question[0].name}
    for rrset in message.answer:  # glibc needs a CNAME before what it leads to
        assert rrset.name in reached
        if rrset.rdtype == dns.rdatatype.CNAME:
            reached.add(rrset[0].target)
    ours = read_message(reply)
    for section, records in ((message.answer, ours.answer), (message.authority, ours.authority)):
        assert sorted(_normal(record_to_text(record)) for record in records) == sorted(_lines(section))
    theirs = dnslib.DNSRecord.parse(reply)
    assert (len(theirs.rr), len(theirs.auth)) == (len(ours.answer), len(ours.authority))


def _lines(section: Sequence[dns.rrset.RRset]) -> list[str]:
    return [_normal(line) for rrset in section for line in rrset.to_text().splitlines()]


def _normal(line: str) -> str:
    return " ".join(line.lower().split())
