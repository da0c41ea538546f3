"""--cookies: for clients that ask with one, and towards upstreams that have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from kdns.proto.query import Transport
from tests.support.client import addresses, ask, ask_udp, wait_for_addresses
from tests.support.process import Kdns, kdns, nodelocal
from tests.support.upstream import answer, Reply, Upstream

pytestmark = pytest.mark.system

CLIENT = b"abcdefgh"
WEB = "web.default.svc.cluster.local."


Start = Callable[..., AbstractContextManager[Kdns]]


@pytest.fixture(scope="module", params=["kdns", "kdns, two workers", "nodelocal"])
def start(request: pytest.FixtureRequest, manifests: Path, server: Kdns) -> Start:
    def make(*flags: str) -> AbstractContextManager[Kdns]:
        if request.param == "nodelocal":
            return nodelocal("--cluster", f"127.0.0.1:{server.port}", "--upstream", "192.0.2.99", *flags)
        workers = ("--workers", "2") if "two" in request.param else ()
        return kdns("--manifests", manifests, *workers, *flags)

    return make


@pytest.fixture(scope="module")
def baker(start: Start) -> Iterator[Kdns]:
    """A server with cookies."""
    with start("--cookies") as running:
        yield running


def query(cookie: bytes, name: str = WEB, **more: object) -> bytes:
    option = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, cookie)
    return dns.message.make_query(name, "A", use_edns=0, options=[option], payload=1232).to_wire()


def cookie_of(wire: bytes | None) -> bytes:
    assert wire is not None
    message = dns.message.from_wire(wire)
    (found,) = [option for option in message.options if option.otype == dns.edns.OptionType.COOKIE]
    return bytes(found.to_wire() or b"")


@pytest.mark.parametrize("transport", Transport)
def test_a_client_is_given_a_cookie_and_shows_it(baker: Kdns, transport: Transport) -> None:
    for name in (WEB, "no.default.svc.cluster.local.", "big.default.svc.cluster.local."):
        for _ in range(4):  # from wherever the answer comes
            wire = ask(baker.port, query(CLIENT, name), transport)
            given = cookie_of(wire)
            assert given[:8] == CLIENT
            assert len(given) == 24
            assert wire is not None
            assert transport is Transport.TCP or len(wire) <= 1232
            again = cookie_of(ask(baker.port, query(given, name), transport))
            assert again[:8] == CLIENT
    assert addresses(baker.port, WEB) == {"10.96.0.1"}, "and others get theirs"


def test_a_query_for_nothing_but_a_cookie(baker: Kdns) -> None:
    message = dns.message.from_wire(query(CLIENT))
    message.question.clear()
    wire = ask_udp(baker.port, message.to_wire())
    assert dns.message.from_wire(wire or b"").rcode() == dns.rcode.NOERROR
    assert len(cookie_of(wire)) == 24


@pytest.mark.parametrize("octets", [7, 9, 15, 41])
def test_a_cookie_of_another_length_is_a_formerr(baker: Kdns, octets: int) -> None:
    wire = ask_udp(baker.port, query(bytes(octets)))
    assert wire is not None
    assert wire[3] & 15 == dns.rcode.FORMERR


def test_without_the_option_it_is_passed_over(server: Kdns, forwarder: Kdns) -> None:
    for one in (server, forwarder):
        reply = dns.message.from_wire(ask_udp(one.port, query(CLIENT)) or b"")
        assert reply.edns == 0
        assert not [option for option in reply.options if option.otype == dns.edns.OptionType.COOKIE]


def test_who_shows_a_cookie_is_not_limited(start: Start) -> None:
    with start("--cookies", "--client-rate", "1", "--client-slip", "0") as server:
        given = cookie_of(ask_udp(server.port, query(CLIENT)))
        for _ in range(30):
            assert ask_udp(server.port, query(given)) is not None
        lost = [ask_udp(server.port, query(CLIENT), quiet=True) for _ in range(6)]
        assert None in lost, "others are"


THEIRS = b"serverco"


class CookieServer:
    """An upstream with cookies; *lies* come before each true reply."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.lies: Callable[[dns.message.Message], list[bytes]] = lambda query: []
        self.has_cookies = True
        self.wants_cookies = False

    def __call__(self, query: dns.message.Message, tcp: bool) -> Reply:
        cookies = [option for option in query.options if option.otype == dns.edns.OptionType.COOKIE]
        cookie = bytes(cookies[0].to_wire() or b"") if cookies else b""
        self.seen.append(cookie)
        reply = answer(query, f"{query.question[0].name} 1 IN A 192.0.2.1")
        if self.has_cookies:
            option = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, cookie[:8] + THEIRS)
            reply.use_edns(0, options=[option])
            if self.wants_cookies and cookie[8:] != THEIRS:
                reply.answer.clear()
                reply.set_rcode(dns.rcode.BADCOOKIE)
        return [*self.lies(query), reply.to_wire()]


@pytest.fixture
def outside() -> Iterator[tuple[CookieServer, Kdns]]:
    script = CookieServer()
    with (
        Upstream(script) as upstream,
        nodelocal("--cluster", "192.0.2.98", "--upstream", upstream.text, "--cookies", "--expand", "off") as server,
    ):
        yield script, server


def test_an_upstream_is_shown_what_it_gave(outside: tuple[CookieServer, Kdns]) -> None:
    script, server = outside
    for number in range(3):
        assert addresses(server.port, f"n{number}.example.com.") == {"192.0.2.1"}
    asked = [cookie for cookie in script.seen if cookie]
    assert len({cookie[:8] for cookie in asked}) == 1
    assert asked[0][8:] in (b"", THEIRS)
    assert asked[-1][8:] == THEIRS


def test_a_lie_without_the_cookie_is_passed_over(outside: tuple[CookieServer, Kdns]) -> None:
    script, server = outside
    assert addresses(server.port, "first.example.com.") == {"192.0.2.1"}

    def lies(query: dns.message.Message) -> list[bytes]:
        plain = answer(query, f"{query.question[0].name} 300 IN A 192.0.2.66")
        plain.use_edns(False)
        wrong = answer(query, f"{query.question[0].name} 300 IN A 192.0.2.66")
        wrong.use_edns(0, options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"guessed!" + THEIRS)])
        return [plain.to_wire(), wrong.to_wire()]

    script.lies = lies
    for number in range(10):
        assert addresses(server.port, f"lie{number}.example.com.") == {"192.0.2.1"}


def test_a_server_that_wants_its_cookie_is_asked_again(outside: tuple[CookieServer, Kdns]) -> None:
    script, server = outside
    script.wants_cookies = True
    wait_for_addresses(server.port, "wants.example.com.", {"192.0.2.1"})  # two questions within the time of one


def test_a_server_that_has_none_any_more_is_believed_again(outside: tuple[CookieServer, Kdns]) -> None:
    script, server = outside
    assert addresses(server.port, "first.example.com.") == {"192.0.2.1"}
    script.has_cookies = False
    for number in range(40):
        wire = ask_udp(server.port, dns.message.make_query(f"gone{number}.example.com.", "A").to_wire())
        if wire is not None and not dns.message.from_wire(wire).rcode():
            break
    else:
        raise AssertionError("it is never believed")
