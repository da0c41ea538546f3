"""From a packet that the answer table's hot path lacks to a response, and what an event makes the table forget."""

from __future__ import annotations

from collections.abc import Iterable

from kdns.answer.authority import Answer, Ask, Authority
from kdns.answer.denials import Denials
from kdns.errors import WireError
from kdns.proto.label import Label
from kdns.proto.query import MAX_UDP_OCTETS, NXDOMAIN, Query, Transport
from kdns.proto.reading import read_query
from kdns.proto.refusal import refusal
from kdns.proto.response import make_bare
from kdns.proto.table import AnswerTable, Sort
from zones.records import AXFR, IXFR

MAX_TABLE_OCTETS = {Transport.UDP: 40 * 2**20, Transport.TCP: 10 * 2**20}
"""Memory for finished answers. UDP's keeps four kinds of question about each of 10,000 names; TCP sees fewer, larger
ones."""

MAX_KEY_OCTETS = MAX_UDP_OCTETS
"""A query longer than any honest one is answered and not stored, so that padding cannot fill the table."""


class Responder:
    """Answers packets from an authority, with one table of finished answers for each transport."""

    def __init__(self, authority: Authority, *, forwards: bool = False, transfers: bool = False) -> None:
        self.authority = authority
        self._transfers = transfers
        self.tables = {transport: AnswerTable(max_octets=octets) for transport, octets in MAX_TABLE_OCTETS.items()}
        self._udp, self._tcp = self.tables[Transport.UDP], self.tables[Transport.TCP]
        self.denials = Denials()
        self._forwards = forwards
        self._turn = 0

    def respond(self, wire: bytes, transport: Transport) -> tuple[bytes | None, Label | Sort | None] | Ask | Query:
        """Return the response's tail (None: stay silent) and what to count it by, or a question for the upstreams.

        A query for a transfer comes back as it is, where there are transfers.

        No label means that the message could not be read.
        """
        table = self._udp if transport is Transport.UDP else self._tcp  # an enum's hash is not made in C
        key = wire[2:]
        denied = self.denials.of(wire)
        if denied is not None and not table.wants(key):
            return denied
        if (entry := table.find_again(key)) is not None:
            return entry.next(), entry.sort
        try:
            query = read_query(wire, transport)
        except WireError as exc:
            if exc.rcode_hint is None:
                return None, None
            return make_bare(wire, exc.rcode_hint, ra=self._forwards), None
        if self._transfers and self._asks_for_transfer(query):
            return query
        answer = self.authority.answer(query)
        if isinstance(answer, Ask):
            return answer
        if query.edns is None and answer.label.rcode == NXDOMAIN and denied is None:
            parent = self.authority.parent(query, answer.label)
            if parent is not None:
                self.denials.note(query, parent, answer.label)
        if answer.owners is not None and len(key) <= MAX_KEY_OCTETS and table.wants(key):
            table.store(key, answer.tails, answer.owners, answer.label)
        tails = answer.tails
        return (tails[0] if len(tails) == 1 else self.pick(answer)), answer.label

    def _asks_for_transfer(self, query: Query) -> bool:
        return query.qtype in (AXFR, IXFR) and refusal(query, ra=self._forwards, transfers=True) is None

    def pick(self, answer: Answer) -> bytes:
        """Return one of the orders of *answer*, another each time."""
        self._turn += 1
        return answer.tails[self._turn % len(answer.tails)]

    def forget(self, owners: Iterable[bytes]) -> None:
        """Drop the finished answers made from any of *owners* (keys of names)."""
        self.denials.clear()
        forgets = [table.forget for table in self.tables.values()]
        for owner in owners:
            for forget in forgets:
                forget(owner)

    def clear(self) -> None:
        """Drop all finished answers."""
        self.denials.clear()
        for table in self.tables.values():
            table.clear()
