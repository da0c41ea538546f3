"""Between the listeners and the responder: the query boundary, upstream questions, counting and logging."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import chain
from time import perf_counter
from typing import Final

import trio

from kdns.admin.logs import QueryLog
from kdns.admin.stats import QueryStats
from kdns.answer.authority import Ask
from kdns.answer.responder import Responder
from kdns.answer.transfer import Transfers
from kdns.errors import WireError
from kdns.net.cookies import is_proven
from kdns.net.fairness import Fairness, Verdict
from kdns.net.handler import Client, Deliver, Later, Several
from kdns.proto.label import Label
from kdns.proto.labels import Labels
from kdns.proto.message import Message
from kdns.proto.query import NOERROR, Query, REFUSED, SERVFAIL, Transport
from kdns.proto.reading import read_query
from kdns.proto.response import make_bare, make_response
from kdns.proto.table import Entry, Sort
from kdns.upstream.forwarder import Forwarder, NoReply
from kdns.upstream.question import Question

log = logging.getLogger(__name__)


MAX_TOLD: Final = 100
"""Strangers who asked for a transfer and are told of."""


class QueryHandler:
    """Answers messages of one transport and family (``net.handler.Handler``)."""

    def __init__(
        self,
        responder: Responder,
        stats: QueryStats,
        query_log: QueryLog | None,
        forwarder: Forwarder[Message] | None,
        transport: Transport,
        *,
        family: int,
        transfers: Transfers | None = None,
        fairness: Fairness | None = None,
    ) -> None:
        self._fairness = fairness
        self._transfers = transfers
        self._labels = Labels()
        self._told: set[str] = set()
        self._responder = responder
        self._stats = stats
        self._query_log = query_log
        self._forwarder = forwarder
        self._transport = transport
        self._proto = transport.value
        self._family = str(1 if family == 4 else 2)  # CoreDNS's numbers for IPv4 and IPv6
        table = responder.tables[transport]
        # A query that is logged or weighed takes the long way, so the hot path carries no question whether to.
        self._is_direct = query_log is None and fairness is None
        self.find: Callable[[bytes], Entry | None] = table.find if self._is_direct else _nothing
        self._find_kept = table.find

    def respond(self, wire: bytes, client: Client) -> bytes | Later | Several | None:
        """Return the tail for a message; one that breaks us costs that message alone."""
        began = perf_counter()
        label: Label | Sort | None
        try:
            if self._fairness is not None and (verdict := self._judge(self._fairness, client)) is not Verdict.ANSWER:
                return self._refuse(wire, client, began) if verdict is Verdict.TRUNCATE else None
            if not self._is_direct and (entry := self._find_kept(wire[2:])) is not None:
                tail, label = entry.next(), entry.sort
            else:
                found = self._responder.respond(wire, self._transport)
                if not isinstance(found, tuple):
                    if isinstance(found, Ask):
                        return self._later(found, wire, client, began)
                    return self._transfer(found, wire, client, began)
                made, label = found
                if made is None:
                    self._stats.miss(self._proto, self._family, None, len(wire), None, 0.0)
                    return None
                tail = made
                if self._query_log is None:
                    seconds = perf_counter() - began
                    if isinstance(label, Sort):
                        self._stats.made(self._proto, self._family, label, seconds)
                    else:
                        self._stats.miss(self._proto, self._family, label, len(wire), tail, seconds)
                    return tail
        except Exception:
            log.exception("a query of %d octets from %s: %s", len(wire), client()[0], wire[:512].hex())
            self._stats.panics += 1
            tail, label = make_bare(wire, SERVFAIL, ra=self._forwarder is not None), None
        self._done(wire, tail, label, client, began)
        return tail

    def count(self, hits: Sequence[Entry], seconds: float) -> None:
        """Count what ``find`` answered."""
        self._stats.hits(self._proto, self._family, hits, seconds)

    def _judge(self, fairness: Fairness, client: Client) -> Verdict:
        proven = self._transport is Transport.TCP or is_proven(client)
        return fairness.judge(client()[0], trio.current_time(), is_proven=proven)

    def _refuse(self, wire: bytes, client: Client, began: float) -> bytes | None:
        """Tell a client over its share to come over TCP; what cannot be read is not answered."""
        try:
            query = read_query(wire, self._transport)
        except WireError:
            return None
        tail = make_response(query, rcode=NOERROR, ra=self._forwarder is not None, flags=0x0200)[0]
        self._done(wire, tail, self._labels.of("", query, NOERROR), client, began)
        return tail

    def _transfer(self, query: Query, wire: bytes, client: Client, began: float) -> bytes | Several:
        assert self._transfers is not None  # else the responder answers such a query itself
        answer = self._transfers.answer(wire, query, client()[0], ra=self._forwarder is not None)
        first = answer if isinstance(answer, bytes) else next(answer)
        if not isinstance(answer, bytes):
            log.info("transfer of %s to %s", query.qname, client()[0])
        elif first[1] & 15 == REFUSED and client()[0] not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(client()[0])
            log.warning("transfer of %s refused to %s, told once", query.qname, client()[0])
        self._done(wire, first, self._labels.of(query.qname.to_text(), query, first[1] & 15), client, began)
        return answer if isinstance(answer, bytes) else chain((first,), answer)

    def _later(self, ask: Ask, wire: bytes, client: Client, began: float) -> Later:
        forwarder, sender = self._forwarder, client() if self._query_log is not None else ("", 0)
        assert forwarder is not None  # an authority without upstreams asks nothing

        def resolve(deliver: Deliver) -> None:
            def complete(message: Message | NoReply) -> None:
                answer = ask.complete(None if isinstance(message, NoReply) else message)
                tail = self._responder.pick(answer)
                self._done(wire, tail, answer.label, lambda: sender, began)
                deliver(tail)

            forwarder.ask(Question(ask.qname, ask.qtype, ask.do), complete)

        return resolve

    def _done(self, wire: bytes, tail: bytes, label: Label | Sort | None, client: Client, began: float) -> None:
        seconds = perf_counter() - began
        counted_by = label.label if isinstance(label, Sort) else label
        assert counted_by is None or isinstance(counted_by, Label)  # what the responder stores
        self._stats.miss(self._proto, self._family, counted_by, len(wire), tail, seconds)
        if self._query_log is not None:
            self._query_log.note(wire, tail, client(), self._transport, seconds)


def _nothing(_: bytes) -> None:
    return None
