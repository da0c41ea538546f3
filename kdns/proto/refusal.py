"""Well-formed queries that neither program answers, whatever their name (ROBUSTNESS section 1; CONTRACT section 9).

| the query                                               | the response                                       |
|---------------------------------------------------------|----------------------------------------------------|
| EDNS version above 0                                    | BADVERS                                            |
| signed by a key that we do not have: every key          | NOTAUTH, BADKEY                                    |
| class other than IN                                     | REFUSED                                            |
| OPT, TSIG, TKEY, MAILA, MAILB as its type               | FORMERR                                            |
| AXFR, IXFR                                              | REFUSED; AXFR over UDP FORMERR                     |
"""

from __future__ import annotations

from typing import Final

from kdns.proto.query import BADVERS, FORMERR, NOTAUTH, Query, REFUSED, Transport
from kdns.proto.response import make_badkey, make_badvers, make_response
from zones.records import AXFR, IN, IXFR, OPT, TSIG

_META: Final = frozenset((OPT, TSIG, 249, 253, 254))


_USUAL: Final = frozenset((1, 2, 5, 6, 12, 15, 16, 28, 33, 64, 65))


def is_usual(query: Query) -> bool:
    """Tell at a glance of nearly every query that it is none of these."""
    return query.qtype in _USUAL and query.qclass == IN and query.edns is None and query.signed is None


def refusal(query: Query, *, ra: bool, transfers: bool = False) -> tuple[int, bytes] | None:
    """Return RCODE and tail of the response where *query* is one of these, None for any other.

    With *transfers* somebody else decides about AXFR and IXFR.
    """
    if (edns := query.edns) is not None and edns.version:
        return BADVERS, make_badvers(query, ra=ra)
    if query.signed is not None:
        return NOTAUTH, make_badkey(query, ra=ra)
    qtype = query.qtype
    if query.qclass != IN:
        rcode = REFUSED
    elif transfers and qtype in (AXFR, IXFR):
        return None
    elif qtype in _META or (qtype == AXFR and query.transport is Transport.UDP):
        rcode = FORMERR
    elif qtype in (AXFR, IXFR):
        rcode = REFUSED
    else:
        return None
    return rcode, make_response(query, rcode=rcode, ra=ra)[0]
