"""A DSO session: what one connection asks for, and what it is told (RFC 8490, RFC 8765 section 6).

| what comes                                             | what follows                                            |
|--------------------------------------------------------|---------------------------------------------------------|
| a request that cannot be read                          | FORMERR                                                 |
| anything else that cannot be read; a response          | the connection is cut                                   |
| Keepalive                                              | our timeouts                                            |
| SUBSCRIBE                                              | NOERROR and the records there are, as PUSH; NOTAUTH for |
|                                                        | a name of no zone of ours; SERVFAIL before it is known; |
|                                                        | REFUSED where there are too many                        |
| SUBSCRIBE with an ID, or for what, one is active with  | the connection is cut                                   |
| UNSUBSCRIBE of none that is active, before any request | the connection is cut                                   |
| RECONFIRM                                              | nothing: what we say is what the cluster says           |
| another request                                        | DSOTYPENI                                               |
| another unidirectional message                         | the connection is cut                                   |

No socket and no clock in here: whoever has them passes time and octets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kdns.answer.push import Feed
from kdns.errors import WireError
from kdns.proto import dso
from kdns.proto.query import FORMERR, NOERROR, REFUSED
from zones.names import Name
from zones.records import ANY, IN

INACTIVITY_SECONDS: Final = 15.0
"""How long a client may keep a session without a subscription."""
KEEPALIVE_SECONDS: Final = 60.0
"""How often a client has to say something."""
MAX_SUBSCRIPTIONS: Final = 16_384
"""Of one session."""

Send = Callable[[bytes], None]


class DsoSession:
    """The session of one connection: *send* queues a message for it, *cut* ends it at once."""

    def __init__(self, feed: Feed, send: Send, cut: Callable[[], None], now: float) -> None:
        self._feed = feed
        self._send = send
        self._cut = cut
        self._is_open = True
        self._is_established = False
        self._heard_at = now
        self._subscriptions: dict[int, tuple[Name, int]] = {}
        self._names: set[tuple[bytes, int]] = set()

    @property
    def deadline(self) -> float:
        """When the connection is cut unless something is heard before (RFC 8490 sections 6.4 and 6.5)."""
        if self._subscriptions:
            return self._heard_at + 2 * KEEPALIVE_SECONDS
        return self._heard_at + 2 * INACTIVITY_SECONDS

    def receive(self, wire: bytes, now: float) -> None:
        """Take a message of the client's."""
        if not self._is_open:
            return
        self._heard_at = now
        try:
            message = dso.read_dso(wire)
            if message.is_response or (not message.message_id and not self._is_established):
                raise dso.Malformed("out of place", None)
            kind, data = message.tlvs[0]
            if message.message_id:
                self._request(message.message_id, kind, data)
            else:
                self._notice(kind, data)
        except dso.Malformed:
            self.end()
            self._cut()
        except WireError:
            self._send(dso.make_dso_response(int.from_bytes(wire[:2], "big"), FORMERR))

    def heard(self, now: float) -> None:
        """Take notice of an ordinary query on the connection (RFC 8490 section 6.3)."""
        self._heard_at = now

    def push(self, wire: bytes) -> None:
        """Take what the feed has for the client."""
        self._send(wire)

    def retire(self, seconds: float) -> None:
        """Ask the client to go, and to come back after some time (RFC 8490 section 6.6.1)."""
        if self._is_open and self._is_established:
            self._send(dso.make_dso(0, dso.retry_delay(seconds)))

    def end(self) -> None:
        """Forget all subscriptions: the connection is gone, or will be."""
        self._is_open = False
        for name, qtype in self._subscriptions.values():
            self._feed.unsubscribe(self, name, qtype)
        self._subscriptions.clear()

    def _request(self, message_id: int, kind: int, data: bytes) -> None:
        match kind:
            case dso.KEEPALIVE:
                dso.read_keepalive(data)
                timeouts = dso.keepalive(INACTIVITY_SECONDS, KEEPALIVE_SECONDS)
                self._send(dso.make_dso_response(message_id, NOERROR, timeouts))
            case dso.SUBSCRIBE:
                self._subscribe(message_id, data)
            case dso.UNSUBSCRIBE | dso.RECONFIRM | dso.PUSH:
                raise WireError("a request of what is no request", FORMERR)
            case _:
                self._send(dso.make_dso_response(message_id, dso.DSOTYPENI))
        self._is_established = True

    def _subscribe(self, message_id: int, data: bytes) -> None:
        name, qtype, qclass = dso.read_subscribe(data)
        if message_id in self._subscriptions or (name.key, qtype) in self._names:
            raise dso.Malformed("a subscription that is active", None)
        pushes: list[bytes] = []
        if qclass not in (IN, ANY) or len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            rcode = REFUSED
        else:
            rcode, pushes = self._feed.subscribe(self, name, qtype)
        if rcode == NOERROR:
            self._subscriptions[message_id] = name, qtype
            self._names.add((name.key, qtype))
        self._send(dso.make_dso_response(message_id, rcode))
        for push in pushes:
            self._send(push)

    def _notice(self, kind: int, data: bytes) -> None:
        match kind:
            case dso.UNSUBSCRIBE if len(data) == 2:
                subscription = self._subscriptions.pop(int.from_bytes(data, "big"), None)
                if subscription is None:
                    raise dso.Malformed("no such subscription", None)
                name, qtype = subscription
                self._names.discard((name.key, qtype))
                self._feed.unsubscribe(self, name, qtype)
            case dso.RECONFIRM:
                pass
            case _:
                raise dso.Malformed("a message that is not known", None)
