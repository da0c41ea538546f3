"""Log lines: of the program, and of queries in CoreDNS's form (OPERATORS section 4); JSON as an option."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Final, TextIO

from kdns.errors import WireError
from kdns.proto.query import Query, RCODE_TEXT, Transport
from kdns.proto.reading import read_query
from zones.names import label_to_text, split_labels
from zones.records import IN, rrtype_to_text

_FLAGS: Final = ((0x8000, "qr"), (0x0400, "aa"), (0x0200, "tc"), (0x0100, "rd"), (0x0080, "ra"), (0x0020, "ad"))
_CLASSES: Final = {IN: "IN", 3: "CH", 4: "HS", 254: "NONE", 255: "ANY"}


class TextFormatter(logging.Formatter):
    """``[INFO] message``, with the logger's name for what is not information; control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and a traceback where there is one."""
        message = _escaped(record.getMessage())
        if record.levelno > logging.INFO and record.name != "kdns.errors":
            message = f"{record.name}: {message}"
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        return f"[{record.levelname}] {message}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what ``extra={"fields": …}`` holds stands beside time, level, logger and message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        entry: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        fields = getattr(record, "fields", None)
        entry.update(fields if isinstance(fields, dict) else {"message": record.getMessage()})
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True)


def set_up(*, as_json: bool, stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send the logs of this program to *stream* (standard error), those of *level* and above."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # The Kubernetes client writes to the root logger what a ClusterError tells as well.
    logging.getLogger().addFilter(lambda record: record.name != "root")
    for noisy in ("urllib3", "kubernetes", "client", "watchfiles", "hypercorn"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


class QueryLog:
    """Writes a line for each query, or for each that ends in SERVFAIL."""

    def __init__(self, *, queries: bool, errors: bool) -> None:
        self.queries = queries
        self.errors = errors
        self._queries = logging.getLogger("kdns.queries")
        self._errors = logging.getLogger("kdns.errors")

    def note(self, wire: bytes, tail: bytes, client: tuple[str, int], transport: Transport, seconds: float) -> None:
        """Write the lines for one query and its response."""
        flags = int.from_bytes(tail[:2], "big")
        rcode = flags & 15
        try:
            query = read_query(wire, transport)
        except WireError as exc:
            if self.queries:
                self._unreadable(exc, wire, client, transport, rcode, len(tail) + 2, seconds)
            return
        if self.queries:
            self._query(query, flags, client, len(tail) + 2, seconds)
        if self.errors and rcode == 2:
            self._errors.error(
                "plugin/errors: 2 %s %s: SERVFAIL",
                _name(query),
                rrtype_to_text(query.qtype),
                extra={"fields": {"name": _name(query), "type": rrtype_to_text(query.qtype), "rcode": "SERVFAIL"}},
            )

    def _query(self, query: Query, flags: int, client: tuple[str, int], size: int, seconds: float) -> None:
        text, kind = _name(query), rrtype_to_text(query.qtype)
        rclass = _CLASSES.get(query.qclass, f"CLASS{query.qclass}")
        rcode = RCODE_TEXT.get(flags & 15, str(flags & 15))
        do = query.edns is not None and query.edns.do
        offered = query.edns.size if query.edns is not None else 512 if query.transport is Transport.UDP else 65535
        shown = ",".join(name for bit, name in _FLAGS if flags & bit)
        self._queries.info(
            '%s - %d "%s %s %s %s %d %s %d" %s %s %d %.9fs',
            _remote(client),
            int.from_bytes(query.id, "big"),
            kind,
            rclass,
            text,
            query.transport.value,
            query.octets,
            str(do).lower(),
            offered,
            rcode,
            shown,
            size,
            seconds,
            extra={
                "fields": {
                    "remote": _remote(client),
                    "id": int.from_bytes(query.id, "big"),
                    "type": kind,
                    "class": rclass,
                    "name": text,
                    "proto": query.transport.value,
                    "size": query.octets,
                    "do": do,
                    "bufsize": offered,
                    "rcode": rcode,
                    "rflags": shown.split(","),
                    "rsize": size,
                    "duration": seconds,
                }
            },
        )

    def _unreadable(
        self,
        exc: WireError,
        wire: bytes,
        client: tuple[str, int],
        transport: Transport,
        rcode: int,
        size: int,
        seconds: float,
    ) -> None:
        self._queries.info(
            '%s - %d "unreadable: %s %s %d" %s %d %.9fs',
            _remote(client),
            int.from_bytes(wire[:2], "big"),
            exc,
            transport.value,
            len(wire),
            RCODE_TEXT[rcode],
            size,
            seconds,
        )


def _remote(client: tuple[str, int]) -> str:
    address, port = client
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _name(query: Query) -> str:
    """Return the name as spelled; what could confuse a reader of logs is escaped."""
    return "".join(f"{label_to_text(label)}." for label in split_labels(query.qname.wire)) or "."


def _escaped(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
