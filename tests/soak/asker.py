"""Asks both programs all the time, over UDP and TCP, and judges every answer."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from tests.soak.world import Answer, NOTHING, Truth

PATIENCE_SECONDS = 2.0
"""For one try."""
ALL_SECONDS = 12.0
"""For all: a kdns that is started again is away for a second or two, and resolvers go on for longer than this."""


class Asker(threading.Thread):
    """One client of one program. *doubt* returns how many seconds back what was true then is still a right answer."""

    def __init__(self, title: str, port: int, truth: Truth, doubt: Callable[[], float], seed: int) -> None:
        super().__init__(daemon=True)
        self.title = title
        self.port = port
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.missing: list[str] = []
        self._truth = truth
        self._doubt = doubt
        self._random = random.Random(seed)
        self._began = time.monotonic()
        self._end = threading.Event()

    def end(self) -> None:
        """Stop, and wait for that."""
        self._end.set()
        self.join()

    def run(self) -> None:
        names: list[str] = []
        while not self._end.wait(0.004):
            if not self.counts["asked"] % 500:
                names = self._truth.names()
            if self._random.random() < 0.1:
                self._judge(f"never{self._random.randrange(1000)}.ns0.svc.cluster.local.", None)
            else:
                self._judge(self._random.choice(names), self._truth)

    def _judge(self, name: str, truth: Truth | None) -> None:
        self.counts["asked"] += 1
        asked_at = time.monotonic()
        since = asked_at - self._doubt()
        answer = self.ask(name, over_tcp=self._random.random() < 0.2)
        if answer is None:
            self.missing.append(f"{self.title}: {name}: no answer in {ALL_SECONDS:g} s")
            return
        if isinstance(answer, str):
            self.counts[answer] += 1
            self.missing.append(f"{self.title}: {name}: {answer} for {ALL_SECONDS:g} s")
            return
        if (
            (answer != NOTHING)
            if truth is None
            else not truth.was(name, answer, min(since, time.monotonic() - self._doubt()))
        ):
            now = truth.now(name) if truth is not None else NOTHING
            self.wrong.append(
                f"{self.title}, at {asked_at - self._began:.1f} s: {name}: {sorted(answer)}; now {sorted(now)}, nor so in the last {time.monotonic() - since:.1f} s"
            )

    def ask(self, name: str, *, over_tcp: bool) -> Answer | str | None:
        """Return the addresses; an RCODE that says nothing of the name; None without an answer."""
        query = dns.message.make_query(name, "A")
        failure: str | None = None
        began = time.monotonic()
        while time.monotonic() < began + ALL_SECONDS:
            try:
                send = dns.query.tcp if over_tcp else dns.query.udp
                reply = send(query, "127.0.0.1", port=self.port, timeout=PATIENCE_SECONDS)
            except (dns.exception.DNSException, OSError, EOFError):
                self.counts["tries lost"] += 1
                time.sleep(0.1)
                continue
            if reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                failure = dns.rcode.to_text(reply.rcode())
                self.counts["tries failed"] += 1
                time.sleep(0.3)
                continue
            return frozenset(
                rdata.to_text() for rrset in reply.answer if rrset.rdtype == dns.rdatatype.A for rdata in rrset
            )
        return failure
