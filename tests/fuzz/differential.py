"""The same queries to two servers, and what differs: each difference has a reason in a table, or is a fault of one of them."""

from __future__ import annotations

import random
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rrset

from tests.fuzz.mutation import Mutator

WINDOW = 64
SILENCE_SECONDS = 0.1

TYPES = ("A", "AAAA", "A", "AAAA", "SRV", "PTR", "TXT", "NS", "SOA", "CNAME", "MX", "HTTPS", "DS", "ANY", "TYPE65280")


@dataclass(frozen=True)
class Reply:
    """A reply as far as it is compared; None for silence."""

    rcode: int
    flags: int
    answer: frozenset[str]
    authority: frozenset[str]
    octets: int

    @property
    def is_truncated(self) -> bool:
        return bool(self.flags & dns.flags.TC)


def read(wire: bytes | None, *, is_ours: bool) -> Reply | None:
    """Read a reply. Of ours dnspython reads everything; of another's that it cannot read, the header."""
    if wire is None:
        return None
    try:
        message = dns.message.from_wire(wire)
    except dns.exception.DNSException as exc:
        if is_ours and not isinstance(exc, dns.message.UnknownTSIGKey):
            raise
        return Reply(wire[3] & 15, int.from_bytes(wire[2:4], "big"), frozenset(), frozenset(), len(wire))
    return Reply(int(message.rcode()), message.flags, _lines(message.answer), _lines(message.authority), len(wire))


def _lines(section: Sequence[dns.rrset.RRset]) -> frozenset[str]:
    """Return the records as text, without serials: a secondary has them later."""
    return frozenset(
        f"{rrset.name.to_text().lower()} {rrset.ttl} {dns.rdatatype.to_text(rrset.rdtype)} {_data(rdata)}"
        for rrset in section
        for rdata in rrset
    )


def _data(rdata: dns.rdata.Rdata) -> str:
    return str(rdata.replace(serial=0) if rdata.rdtype == dns.rdatatype.SOA else rdata).lower()


# -- reasons that hold for any two servers --------------------------------------------------------------------------


def _rcode(reply: Reply | None) -> int | None:
    return None if reply is None else reply.rcode


def _question(wire: bytes) -> dns.message.Message | None:
    try:
        return dns.message.from_wire(wire, question_only=True)
    except dns.exception.DNSException:
        return None


def _type_of(wire: bytes) -> int:
    message = _question(wire)
    return int(message.question[0].rdtype) if message is not None and message.question else 0


def _class_of(wire: bytes) -> int:
    message = _question(wire)
    return int(message.question[0].rdclass) if message is not None and message.question else 0


def _is_well_formed(wire: bytes) -> bool:
    """Tell whether another decoder reads it to the last octet."""
    try:
        dns.message.from_wire(wire)
    except dns.message.UnknownTSIGKey:
        return True
    except dns.exception.DNSException:
        return False
    except Exception:  # noqa: BLE001 - it raises other things too, for what it cannot read
        return False
    return True


def _is_plain_query(wire: bytes) -> bool:
    return len(wire) >= 12 and not wire[2] & 0xF8 and wire[4:10] == b"\0\1\0\0\0\0"


def _is_one_of_any(wire: bytes, ours: Reply | None, theirs: Reply | None) -> bool:
    """Tell whether ANY was asked for, and both have answers, which need not be the same RRset."""
    return (
        _type_of(wire) == dns.rdatatype.ANY
        and ours is not None
        and theirs is not None
        and bool(ours.answer and theirs.answer)
    )


def _is_minimal_here(wire: bytes, ours: Reply | None, theirs: Reply | None) -> bool:
    return ours is not None and theirs is not None and ours.rcode == theirs.rcode and ours.answer < theirs.answer


FORMERR, NOTIMP, REFUSED, NOTAUTH, BADVERS = 1, 4, 5, 9, 16

RULES: Sequence[Rule] = (
    ("another opcode: NOTIMP here", lambda wire, ours, theirs: bool(wire[2] & 0x78) and _rcode(ours) == NOTIMP),
    (
        "octets that are no message, or that go on behind it: FORMERR here (RFC 9267)",
        lambda wire, ours, theirs: not _is_well_formed(wire) and _rcode(ours) == FORMERR,
    ),
    (
        "more or fewer records than a query has: FORMERR here (RFC 9619)",
        lambda wire, ours, theirs: not _is_plain_query(wire) and _rcode(ours) == FORMERR,
    ),
    (
        "a signature that is none: FORMERR here, NOTAUTH there",
        lambda wire, ours, theirs: _rcode(ours) == FORMERR and _rcode(theirs) == NOTAUTH,
    ),
    (
        "a signature, outside all zones: NOTAUTH here",
        lambda wire, ours, theirs: _rcode(ours) == NOTAUTH and _rcode(theirs) == REFUSED,
    ),
    (
        "type 0: a type like any other here (RFC 3597), NOTIMP there",
        lambda wire, ours, theirs: _type_of(wire) == 0 and _rcode(theirs) == NOTIMP,
    ),
    ("ANY: one RRset, and not always the same one (RFC 8482)", _is_one_of_any),
    (
        "a record in the additional section that is no OPT: passed over here, FORMERR there",
        lambda wire, ours, theirs: wire[10:12] != b"\0\0" and _rcode(theirs) == FORMERR,
    ),
    (
        "a query with answers or authorities: at most one is passed over here, FORMERR there",
        lambda wire, ours, theirs: wire[6:10] != bytes(4) and _rcode(theirs) == FORMERR,
    ),
    (
        "AXFR over UDP: FORMERR here (RFC 5936 section 4.2)",
        lambda wire, ours, theirs: _type_of(wire) == dns.rdatatype.AXFR and _rcode(ours) == FORMERR,
    ),
    (
        "a meta type: FORMERR here (RFC 6895 section 3.1)",
        lambda wire, ours, theirs: _type_of(wire) in (41, 249, 250, 253, 254) and _rcode(ours) == FORMERR,
    ),
    (
        "a class other than IN: REFUSED here",
        lambda wire, ours, theirs: _class_of(wire) != 1 and _rcode(ours) == REFUSED,
    ),
    (
        "TC in a query: not looked at here, FORMERR there",
        lambda wire, ours, theirs: bool(wire[2] & 0x02) and _rcode(theirs) == FORMERR,
    ),
    (
        "an RCODE in a query: not looked at here, FORMERR there",
        lambda wire, ours, theirs: bool(wire[3] & 15) and _rcode(theirs) == FORMERR,
    ),
)
"""Tried in turn, for authorities."""

SERVFAIL = 2


def _but_for_ttls(lines: frozenset[str]) -> frozenset[str]:
    return frozenset(" ".join((owner, *rest)) for owner, _, *rest in map(str.split, lines))


def _differ_in_ttls(wire: bytes, ours: Reply | None, theirs: Reply | None) -> bool:
    if ours is None or theirs is None or ours.rcode != theirs.rcode:
        return False
    if ours.answer or theirs.answer:
        return _but_for_ttls(ours.answer) == _but_for_ttls(theirs.answer)
    return _but_for_ttls(ours.authority) == _but_for_ttls(theirs.authority)


FORWARDED: Sequence[Rule] = (
    (
        "an EDNS version that there is not: BADVERS here whatever is asked (RFC 6891 section 6.1.3), REFUSED there",
        lambda wire, ours, theirs: _rcode(ours) == BADVERS and _rcode(theirs) == REFUSED,
    ),
    (
        "ANY: HINFO here, nobody is asked (RFC 8482 section 4.2)",
        lambda wire, ours, theirs: ours is not None and any(" HINFO " in line for line in ours.answer),
    ),
    ("what is left of a TTL", _differ_in_ttls),
    (
        "no recursion desired: answered here, REFUSED there",
        lambda wire, ours, theirs: not wire[2] & 1 and _rcode(theirs) == REFUSED,
    ),
    (
        "the upstream's refusal: passed on here, SERVFAIL there",
        lambda wire, ours, theirs: _rcode(ours) == REFUSED and _rcode(theirs) == SERVFAIL,
    ),
    (
        "a type that is for queries alone (RFC 6895 section 3.1): asked for here, FORMERR there",
        lambda wire, ours, theirs: 128 <= _type_of(wire) < 256 and _rcode(theirs) == FORMERR,
    ),
    *RULES,
)
"""The same for forwarders."""


Rule = tuple[str, Callable[[bytes, Reply | None, Reply | None], bool]]
"""Why something differs, and whether it is this."""


@dataclass
class Result:
    """What came of it."""

    same: int = 0
    explained: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Return the numbers, a line each."""
        rows = [f"{self.same:>8,}  the same"]
        rows += [f"{count:>8,}  {why}" for why, count in self.explained.most_common()]
        return "\n".join([*rows, f"{len(self.unexplained):>8,}  without a reason"])


def queries(names: Sequence[str], packets: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Yield queries for *names*, near them and nowhere near them, one in four of them broken."""
    rand = random.Random(seed)
    mutator = Mutator(packets, seed)
    for _ in range(count):
        if rand.random() < 0.25:
            yield mutator.next()
            continue
        labels = rand.choice(names).rstrip(".").split(".")
        match rand.randrange(8):
            case 0:
                labels = labels[rand.randrange(len(labels)) :]
            case 1:
                labels = [rand.choice(("a", "_tcp", "_http", "x" * 63, "10-1-0-1", "*")), *labels]
            case 2:
                labels[rand.randrange(len(labels))] = rand.choice(("no", "default", "svc", "1", "_udp", "com"))
            case 3:
                del labels[rand.randrange(len(labels))]
            case _:
                pass
        name = ".".join(label for label in labels if label) + "."
        if rand.random() < 0.3:
            name = "".join(char.upper() if rand.random() < 0.5 else char for char in name)
        edns = rand.random() < 0.5
        query = dns.message.make_query(
            name,
            dns.rdatatype.from_text(rand.choice(TYPES)),
            use_edns=0 if edns else -1,
            want_dnssec=edns and rand.random() < 0.3,
            payload=rand.choice((512, 1232, 4096)),
        )
        query.flags = rand.choice((0x0100, 0x0100, 0x0000, 0x0110, 0x0120))
        yield query.to_wire()


def compare(ours: int, theirs: int, wires: Iterator[bytes], rules: Sequence[Rule]) -> Result:
    """Ask the servers at two ports of loopback the same, over UDP."""
    result = Result()
    window: list[bytes] = []
    asked = 0
    with _Asker(ours) as our, _Asker(theirs) as their:

        def settle() -> None:
            for wire, one, other in zip(window, our.ask(window), their.ask(window), strict=True):
                _judge(wire, one, other, rules, result)
            window.clear()

        for wire in wires:
            if len(wire) < 3:
                continue
            # No ID comes again soon: a reply that is late is no reply to a question of the next window.
            window.append((asked & 0xFFFF).to_bytes(2, "big") + wire[2:])
            asked += 1
            if len(window) == WINDOW:
                settle()
        settle()
    return result


def _judge(wire: bytes, ours: bytes | None, theirs: bytes | None, rules: Sequence[Rule], result: Result) -> None:
    one, other = read(ours, is_ours=True), read(theirs, is_ours=False)
    if one == other or _is_alike(one, other):
        result.same += 1
        return
    for why, holds in rules:
        if holds(wire, one, other):
            result.explained[why] += 1
            return
    result.unexplained.append(f"{wire.hex()}\n{_shown(wire)}\n  ours   {one}\n  theirs {other}")


def _is_alike(one: Reply | None, other: Reply | None) -> bool:
    """Tell whether two replies say the same: an authority section counts where there is no answer."""
    if one is None or other is None:
        return False
    shown = dns.flags.QR | dns.flags.AA | dns.flags.TC
    if one.rcode != other.rcode or one.flags & shown != other.flags & shown:
        return False
    if one.is_truncated:
        return True  # what is left is each server's choice
    return one.answer == other.answer and bool(one.answer or one.authority == other.authority)


def _shown(wire: bytes) -> str:
    try:
        return "  " + dns.message.from_wire(wire, ignore_trailing=True).to_text().replace("\n", " | ")
    except dns.exception.DNSException as exc:
        return f"  {exc!r}"


class _Asker:
    def __init__(self, port: int) -> None:
        self._port = port
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.connect(("127.0.0.1", port))

    def __enter__(self) -> _Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def ask(self, wires: Sequence[bytes]) -> list[bytes | None]:
        """Return the replies in order; what is not answered is asked again, with all others of its kind."""
        replies: dict[bytes, bytes] = {}
        waiting = {wire[:2] for wire in wires}
        for patience in (0.02, SILENCE_SECONDS, SILENCE_SECONDS):
            for wire in wires:
                if wire[:2] in waiting:
                    self._sock.send(wire)
            while waiting and select.select([self._sock], [], [], patience)[0]:
                reply = self._sock.recv(65_535)
                if reply[:2] in waiting:
                    waiting.discard(reply[:2])
                    replies[reply[:2]] = reply
        return [replies.get(wire[:2]) for wire in wires]
