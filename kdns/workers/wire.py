"""What the controller and its workers say to each other: messages in msgpack behind four octets of length.

| from the controller          | meaning                                                                         |
|------------------------------|---------------------------------------------------------------------------------|
| an object                    | it is there, or changed                                                         |
| ``Deleted``                  | it is gone                                                                      |
| ``Completed``                | everything of a kind has been said once                                         |
| ``Moved``                    | the serials of all zones, by the first of those that share one                  |
| ``Asked``                    | say how things are: once a second, and when somebody looks at the metrics       |
| ``Static``                   | the static records, all of them                                                 |
| ``Retire``                   | ask sessions to go                                                              |
| ``Drain``                    | say when nothing is on its way any more; the end of the link ends the worker    |

| from a worker                | meaning                                                                         |
|------------------------------|---------------------------------------------------------------------------------|
| ``Told``                     | how things are                                                                  |

Nothing that a worker says is more than data of these types: it reads packets from the network, the controller has the
credentials.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from zones.names import Name
from zones.objects import (
    EndpointSlice,
    ExposedService,
    Gateway,
    ImportedSlice,
    Ingress,
    Kind,
    Namespace,
    Object,
    ObjectKey,
    Pod,
    Route,
    Service,
    ServiceImport,
)
from zones.records import RRset

LENGTH_OCTETS: Final = 4
MAX_MESSAGE_OCTETS: Final = 64 * 2**20


class Deleted(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An object is gone."""

    kind: Kind
    key: ObjectKey


class Completed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Everything of a kind has been said once."""

    kind: Kind


class Moved(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The serials of all zones, by the first zone of those that share one."""

    serials: dict[str, int]


class Asked(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Say how things are."""

    number: int


class Retire(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Ask sessions to go."""


class Drain(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Say when nothing is on its way any more."""


class Static(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The static records, by where they are from."""

    layers: tuple[tuple[str, tuple[RRset, ...]], ...]


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One number of a metric, under its whole name."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric: its name, help text, type as Prometheus has it, and numbers."""

    name: str
    text: str
    type: str
    samples: tuple[Sample, ...]


class Told(msgspec.Struct, frozen=True, array_like=True):
    """How things are in a worker; ``number`` is that of the question.

    ``changed``: the zones whose serials should move, by the first of those that share one. ``cpu_seconds`` are its
    own, user and system; ``octets`` its memory, pages that it shares with others divided by who shares them.
    """

    number: int
    is_synced: bool
    is_drained: bool
    changed: tuple[str, ...]
    troubles: tuple[str, ...]
    cpu_seconds: float
    octets: int
    metrics: tuple[Family, ...]


Order = (
    Namespace
    | Service
    | ExposedService
    | EndpointSlice
    | ImportedSlice
    | Pod
    | ServiceImport
    | Ingress
    | Gateway
    | Route
    | Deleted
    | Completed
    | Moved
    | Asked
    | Retire
    | Drain
    | Static
)
"""What a controller says."""


def _octets_of(value: Any) -> bytes:
    if isinstance(value, Name):
        return value.wire
    raise NotImplementedError(type(value))  # as msgspec wants it of a hook


def _name_of(kind: type, value: Any) -> Name:
    if kind is Name and isinstance(value, bytes):
        return Name.trusted(value)
    raise NotImplementedError(kind)


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_octets_of)
_orders: Final = msgspec.msgpack.Decoder(Order, dec_hook=_name_of)
_tellings: Final = msgspec.msgpack.Decoder(Told)


def encode(message: Order | Object | Told) -> bytes:
    """Return a message with its length in front."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_OCTETS, "big") + body


def read_order(body: bytes) -> Order:
    """Read what a controller says. Raises ``msgspec.MsgspecError``."""
    order: Order = _orders.decode(body)
    return order


def read_telling(body: bytes) -> Told:
    """Read what a worker says. Raises ``msgspec.MsgspecError``."""
    return _tellings.decode(body)


class Messages:
    """Cuts a stream into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the messages that *chunk* completes. Raises ValueError for a length that cannot be."""
        data = self._rest + chunk if self._rest else chunk
        at, end = 0, len(data)
        while end - at >= LENGTH_OCTETS:
            size = int.from_bytes(data[at : at + LENGTH_OCTETS], "big")
            if size > MAX_MESSAGE_OCTETS:
                raise ValueError(f"a message of {size} octets")
            if end - at - LENGTH_OCTETS < size:
                break
            at += LENGTH_OCTETS
            yield data[at : at + size]
            at += size
        self._rest = data[at:]
