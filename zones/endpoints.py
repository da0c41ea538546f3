"""Endpoints of slices, from their JSON: what changed is read, what was read before is taken from memory.

An event of a slice says all of its hundred endpoints again, and one of them is new. Of large slices that change, the
text of each endpoint is kept with what was made of it; an endpoint whose text is as before is the same object again,
so whoever compares two versions of a slice need not look into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import eq

import msgspec

from zones.errors import BadObject
from zones.fields import LABEL, shared
from zones.json_errors import bad_json, NOT_JSON
from zones.objects import Endpoint, ObjectKey, ZonedEndpoint
from zones.records import address_from_text
from zones.shapes import EndpointJson

MAX_KNOWN = 8192
"""Addresses, and hostnames, whose octets are remembered: pods come and go, and most slices name the same again."""

MAX_OCTETS = 4 * 2**20
"""Of events whose texts are kept: of some 160 slices of a hundred endpoints each. What is made of them costs as much
again."""

IDLE_TURNS = 1000
"""A slice that so many other changes have passed by gives its place to another: one that goes round more slices than
there is room for finds most of them here, while the least lately used ones would always be gone."""

MAX_MISSES = 8
"""New endpoints in one version of a slice after which the rest is read without looking further."""

LOOKAHEAD = 16
"""Endpoints that may be gone in a row: those behind them are found again."""

_decode = msgspec.json.Decoder(EndpointJson).decode


class EndpointReader:
    """Makes endpoints of their JSON.

    With *pod_names* one without a hostname has its pod's name for a label, with *topology_zones* endpoints keep theirs.
    """

    def __init__(self, *, pod_names: bool = False, topology_zones: bool = False) -> None:
        self._pod_names = pod_names
        self._topology_zones = topology_zones
        self._addresses: dict[str, bytes] = {}
        self._hostnames: dict[str, bytes] = {}
        self._known: dict[ObjectKey, _Known] = {}
        self._turn = 0
        self._octets = 0

    def read(self, some: Iterable[EndpointJson], octets: int, first: int = 0) -> list[Endpoint]:
        """Return the endpoints of a slice of addresses of *octets* octets; *first* is the place of the first of them.

        Raises BadObject.
        """
        made: list[Endpoint] = []
        has_names, has_zones = self._pod_names, self._topology_zones
        addresses, hostnames = self._addresses, self._hostnames
        for at, endpoint in enumerate(some, first):
            label, conditions = endpoint.hostname, endpoint.conditions
            hostname = b""
            if label:
                hostname = hostnames.get(label) or self._hostname(label, at)
            elif has_names:
                hostname = _pod_name(endpoint)
            ready = conditions is None or conditions.ready is not False
            for text in endpoint.addresses or ():
                address = addresses.get(text)
                if address is None or len(address) != octets:
                    address = self._address(text, octets, at, endpoint)
                if has_zones and endpoint.zone:
                    zone = shared(endpoint.zone.lower().encode())
                    made.append(ZonedEndpoint(address, hostname, ready, zone))
                else:
                    made.append(Endpoint(address, hostname, ready))
        return made

    def read_again(
        self, key: ObjectKey, texts: Sequence[msgspec.Raw], octets: int, event_octets: int
    ) -> tuple[Endpoint, ...]:
        """Do the same with the JSON *texts* of the endpoints of the slice *key*, a version of which was read before.

        They are kept with the event of *event_octets* that they are parts of. One thread at a time may call this.
        """
        self._turn += 1
        known = self._known.pop(key, None)
        if known is not None:
            self._octets -= known.event_octets
        made: list[Endpoint] = []
        if known is None or known.octets != octets:
            is_even = self._read_texts(texts, octets, 0, made)
        else:
            is_even = self._update(known, texts, octets, made)
        whole = tuple(made)
        if is_even:
            self._keep(key, _Known(octets, texts, whole, event_octets, self._turn))
        return whole

    def _read_texts(self, texts: Sequence[msgspec.Raw], octets: int, first: int, made: list[Endpoint]) -> bool:
        """Read all of *texts*; tell whether they have one address each, as the slice controller has them."""
        some = [_endpoint(text, at) for at, text in enumerate(texts, first)]
        made += self.read(some, octets, first)
        return all(endpoint.addresses is not None and len(endpoint.addresses) == 1 for endpoint in some)

    def _update(self, known: _Known, texts: Sequence[msgspec.Raw], octets: int, made: list[Endpoint]) -> bool:
        """Do the same with what *known* has not."""
        is_even = True
        old, at = known.texts, 0
        place, misses = 0, 0
        while place < len(texts):
            same = list(map(eq, old[at:], texts[place:]))
            run = same.index(False) if False in same else len(same)
            made += known.made[at : at + run]
            at, place = at + run, place + run
            if place == len(texts):
                break
            text = texts[place]
            if misses == MAX_MISSES:
                return self._read_texts(texts[place:], octets, place, made) and is_even
            if text in (ahead := old[at + 1 : at + 1 + LOOKAHEAD]):
                at += 1 + ahead.index(text)
                continue
            misses += 1
            is_even = self._read_texts((text,), octets, place, made) and is_even
            at, place = at + 1, place + 1
        return is_even

    def _keep(self, key: ObjectKey, new: _Known) -> None:
        """Remember a version of a slice, where there is room or what has the room was of no use for long."""
        while self._octets + new.event_octets > MAX_OCTETS:
            oldest = next(iter(self._known), None)
            if oldest is None or self._known[oldest].turn > self._turn - IDLE_TURNS:
                return
            self._octets -= self._known.pop(oldest).event_octets
        self._known[key] = new
        self._octets += new.event_octets

    def _address(self, text: str, octets: int, at: int, endpoint: EndpointJson) -> bytes:
        """Read an address that was not seen before, or is none of its slice's."""
        try:
            address = address_from_text(text)
        except ValueError as exc:
            raise BadObject(_field(at, endpoint, text), text, "an IP address") from exc
        if len(address) != octets:
            raise BadObject(_field(at, endpoint, text), text, f"an {'IPv4' if octets == 4 else 'IPv6'} address")
        return _remembered(self._addresses, text, address)

    def _hostname(self, text: str, at: int) -> bytes:
        if not LABEL.fullmatch(text):
            raise BadObject(f"endpoints[{at}].hostname", text, "a DNS label")
        return _remembered(self._hostnames, text, text.encode())


class _Known:
    """A version of a slice: the text of each endpoint, and what was made of it."""

    __slots__ = ("event_octets", "made", "octets", "texts", "turn")

    def __init__(
        self, octets: int, texts: Sequence[msgspec.Raw], made: tuple[Endpoint, ...], event_octets: int, turn: int
    ) -> None:
        self.octets = octets
        self.event_octets = event_octets
        self.texts = texts
        self.made = made
        self.turn = turn


def _endpoint(text: msgspec.Raw, at: int) -> EndpointJson:
    try:
        return _decode(text)
    except NOT_JSON as exc:
        raise bad_json(exc, f"endpoints[{at}]") from exc


def _field(at: int, endpoint: EndpointJson, text: str) -> str:
    return f"endpoints[{at}].addresses[{(endpoint.addresses or ()).index(text)}]"


def _pod_name(endpoint: EndpointJson) -> bytes:
    """Return the name of an endpoint's pod, where it can be a label."""
    target = endpoint.target_ref
    name = (target.name or "") if target is not None and target.kind == "Pod" else ""
    return name.encode() if LABEL.fullmatch(name) else b""


def _remembered(known: dict[str, bytes], text: str, octets: bytes) -> bytes:
    if len(known) >= MAX_KNOWN:
        known.clear()
    known[text] = octets
    return octets
