"""Scenarios: a whole nodelocal on a clock of the test's own, with upstreams that the test plays.

Everything is the real program but its sockets: a question goes into a handler as octets, what is sent upstream is held
for the test to look at and to reply to as octets, and time passes when the test says so.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio
import trio.testing

from kdns.proto import peer
from kdns.proto.query import Transport
from kdns.upstream.attempt import Attempt
from kdns.upstream.servers import Protocol, Server
from nodelocal import config
from nodelocal.finished import TURNS
from nodelocal.serve import Server as Nodelocal

KDNS = dns.edns.OptionType.make(peer.CODE)
CLUSTER = "10.96.0.10:53"
OUTSIDE = "192.0.2.53:53"
SOA = "ns.{zone} hostmaster.{zone} 1 3600 600 86400 {minimum}"


class Sent:
    """One question on its way to an upstream."""

    def __init__(self, attempt: Attempt, server: Server, wire: bytes, transport: str, wires: Wires) -> None:
        self.attempt = attempt
        self.server = str(server).split("//")[-1]
        self.transport = transport
        self.message = dns.message.from_wire(b"\x12\x34" + wire)
        self.name = self.message.question[0].name.to_text().lower()
        self.rrtype = dns.rdatatype.to_text(self.message.question[0].rdtype)
        self.options = {option.otype for option in self.message.options}
        self._wires = wires

    def __repr__(self) -> str:
        return f"{self.name} {self.rrtype} to {self.server} over {self.transport}"

    def reply(self, *answer: str, rcode: str = "NOERROR", authority: str = "", extra: str = "", tc: bool = False,
              note: int | None = None, ad: bool = False) -> None:  # fmt: skip
        """Reply with records such as ``www.example.com. 60 IN A 192.0.2.1``."""
        reply = dns.message.make_response(self.message, recursion_available=True)
        reply.set_rcode(dns.rcode.from_text(rcode))
        for line in answer:
            reply.answer.append(_rrset(line))
        if authority:
            reply.authority.append(_rrset(authority))
        if extra:
            reply.additional.append(_rrset(extra))
        if tc:
            reply.flags |= dns.flags.TC
        if ad:
            reply.flags |= dns.flags.AD
        if note is not None:
            reply.use_edns(0, options=[dns.edns.GenericOption(KDNS, bytes((peer.VERSION, note)))])
        self.raw(reply.to_wire(max_size=65_535))

    def nxdomain(self, zone: str = "", *, ttl: int = 30, minimum: int = 30, note: int | None = None) -> None:
        """Deny the name, by the SOA of *zone*: by default the name's parent."""
        zone = zone or self.name.split(".", 1)[1]
        soa = f"{zone} {ttl} IN SOA {SOA.format(zone=zone, minimum=minimum)}"
        self.reply(rcode="NXDOMAIN", authority=soa, note=note)

    def nodata(self, zone: str = "", *answer: str, ttl: int = 30, note: int | None = None) -> None:
        """Deny the type."""
        zone = zone or self.name.split(".", 1)[1]
        self.reply(*answer, authority=f"{zone} {ttl} IN SOA {SOA.format(zone=zone, minimum=ttl)}", note=note)

    def raw(self, wire: bytes) -> bool:
        """Reply with octets; the ID is put right."""
        taken = self.attempt.received(self.attempt.message_id + wire[2:])
        if not taken and self.transport != "udp" and self.attempt.connection is None:
            self.attempt.lost("a reply that cannot be read")
        return taken

    def lost(self) -> None:
        """Have the system say that nobody is there."""
        self.attempt.lost("connection refused")


class Wires:
    """What stands in for ``UdpQuestions`` and ``StreamQuestions``."""

    def __init__(self, sent: list[Sent], transport: str) -> None:
        self._sent = sent
        self._transport = transport

    def ask(self, attempt: Attempt, server: Server, wire: bytes) -> bool:
        """Hold a question."""
        attempt.message_id = b"\x12\x34"
        transport = "tls" if server.protocol is Protocol.TLS else self._transport
        self._sent.append(Sent(attempt, server, wire, transport, self))
        return True

    def close(self, attempt: Attempt) -> None:
        """Forget one that was given up."""
        self._sent[:] = [sent for sent in self._sent if sent.attempt is not attempt]


class Asked:
    """A question of a client, and its response when there is one."""

    def __init__(self) -> None:
        self.wires: list[bytes | None] = []

    @property
    def message(self) -> dns.message.Message:
        """The one response."""
        assert len(self.wires) == 1, f"{len(self.wires)} responses"
        assert self.wires[0] is not None, "silence"
        return dns.message.from_wire(self.wires[0])

    @property
    def is_waiting(self) -> bool:
        return not self.wires

    @property
    def rcode(self) -> str:
        return dns.rcode.to_text(self.message.rcode())

    @property
    def records(self) -> list[str]:
        """The answer section, a record a line."""
        return [f"{rrset.name} {rrset.ttl} {dns.rdatatype.to_text(rrset.rdtype)} {rdata.to_text()}"
                for rrset in self.message.answer for rdata in rrset]  # fmt: skip

    @property
    def addresses(self) -> list[str]:
        return sorted(line.split()[-1] for line in self.records if line.split()[2] in ("A", "AAAA"))

    @property
    def ttl(self) -> int:
        """The TTL of the first record of the answer, or of the SOA that denies."""
        message = self.message
        return int((message.answer or message.authority)[0].ttl)

    @property
    def errors(self) -> list[int]:
        """Extended DNS Errors."""
        return [int(option.code) for option in self.message.options if option.otype == 15]


class Scenario:
    """A nodelocal, its clock and its upstreams."""

    def __init__(self, clock: trio.testing.MockClock, **flags: Any) -> None:
        flags = {"cluster": [f"udp://{CLUSTER}"], "upstream": [OUTSIDE], "search": ["corp.test"], **flags}
        flags = {name.replace("_", "-"): value for name, value in flags.items()}
        flags |= {"listen": ["127.0.0.1:0"], "admin": ["127.0.0.1:0"], "control": "/nonexistent/control.sock"}
        self.clock = clock
        self.server = Nodelocal(config.load(flags, None), announce=lambda line: None)
        self.server.load()
        self.pending: list[Sent] = []
        self.server.exchanges.over_udp = Wires(self.pending, "udp")
        self.server.exchanges.over_streams = Wires(self.pending, "tcp")
        self.handlers = {transport: self.server.front.handler(transport, 4) for transport in Transport}

    def ask(self, name: str, rrtype: str = "A", *, client: str = "10.244.0.9", do: bool = False, cd: bool = False,
            ad: bool = False, tcp: bool = False, edns: bool = True, rclass: str = "IN") -> Asked:  # fmt: skip
        """Ask as a client does."""
        query = dns.message.make_query(name, rrtype, rclass, use_edns=0 if edns else None, want_dnssec=do)
        query.flags |= (dns.flags.CD if cd else 0) | (dns.flags.AD if ad else 0)
        return self.ask_wire(query.to_wire(), client=client, tcp=tcp)

    def ask_wire(self, wire: bytes, *, client: str = "10.244.0.9", tcp: bool = False) -> Asked:
        """Send octets as a client does."""
        handler = self.handlers[Transport.TCP if tcp else Transport.UDP]
        asked = Asked()

        def deliver(tail: bytes | None) -> None:
            asked.wires.append(None if tail is None else wire[:2] + tail)

        entry = handler.find(wire[2:])
        if entry is not None:
            handler.count([entry], 0.0)
        answer = entry.next() if entry is not None else handler.respond(wire, lambda: (client, 40_000))
        if answer is None or isinstance(answer, bytes):
            deliver(answer)
        else:
            answer(deliver)
        return asked

    def expect(self, name: str, rrtype: str = "A", *, server: str = "") -> Sent:
        """Return the question for *name* that is on its way, which there must be."""
        wanted = name if name.endswith(".") else f"{name}."
        for sent in self.pending:
            if sent.name == wanted and sent.rrtype == rrtype and server in sent.server:
                self.pending.remove(sent)
                return sent
        raise AssertionError(f"{name} {rrtype} was not asked; on their way: {self.pending}")

    def expect_nothing(self) -> None:
        """Nothing must be on its way."""
        assert self.pending == []

    async def advance(self, seconds: float) -> None:
        """Let time pass, tick by tick."""
        left = seconds
        while left > 0:
            step = min(left, 0.25)
            self.clock.jump(step)
            for _ in range(int(step * TURNS)):
                self.server.front.finished.turn()
            await trio.testing.wait_all_tasks_blocked()
            left -= step


def scenario(**flags: Any) -> Callable[[Callable[[Scenario], Awaitable[None]]], Callable[[], None]]:
    """Make a test of an async function that is given a scenario; *flags* are those of ``nodelocal serve``."""

    def decorate(steps: Callable[[Scenario], Awaitable[None]]) -> Callable[[], None]:
        def test() -> None:
            clock = trio.testing.MockClock()

            async def main() -> None:
                clock.jump(1000)
                played = Scenario(clock, **flags)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(played.server.exchanges.timers.run)
                    nursery.start_soon(played.server.exchanges._sweep)
                    await steps(played)
                    nursery.cancel_scope.cancel()

            trio.run(main, clock=clock)

        functools.update_wrapper(test, steps)
        del test.__wrapped__  # type: ignore[attr-defined]  # pytest would ask for its argument
        return test

    return decorate


def _rrset(line: str) -> dns.rrset.RRset:
    owner, ttl, rclass, rrtype, rdata = line.split(None, 4)
    return dns.rrset.from_text(owner, int(ttl), rclass, rrtype, rdata)
