"""The Unix socket at which a running nodelocal tells what it has and does: a request of one JSON line, a JSON reply."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn, TYPE_CHECKING

import trio

from kdns.proto.query import RCODE_TEXT
from kdns.proto.text import rrset_to_text
from nodelocal.body import remaining, sections
from nodelocal.cache import key_of, WHOLE
from nodelocal.entry import Entry, FAILURE
from nodelocal.expand import Expanded, Mode
from nodelocal.found import Found
from nodelocal.unix import bind_unix
from nodelocal.walking import Decision, Ending
from zones.errors import BadName, BadRecord
from zones.names import Name, split_labels
from zones.records import address_from_text, OPT, rrtype_from_text, rrtype_to_text
from zones.search import MARKER, Walk

if TYPE_CHECKING:
    from nodelocal.serve import Server

log = logging.getLogger(__name__)

MAX_REQUEST_OCTETS: Final = 4096
REQUEST_SECONDS: Final = 10.0
REPLY_SECONDS: Final = 120.0
"""A dump of a large cache takes its time, since clients are answered between its entries."""
DUMPED_AT_ONCE: Final = 50
"""Entries between two of which clients get their answers: about a millisecond."""

Json = dict[str, Any]


class Control:
    """Answers requests about *server* on the socket at *path*, which only its owner may use."""

    def __init__(self, server: Server, path: Path) -> None:
        self._server = server
        self._path = path
        self._sock: socket.socket | None = None
        self._is_ours = True
        self._accepting = trio.CancelScope()

    def adopt(self, sock: socket.socket) -> None:
        """Take a socket that somebody else has bound, and looks after."""
        self._sock = sock
        self._is_ours = False

    def bind(self) -> None:
        """Make the socket. Raises ConfigError."""
        self._sock = bind_unix(self._path, "--control")

    def close(self) -> None:
        """Remove the socket."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
            self._unlink()

    async def serve(self) -> NoReturn:
        """Answer until cancelled."""
        assert self._sock is not None  # bound before anything runs
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._sock))
        self._sock = None  # the listener closes it
        try:
            async with trio.open_nursery() as nursery:
                with self._accepting:
                    await trio.serve_listeners(self._serve_one, [listener], handler_nursery=nursery)
                await trio.sleep_forever()
        finally:
            self._unlink()
        raise AssertionError("unreachable: it ends by cancellation alone")

    def hold(self) -> None:
        """Take no more requests: a successor does, at the same socket."""
        self._accepting.cancel()

    def _unlink(self) -> None:
        if self._is_ours:
            with suppress(OSError):
                self._path.unlink()

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError), trio.move_on_after(REPLY_SECONDS):
            async with stream:
                request = b""
                while b"\n" not in request and len(request) < MAX_REQUEST_OCTETS:
                    chunk = await stream.receive_some(MAX_REQUEST_OCTETS)
                    if not chunk:
                        return
                    request += chunk
                async for reply in self._replies(request):
                    await stream.send_all(json.dumps(reply).encode() + b"\n")

    async def _replies(self, request: bytes) -> AsyncIterator[Json]:
        """Yield the lines of the reply: one, or for a dump one for each entry."""
        try:
            asked = json.loads(request)
            if not isinstance(asked, dict):
                raise TypeError("a request is a JSON object")
            if asked.get("do") == "dump":
                for number, entry in enumerate(self._dump(_name(asked.get("name")))):
                    if not number % DUMPED_AT_ONCE:
                        await trio.lowlevel.checkpoint()
                    yield entry
                return
            reply = await self._reply(asked)
        except Exception as exc:
            if not isinstance(exc, ValueError | KeyError | TypeError | BadName | BadRecord | RecursionError):
                log.exception("a request at the control socket")
            reply = {"error": str(exc) or type(exc).__name__}
        yield reply

    async def _reply(self, asked: Json) -> Json:
        match asked.get("do"):
            case "stats":
                return self._stats()
            case "probe":
                return {"not ready": self._server.not_ready()}
            case "flush":
                name = _name(asked.get("name"))
                self._server.expander.forget()
                self._server.front.finished.forget()
                return {"flushed": sum(map(self._server.resolver.cache.flush, self._flushed_with(name)))}
            case "explain":
                name = _name(asked["name"])
                rrtype, client = asked.get("type", "A"), asked.get("from")
                if name is None or not isinstance(rrtype, str) or not isinstance(client, str | None):
                    raise TypeError("a name, a type and an address are text")
                return await self.explain(name, rrtype_from_text(rrtype), client)
        return {"error": f"unknown request {asked.get('do')!r}"}

    def _flushed_with(self, name: Name | None) -> list[Name | None]:
        """Return what is to be forgotten with *name*: also what kdns said of the search paths that begin there."""
        names: list[Name | None] = [name]
        if name is not None:
            walk = self._server.expander.walk_of(name)
            if walk is not None:
                names.append(walk.question)
            for zone in self._server.config.cluster_zones:
                if zone.is_under(name) or name.is_under(zone):
                    labels = split_labels(zone.wire) if walk is None else []
                    names += [Name((*labels, *MARKER.labels))] if labels else []
        return names

    # -- the requests -----------------------------------------------------------------------------------------------

    def _stats(self) -> Json:
        server = self._server
        server.stats.flush()
        cache, counts = server.resolver.cache, server.resolver.counts
        now = trio.current_time()
        return {
            "queries": sum(server.stats.requests.values()),
            "responses": {
                rcode: sum(count for (_, code, _), count in server.stats.responses.items() if code == rcode)
                for rcode in sorted({code for _, code, _ in server.stats.responses})
            },
            "cache": {
                "answers": cache.counts[0],
                "denials": cache.counts[1],
                "octets": sum(cache.octets),
                "max_octets": cache.limits.max_octets,
                "evictions": sum(cache.evictions),
                "hits": counts.answer_hits
                + counts.denial_hits
                + server.stats.table_answers
                + server.stats.table_denials,
                "misses": counts.misses,
                "prefetches": counts.prefetches,
                "stale": counts.stale,
            },
            "search paths": {ending.value: server.expander.endings[ending] for ending in Ending},
            "upstreams": {
                group: {
                    str(upstream): "loops"
                    if upstream in forwarder.servers.looping
                    else "backed off from"
                    if forwarder.servers.is_down(upstream, now)
                    else "kdns"
                    if upstream in server.resolver.peers
                    else "good"
                    for upstream in forwarder.servers.all(now)
                }
                for group, forwarder in server.forwarders.items()
            },
            "questions on their way": sum(map(len, server.forwarders.values())),
            "push": None
            if (feed := server.resolver.feed) is None
            else {
                "from": str(feed.server) if feed.is_connected else None,
                "subscriptions": len(feed.subscriptions),
                "dropped": feed.subscriptions.dropped,
                "lagging": feed.subscriptions.lagging,
                "connections lost": feed.lost,
            },
            "pods": None if server.pods is None else len(server.pods),
        }

    def _dump(self, name: Name | None) -> Iterator[Json]:
        now = trio.current_time()
        for key, entry in self._server.resolver.cache.items():
            qname = Name.trusted(key[:-3])
            if name is not None and qname != name:
                continue
            qtype = key[-3] << 8 | key[-2]
            text = "any type" if key[-1] & WHOLE else rrtype_to_text(qtype)
            yield _described(qname, text, entry, now, flags=key[-1])

    def _here(self, name: Name, qtype: int) -> str | None:
        """Return how a question is decided here, by static records or by another name; None where it is not."""
        local = self._server.resolver.local
        if local is None:
            return None
        if (target := local.rewrites.of(name)) is not None:
            return f"none: looked up as {target}"
        return "none: a static record" if local.find(name, qtype, 0.0) is not None else None

    async def explain(self, name: Name, qtype: int, client: str | None) -> Json:
        """Resolve a name as for *client*, and return how; see ``nodelocal.telling``. Raises ValueError."""
        server = self._server
        route = server.routes.of(name)
        reply: Json = {"name": name.to_text(), "type": rrtype_to_text(qtype)}
        reply["route"] = None if route is None else _route_text(route.zone, route.servers, route.then)
        if name.is_under(MARKER) and server.config.expand is not Mode.OFF:
            reply["route"] = "the steps of the search path"
        if client is not None and server.pods is not None:
            pod = server.pods.at(client)
            where = None if pod is None else f"{pod.namespace.decode()}/{pod.name.decode()}"
            reply["client"] = f"{client}: " + (
                "no pod of this node" if pod is None else f"pod {where}, search path {pod.search_path.value}"
            )
        if client is not None:
            address_from_text(client.partition("%")[0])
        if qtype >= 249 or qtype == OPT:
            raise ValueError(f"{rrtype_to_text(qtype)} is no type of records that is looked for")
        here = self._here(name, qtype)
        if here is not None:
            reply["route"] = here
        walk = None if here is not None else server.expander.walk_of(name)
        why = server.expander.why_not(name, lambda: (client or "", 0), is_known=client is not None)
        if why is not None or here is not None:
            reply["not expanded"] = "decided here" if here is not None else why
        if walk is None and (denial := server.expander.denial_of(name)) is not None:
            return reply | {"route": "none: answered here", "entries": [], "rcode": RCODE_TEXT[denial]}
        if walk is not None and not server.expander.is_for(walk, lambda: (client or "", 0)):
            walk = None
        over = trio.Event()
        answers: list[Expanded | Found] = []

        def take(answer: Expanded | Found) -> None:
            answers.append(answer)
            over.set()

        if walk is not None:
            server.expander.expand(walk, qtype, take)
            await over.wait()
            expanded = answers[0]
            assert isinstance(expanded, Expanded)
            reply["walk"] = _walk_json(walk, expanded.decision)
            if expanded.decision.ending is not Ending.LITERAL:
                if expanded.found is not None:
                    reply["entries"] = _links(expanded.found)
                return reply
            over = trio.Event()
        server.resolver.resolve(name, qtype, take)
        await over.wait()
        found = answers[-1]
        assert isinstance(found, Found)
        reply["entries"] = _links(found)
        key = key_of(name, qtype, do=False, cd=False)
        reply["kept"] = server.resolver.cache.find(key, trio.current_time()) is not None
        return reply


def _name(text: object) -> Name | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise TypeError("a name is text")
    return Name.from_text(text)


def _route_text(zone: Name, servers: str, then: str | None) -> str:
    text = f"{zone.to_text()} → {servers}"
    return text if then is None else f"{text}, then {then}"


def _walk_json(walk: Walk, decision: Decision) -> Json:
    return {
        "prefix": ".".join(label.decode(errors="replace") for label in walk.prefix),
        "namespace": walk.namespace.decode(errors="replace"),
        "zone": walk.zone.to_text(),
        "form": "explicit" if walk.is_explicit else "transparent",
        "steps": [list(step) for step in decision.steps],
        "ending": decision.ending.value,
        "name": None if decision.name is None else decision.name.to_text(),
        "seconds": round(max(0.0, decision.expires_at - trio.current_time()), 1),
    }


def _links(found: Found) -> list[Json]:
    now = trio.current_time()
    return [_described(link.qname, "", link.entry, now, is_stale=link.is_stale) for link in found.links]


def _described(qname: Name, qtype: str, entry: Entry, now: float, *, flags: int = 0, is_stale: bool = False) -> Json:
    answer, authority = sections(entry, qname, remaining(entry, now)) if entry.body else ([], [])
    return {
        "name": qname.to_text(),
        "type": qtype,
        "flags": [text for bit, text in ((2, "DO"), (1, "CD")) if flags & bit],
        "rcode": RCODE_TEXT.get(entry.rcode, str(entry.rcode)),
        "from": "no server answered" if entry is FAILURE else None if entry.server is None else str(entry.server),
        "seconds": round(entry.expires_at - now, 1) if entry.is_kept else None,
        "stale": is_stale or (entry.is_kept and now >= entry.expires_at),
        "records": [line.expandtabs(1) for rrset in (*answer, *authority) for line in rrset_to_text(rrset)],
        "goes on at": None if entry.target is None else entry.target.to_text(),
    }


def request(path: Path, asked: Json, *, seconds: float = REQUEST_SECONDS) -> Iterator[Json]:
    """Ask the process at *path* and yield the lines of its reply; blocks. Raises OSError, ValueError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(seconds)
        sock.connect(str(path))
        sock.sendall(json.dumps(asked).encode() + b"\n")
        with sock.makefile("rb") as lines:
            for line in lines:
                reply = json.loads(line)
                if not isinstance(reply, dict):
                    raise ValueError("no reply of nodelocal's")  # noqa: TRY004 - what else is wrong with it is one, too
                yield reply
