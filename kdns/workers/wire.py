"""What the controller and its workers say to each other, framed as ``kdns.control.framing`` does.

| from the controller          | meaning                                                                         |
|------------------------------|---------------------------------------------------------------------------------|
| an object                    | it is there, or changed                                                         |
| ``Deleted``                  | it is gone                                                                      |
| ``Completed``                | everything of a kind has been said once                                         |
| ``Restored``                 | everything that was known in an earlier life has been said                      |
| ``Moved``                    | the serials of all zones, by the first of those that share one                  |
| ``Asked``                    | say how things are: once a second, and when somebody looks at the metrics       |
| ``Explain``                  | say why a question is answered as it is                                         |
| ``Static``                   | the static records, all of them                                                 |
| ``Hold``                     | take nothing more from the sockets: somebody else answers on them, too          |
| ``Retire``                   | ask sessions to go                                                              |
| ``Drain``                    | say when nothing is on its way any more; the end of the link ends the worker    |

| from a worker                | meaning                                                                         |
|------------------------------|---------------------------------------------------------------------------------|
| ``Told``                     | how things are                                                                  |
| ``Explained``                | why a question is answered as it is                                             |

Nothing that a worker says is more than data of these types: it reads packets from the network, the controller has the
credentials.
"""

from __future__ import annotations

from typing import Final

import msgspec

from kdns.control.framing import reader_of
from zones.objects import (
    EndpointSlice,
    ExposedService,
    Gateway,
    ImportedSlice,
    Ingress,
    Kind,
    Namespace,
    ObjectKey,
    Pod,
    Route,
    Service,
    ServiceImport,
)
from zones.records import RRset


class Deleted(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An object is gone."""

    kind: Kind
    key: ObjectKey


class Completed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Everything of a kind has been said once."""

    kind: Kind


class Restored(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Everything that was known in an earlier life has been said."""


class Moved(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The serials of all zones, by the first zone of those that share one."""

    serials: dict[str, int]


class Asked(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Say how things are."""

    number: int


class Hold(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Take nothing more from the sockets."""


class Retire(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Ask sessions to go."""


class Drain(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Say when nothing is on its way any more."""


class Explain(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Say why a question is answered as it is, by a pod of that namespace or none; see ``kdns.overview``."""

    number: int
    name: str
    rrtype: str
    asker: str


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


class Told(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """How things are in a worker; ``number`` is that of the question.

    ``changed``: the zones whose serials should move, by the first of those that share one. ``cpu_seconds`` are its
    own, user and system; ``octets`` its memory, pages that it shares with others divided by who shares them.
    ``names`` and ``clients`` are what is asked for most and who asks most (``kdns.net.hitters``), each a second.
    """

    number: int
    is_synced: bool
    is_drained: bool
    changed: tuple[str, ...]
    troubles: tuple[str, ...]
    cpu_seconds: float
    octets: int
    metrics: tuple[Family, ...]
    names: tuple[tuple[bytes, float], ...]
    clients: tuple[tuple[bytes, float], ...]


class Explained(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Why a question is answered as it is, in lines; or what is wrong with it."""

    number: int
    lines: tuple[str, ...]
    error: str


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
    | Restored
    | Moved
    | Asked
    | Explain
    | Hold
    | Retire
    | Drain
    | Static
)
"""What a controller says."""


_orders: Final = reader_of(Order)
Telling = Told | Explained
"""What a worker says."""

_tellings: Final = reader_of(Telling)


def read_order(body: bytes) -> Order:
    """Read what a controller says. Raises ``msgspec.MsgspecError``."""
    order: Order = _orders(body)
    return order


def read_telling(body: bytes) -> Telling:
    """Read what a worker says. Raises ``msgspec.MsgspecError``."""
    told: Telling = _tellings(body)
    return told
