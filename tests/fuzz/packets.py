"""Targets that read what comes over the network: queries, replies of upstreams, sessions, streams."""

from __future__ import annotations

import functools
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import dns.message
import dns.rrset
import dns.tsigkeyring
import trio

from kdns.answer.push import Feed
from kdns.answer.session import DsoSession
from kdns.errors import WireError
from kdns.net.connections import Connections
from kdns.net.handler import Client
from kdns.net.tcp import TcpListener
from kdns.proto import dso
from kdns.proto.message import read_message
from kdns.proto.query import HEADER_OCTETS, MAX_UDP_OCTETS, MIN_UDP_OCTETS, Transport
from kdns.proto.reading import read_query
from kdns.proto.table import Entry
from kdns.upstream.question import Question
from nodelocal.body import sections
from nodelocal.reply import read_addresses, read_reply
from tests.support.cases import Cluster, question, Setup
from zones.names import Name
from zones.objects import Endpoint, EndpointSlice, Namespace, Port, Service
from zones.pods import PodMode
from zones.records import A, AAAA, OPT, SRV

_FORMERR = 1


@functools.cache
def cluster() -> Cluster:
    """The cluster that is asked: a bit of everything."""
    endpoints = tuple(
        Endpoint(bytes((10, 1, 0, number)), b"" if number % 3 else b"host%d" % number) for number in range(40)
    )
    return Cluster(
        Setup(
            objects=(
                Namespace(b"default"),
                Service(b"default", b"web", (bytes((10, 96, 0, 1)),), (Port(b"http", b"tcp", 80),)),
                Service(b"default", b"db", (), (Port(b"pg", b"tcp", 5432),), is_headless=True),
                Service(b"default", b"ext", external_name=Name.from_text("www.example.com.")),
                EndpointSlice(b"default", b"db-1", b"db", endpoints, (Port(b"pg", b"tcp", 5432),)),
            ),
            pods=PodMode.INSECURE,
            records=("www.corp.test 60 TXT hello",),
        )
    )


def _queries() -> tuple[bytes, ...]:
    asked = [
        "web.default.svc.cluster.local. A", "db.default.svc.cluster.local. A", "db.default.svc.cluster.local. SRV",
        "_http._tcp.web.default.svc.cluster.local. SRV", "ext.default.svc.cluster.local. A", "cluster.local. SOA",
        "no.default.svc.cluster.local. AAAA", "1.0.96.10.in-addr.arpa. PTR", "10-1-2-3.default.pod.cluster.local. A",
        "www.corp.test. TXT", "www.example.com. A", "dns-version.cluster.local. TXT", "db.default.svc.cluster.local. ANY",
        "cluster.local. AXFR", ".svc.cluster.local. A"[1:],
    ]  # fmt: skip
    plain = [question(text) for text in asked]
    edns = [question(text, edns=True) for text in asked]
    options = b"\0\x0a\0\x08abcdefgh\0\x08\0\x07\0\1\x18\0\xc0\0\2\0\x0b\0\0\xff\x2e\0\2\0\1"
    opt = (
        plain[0][:10]
        + b"\0\1"
        + plain[0][12:]
        + b"\0\0\x29\x04\xd0\0\0\x80\0"
        + struct.pack("!H", len(options))
        + options
    )
    signed = dns.message.make_query("web.default.svc.cluster.local.", "A")
    signed.use_tsig(dns.tsigkeyring.from_text({"k.": "c2VjcmV0"}), "k.")
    pointers = (
        b"\0\1\1\0\0\1\0\0\0\0\0\0"
        + b"".join(struct.pack("!H", 0xC000 | (12 + 2 * at)) for at in range(1, 50))
        + b"\0\0\1\0\1"
    )
    update = b"\0\1\x28\0" + plain[0][4:]
    return (*plain, *edns, opt, signed.to_wire(), pointers, update)


QUERIES = _queries()


def query(data: bytes) -> None:
    """The query view: a WireError or a question, and then the one that dnspython reads."""
    for transport in Transport:
        try:
            read = read_query(data, transport)
        except WireError:
            continue
        assert read.id == data[:2]
        assert data[HEADER_OCTETS : HEADER_OCTETS + len(read.question)] == read.question
        if data[6:12] == bytes(6):  # nothing but a question: then another decoder must see the same
            theirs = dns.message.from_wire(data, ignore_trailing=True).question[0]
            assert theirs.name.to_wire() == read.qname.wire
            assert (theirs.rdtype, theirs.rdclass) == (read.qtype, read.qclass)


def respond(data: bytes) -> None:
    """The whole of kdns but its sockets: silence or a response that another decoder can read, the same each time."""
    for transport in Transport:
        reply = cluster().respond(data, transport)
        if reply is None:
            assert len(data) < HEADER_OCTETS or data[2] & 0x80, "silence is for what is no query"
            continue
        assert reply[:2] == data[:2]
        assert reply[2] & 0xF8 == 0x80 | data[2] & 0x78, "QR, and the opcode of the query"
        assert len(reply) <= (65_535 if transport is Transport.TCP else MAX_UDP_OCTETS)
        if reply[4:6] == b"\0\1":
            end = _end_of_question(reply)
            assert data[HEADER_OCTETS:end] == reply[HEADER_OCTETS:end], "the question as it was spelled"
            if transport is Transport.UDP and reply[10:12] == b"\0\0":
                assert len(reply) <= MIN_UDP_OCTETS
        with suppress(dns.message.UnknownTSIGKey):  # as far as it reads one whose key nobody has
            dns.message.from_wire(reply)
        for _ in range(2):  # from each stage of the answer table
            again = cluster().respond(data, transport)
            assert again is not None
            assert again[:4] == reply[:4]
            if not reply[2] & 0x02:  # what is left of a truncated one depends on the order
                assert sorted(again) == sorted(reply) or len(again) == len(reply)


def _end_of_question(wire: bytes) -> int:
    at = HEADER_OCTETS
    while wire[at]:
        at += 1 + wire[at]
    return at + 5


_NAME = Name.from_text("www.example.com.")


def _replies() -> tuple[bytes, ...]:
    made = []
    for answer, authority in (
        (["www.example.com. 60 IN A 192.0.2.1", "www.example.com. 30 IN A 192.0.2.2"], []),
        (["www.example.com. 60 IN CNAME a.example.com.", "a.example.com. 60 IN CNAME b.example.net.",
          "b.example.net. 9 IN A 192.0.2.3"], []),
        (["www.example.com. 60 IN AAAA 2001:db8::1"], []),
        (["www.example.com. 60 IN SRV 0 5 80 a.example.com."], []),
        ([], ["example.com. 60 IN SOA a.example.com. h.example.com. 1 2 3 4 60"]),
        (["bank.test. 60 IN A 192.0.2.66"], ["bank.test. 60 IN NS evil.test."]),
    ):  # fmt: skip
        message = dns.message.make_response(dns.message.make_query("www.example.com.", "A", use_edns=0))
        for section, lines in ((message.answer, answer), (message.authority, authority)):
            for line in lines:
                owner, ttl, rclass, kind, rdata = line.split(maxsplit=4)
                section.append(dns.rrset.from_text(owner, int(ttl), rclass, kind, rdata))
        made.append(message.to_wire())
    return tuple(made)


REPLIES = _replies()


def message(data: bytes) -> None:
    """The message codec: a WireError, or a message whose names are names."""
    try:
        read = read_message(data)
    except WireError:
        return
    for record in (*read.answer, *read.authority):
        assert 1 <= len(record.owner.wire) <= 255


def reply(data: bytes) -> None:
    """What nodelocal makes of an upstream's reply: a WireError, or an entry with records of the question's chain alone."""
    for qtype in (A, AAAA, SRV):
        asked = Question(_NAME, qtype)
        if len(data) < HEADER_OCTETS:
            return  # nothing shorter is let through to it
        entry = read_addresses(data, asked, None)
        if entry is None:
            try:
                entry = read_reply(data, asked, lambda name: True)
            except WireError:
                continue
        answer, authority = sections(entry, _NAME, 5)
        known = _NAME
        for rrset in answer:
            assert rrset.owner.key == known.key or rrset.rtype == 39, "no owner but those that the chain leads to"
            assert rrset.ttl == 5
            if rrset.rtype == 5:
                known = Name.trusted(rrset.rdatas[0])
        assert all(
            _NAME.is_under(rrset.owner) or known.is_under(rrset.owner) for rrset in authority if rrset.rtype == 6
        )


SESSIONS = (
    dso.make_dso(7, dso.keepalive(15, 30)),
    dso.make_dso(8, dso.subscribe(Name.from_text("web.default.svc.cluster.local."), A)),
    dso.make_dso(9, dso.subscribe(Name.from_text("db.default.svc.cluster.local."), 255)),
    dso.make_dso(0, dso.unsubscribe(8)),
    dso.make_dso(0, dso.retry_delay(3)),
)


def session(data: bytes) -> None:
    """A DNS Stateful session: whatever is said in it, it is answered, passed over, or cut."""
    sent: list[bytes] = []
    cuts: list[bool] = []
    feed = Feed(cluster().authority.records_of)
    open_one = DsoSession(feed, sent.append, lambda: cuts.append(True), 0.0)
    open_one.receive(SESSIONS[0], 0.0)
    for part in (data, SESSIONS[1], data, data[: len(data) // 2]):
        if len(part) >= HEADER_OCTETS and dso.is_dso(part):
            open_one.receive(part, 1.0)
    for wire in sent:
        assert dso.is_dso(wire)
        if not wire[2] & 0x80:
            dso.read_push(wire)
    list(feed.flush())
    open_one.end()
    assert feed.subscriptions == 0
    with suppress(WireError):
        dso.read_push(data)


class _Streams:
    """A TCP listener in a thread of its own."""

    def __init__(self) -> None:
        self.port = 0
        self._ready = threading.Event()
        threading.Thread(target=trio.run, args=(self._serve,), daemon=True).start()
        self._ready.wait()

    async def _serve(self) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=64)
        self.port = listener.socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(TcpListener(listener, _Echo(), Connections(max_total=256)).serve)
            self._ready.set()


class _Echo:
    """Answers each message with the rest of it."""

    def __init__(self) -> None:
        self.find: Callable[[bytes], Entry | None] = lambda key: None

    def respond(self, wire: bytes, client: Client) -> bytes:
        return wire[2:]

    def count(self, hits: object, seconds: float) -> None:
        """Nothing is counted."""


_streams = functools.cache(_Streams)

STREAMS = tuple(
    b"".join(len(wire).to_bytes(2, "big") + wire for wire in QUERIES[start : start + 4]) for start in range(0, 16, 4)
)


def stream(data: bytes) -> None:
    """TCP framing: every whole message is answered, in any segmentation; then the end, whatever came last."""
    expected, at = [], 0
    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        if at + 2 + size > len(data):
            break
        if size >= 2:
            expected.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    cut = sum(data) % (len(data) + 1)
    with socket.create_connection(("127.0.0.1", _streams().port), 10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for part in (data[:cut], data[cut:]):
                sock.sendall(part)
            sock.shutdown(socket.SHUT_WR)
            got = b"".join(iter(partial(sock.recv, 65_536), b""))
        except ConnectionError:
            return  # it had more than enough of messages that are none
    replies = []
    while got:
        size = int.from_bytes(got[:2], "big")
        replies.append(got[2 : 2 + size])
        got = got[2 + size :]
    assert sorted(replies) == sorted(one for one in expected if len(one) >= HEADER_OCTETS) or sorted(replies) == sorted(
        expected
    )


def edns(data: bytes) -> None:
    """An OPT record, and a record beside it, made of the input: the rest of the query is right."""
    head = b"\0\1\1\0\0\1\0\0\0\0\0%c" + QUERIES[0][HEADER_OCTETS:]
    options = data[6:]
    opt = b"\0" + OPT.to_bytes(2, "big") + data[:6].ljust(6, b"\0") + struct.pack("!H", len(options)) + options
    for wire in (head % 1 + opt, head % 2 + opt + b"\0\0\x10\0\1\0\0\0\0\0\0", head % 2 + opt + opt, head % 1 + data):
        query(wire)
        respond(wire)


OPTIONS = (
    b"\x04\xd0\0\0\0\0", b"\x04\xd0\0\0\x80\0" + b"\0\x0a\0\x08abcdefgh", b"\x02\0\0\1\0\0", b"\xff\xff\0\0\0\x40" + b"\0\x0b\0\2\0\1",
    b"\0\0\0\0\0\0" + b"\0\x08\0\7\0\1\x18\0\xc0\0\2" + b"\xff\x2e\0\2\0\1" + b"\0\x0c\0\4\0\0\0\0",
)  # fmt: skip
