"""Ask another server everything that there is in the cluster, and say what it answers otherwise, and why.

What kdns answers is made here, from the same objects and options as a running one has; nothing needs to be running but
the other server. What differs is asked once more, a little later: a cluster changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec
import trio

from kdns.answer.authority import Ask
from kdns.cluster import Cluster
from kdns.errors import ConfigError, Problem
from kdns.proto.message import make_question, Message, read_message, Record
from kdns.proto.query import NOERROR, NXDOMAIN, Query, RCODE_TEXT, REFUSED, Transport
from kdns.proto.text import record_to_text
from kdns.upstream.forwarder import Exchanges, Forwarder, NoReply
from kdns.upstream.question import Question
from kdns.upstream.servers import Server, ServerList
from zones.names import Name
from zones.records import A, AAAA, NS, PTR, rrtype_to_text, SOA, SRV, TXT

AT_ONCE: Final = 100
AGAIN_SECONDS: Final = 2.0
_ADDRESSES: Final = frozenset((A, AAAA))


class Difference(msgspec.Struct, frozen=True):
    """A question that the two answer otherwise. *reason* is why, where that is known."""

    qname: Name
    qtype: int
    ours: str
    theirs: str
    reason: str | None

    def __str__(self) -> str:
        said = f"{self.qname} {rrtype_to_text(self.qtype)}: here {self.ours}; there {self.theirs}"
        return said if self.reason is None else f"{said} ({self.reason})"


class Comparison(msgspec.Struct):
    """What came of all questions."""

    same: int = 0
    ttl_alone: Counter[str] = msgspec.field(default_factory=Counter)
    """Answers that differ in their TTL and in nothing else: ``5 here, 30 there``."""
    differences: list[Difference] = msgspec.field(default_factory=list)

    @property
    def unexplained(self) -> int:
        """Differences without a reason."""
        return sum(one.reason is None for one in self.differences)


def questions_of(cluster: Cluster) -> Iterator[tuple[Name, int]]:
    """Yield every name and type that has records, and the other address family of every name with addresses."""
    seen: set[tuple[bytes, int]] = set()
    for zone in cluster.zones.all:
        for rrset in cluster.zones.records(zone.origin):
            for qtype in (A, AAAA) if rrset.rtype in _ADDRESSES else (rrset.rtype,):
                if (rrset.owner.key, qtype) not in seen:
                    seen.add((rrset.owner.key, qtype))
                    yield rrset.owner, qtype


async def compare(
    cluster: Cluster,
    server: Server,
    questions: Iterable[tuple[Name, int]],
    *,
    progress: Callable[[int], None] = lambda count: None,
) -> Comparison:
    """Compare the answers to *questions*; *progress* is told how many there are so far.

    Raises ConfigError, in a group, where *server* does not answer at all.
    """
    comparison = Comparison()
    suspects: list[tuple[Name, int]] = []
    count = 0
    async with trio.open_nursery() as nursery:
        exchanges = Exchanges()
        await nursery.start(exchanges.run)
        other = Forwarder(ServerList([server]), exchanges, lambda wire, asked, by: read_message(wire))
        (first,) = await _ask(other, [(cluster.zones.all[0].origin, SOA)])
        if isinstance(first, NoReply):
            raise ConfigError([Problem(f"--against {server}", first.value, "a DNS server that answers")])
        for some in _by(AT_ONCE, questions):
            replies = await _ask(other, some)
            for (qname, qtype), reply in zip(some, replies, strict=True):
                if _judge(comparison, cluster, qname, qtype, reply, is_last=False) is not None:
                    suspects.append((qname, qtype))
            count += len(some)
            progress(count)
        if suspects:
            await trio.sleep(AGAIN_SECONDS)
        for some in _by(AT_ONCE, suspects):
            replies = await _ask(other, some)
            for (qname, qtype), reply in zip(some, replies, strict=True):
                difference = _judge(comparison, cluster, qname, qtype, reply, is_last=True)
                if difference is not None:
                    comparison.differences.append(difference)
        nursery.cancel_scope.cancel()
    return comparison


def _by(size: int, questions: Iterable[tuple[Name, int]]) -> Iterator[list[tuple[Name, int]]]:
    some: list[tuple[Name, int]] = []
    for question in questions:
        some.append(question)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


async def _ask(other: Forwarder[Message], questions: Sequence[tuple[Name, int]]) -> list[Message | NoReply]:
    replies: dict[int, Message | NoReply] = {}
    there = trio.Event()

    def take(number: int, reply: Message | NoReply) -> None:
        replies[number] = reply
        if len(replies) == len(questions):
            there.set()

    for number, (qname, qtype) in enumerate(questions):
        other.ask(Question(qname, qtype), lambda reply, number=number: take(number, reply))  # type: ignore[misc]
    await there.wait()
    return [replies[number] for number in range(len(questions))]


def _judge(
    comparison: Comparison, cluster: Cluster, qname: Name, qtype: int, theirs: Message | NoReply, *, is_last: bool
) -> Difference | None:
    ours = _own(cluster, qname, qtype)
    if isinstance(theirs, NoReply):
        return Difference(qname, qtype, _shown(ours, qtype), "no answer", None)
    if ours is None:
        return Difference(qname, qtype, "asked of the upstreams", _shown(theirs, qtype), "of no zone here")
    one, other = _records(ours.answer), _records(theirs.answer)
    if ours.rcode == theirs.rcode and one == other:
        lengths = {(record.ttl, there.ttl) for record, there in zip(_sorted(ours), _sorted(theirs), strict=True)}
        if all(here == there for here, there in lengths):
            comparison.same += 1
        else:
            (here, there) = next(pair for pair in lengths if pair[0] != pair[1])
            comparison.ttl_alone[f"{here} here, {there} there"] += 1
        return None
    if not is_last:
        return Difference(qname, qtype, "", "", None)
    return Difference(
        qname, qtype, _shown(ours, qtype), _shown(theirs, qtype), _reason(cluster, qname, qtype, ours, theirs)
    )


def _reason(cluster: Cluster, qname: Name, qtype: int, ours: Message, theirs: Message) -> str | None:
    labels = qname.labels
    if labels[:2] == (b"ns", b"dns") or qtype in (NS, SOA):
        return "each server names itself"
    if labels[:1] == (b"dns-version",) and qtype == TXT:
        return "the version of the specification, which servers may lack or have another of"
    if theirs.rcode == REFUSED:
        return "the other does not serve the zone"
    if ours.rcode == NOERROR and not ours.answer and theirs.rcode == NXDOMAIN:
        return "a name with others below it exists (RFC 8020): NODATA here, denied there"
    if qtype == SRV and {record.rdata[:6] for record in ours.answer} == {record.rdata[:6] for record in theirs.answer}:
        return "names of endpoints without a hostname are each server's own"
    if qtype == PTR and ours.answer and theirs.answer:
        return "an address of several names: each server has its own order or choice"
    if cluster.overlay is not None and cluster.overlay.records.at(qname.key) is not None:
        return "a static record here"
    return None


def _own(cluster: Cluster, qname: Name, qtype: int) -> Message | None:
    """Return kdns's answer, as over TCP; None where it would ask its upstreams."""
    wire = make_question(b"\0\0", qname, qtype, edns=False)
    octets = len(wire)
    query = Query(b"\0\0", 0x0100, qname, qtype, 1, wire[12:octets], octets, Transport.TCP)
    answer = cluster.authority.answer(query)
    if isinstance(answer, Ask):
        return None
    return read_message(b"\0\0" + answer.tails[0])


def _sorted(message: Message) -> list[Record]:
    return sorted(message.answer, key=lambda record: (record.owner.key, record.rtype, record.rdata.lower()))


def _records(records: Sequence[Record]) -> frozenset[tuple[bytes, int, bytes]]:
    return frozenset((record.owner.key, record.rtype, record.rdata.lower()) for record in records)


def _shown(message: Message | None, qtype: int) -> str:
    if message is None:
        return "asked of the upstreams"
    rcode = RCODE_TEXT.get(message.rcode, str(message.rcode))
    if not message.answer:
        return "no such records" if message.rcode == NOERROR else rcode
    texts = [
        record_to_text(record).split("\t", 4 if record.rtype == qtype else 3)[-1].replace("\t", " ")
        for record in message.answer[:4]
    ]
    more = f" and {len(message.answer) - 4} more" if len(message.answer) > 4 else ""
    return ", ".join(texts) + more
