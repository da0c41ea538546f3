"""A question asked in place of another, and its response given back to the first (``zones.rewrite``).

Rare beside all other questions, and kept like any other once answered, so it may go through whole messages.
"""

from __future__ import annotations

import msgspec

from kdns.proto.message import Message, read_message, Record, rrsets_of
from kdns.proto.query import Query, Transport
from kdns.proto.response import make_response
from zones.names import Name
from zones.records import CNAME, SOA


def rewritten_query(query: Query, target: Name) -> Query:
    """Return the query that asks for *target*; over TCP, so that the response is whole."""
    edns = query.edns
    return msgspec.structs.replace(
        query,
        qname=target,
        question=target.wire + query.question[-4:],
        transport=Transport.TCP,
        edns=None if edns is None else msgspec.structs.replace(edns, keepalive=False),
    )


def restored_tails(query: Query, target: Name, tails: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return the response to *query* made of that for *target*: what has that name has the one that was asked.

    So has the SOA of a denial, which has to hang from a suffix of the question.
    """
    message = read_message(query.id + tails[0])
    return make_response(
        query,
        rcode=message.rcode,
        answer=rrsets_of(_renamed(message, target, query.qname)),
        authority=rrsets_of(
            [msgspec.structs.replace(r, owner=query.qname) if r.rtype == SOA else r for r in message.authority]
        ),
        additional=rrsets_of(message.additional),
        rotate=len(tails) > 1,
        aa=message.is_authoritative,
        ra=bool(message.flags & 0x0080),
        options=message.options,
    )


def _renamed(message: Message, target: Name, qname: Name) -> list[Record]:
    renamed = [
        msgspec.structs.replace(record, owner=qname) if record.owner == target else record for record in message.answer
    ]
    # What the other name is an alias of may be the name asked for: it is then answered as it stands.
    return [r for r in renamed if not (r.rtype == CNAME and r.owner == qname and Name.trusted(r.rdata) == qname)]
