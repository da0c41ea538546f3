"""Questions from files: lines of text, and dnstap captures."""

from __future__ import annotations

import random
from pathlib import Path

import dns.message
import pytest

from kdns.errors import ConfigError
from kdns.migrate.names import names_in
from kdns.proto.dnstap import Control, control_frame, data_frame, head_of, payload, peer_of, queries_in, Socket, Sort

QUERY = dns.message.make_query("Web.Example.", "AAAA").to_wire()
HEAD = head_of("host", "kdns 1")


def captured(*messages: bytes) -> bytes:
    frames = b"".join(map(data_frame, messages))
    return control_frame(Control.START) + frames + control_frame(Control.STOP)


def message(sort: Sort, query: bytes | None, response: bytes | None = None) -> bytes:
    peer = peer_of("2001:db8::1", 5353, is_upstream=sort >= Sort.FORWARDER_QUERY)
    return payload(HEAD, sort, Socket.UDP, peer, query_at=1.5, query=query, response_at=2.5, response=response)


def test_a_capture(tmp_path: Path) -> None:
    file = tmp_path / "c.tap"
    other = dns.message.make_query("b.example.", "A").to_wire()
    file.write_bytes(
        captured(
            message(Sort.CLIENT_QUERY, QUERY),
            message(Sort.CLIENT_RESPONSE, None, other),
            message(Sort.CLIENT_QUERY, QUERY),
            message(Sort.FORWARDER_QUERY, other),
            message(Sort.CLIENT_QUERY, b"\0\1\2"),
        )
    )
    assert [(str(name), qtype) for name, qtype in names_in(file)] == [("Web.Example.", 28), ("b.example.", 1)]


def test_a_capture_that_breaks_off_or_is_damaged(tmp_path: Path) -> None:
    whole = captured(*[message(Sort.CLIENT_QUERY, QUERY)] * 3)
    start = len(control_frame(Control.START))
    for end in range(start, len(whole)):
        assert len(list(queries_in(whole[:end]))) <= 3
    file = tmp_path / "c.tap"
    source = random.Random(7)
    refused = 0
    for _ in range(500):
        broken = bytearray(whole)
        broken[source.randrange(start, len(whole))] = source.randrange(256)
        file.write_bytes(broken)
        try:
            names_in(file)
        except ConfigError as exc:
            refused += "a whole dnstap capture" in str(exc)
    assert refused


def test_lines(tmp_path: Path) -> None:
    file = tmp_path / "names"
    file.write_text("a.example\nb.example TYPE65 # of a log\n\nc.example\t28\na.example A\n")
    assert [(str(name), qtype) for name, qtype in names_in(file)] == [
        ("a.example.", 1),
        ("b.example.", 65),
        ("c.example.", 28),
    ]
    file.write_text("a..b\nx NOTYPE\ny 70000\n")
    with pytest.raises(ConfigError) as caught:
        names_in(file)
    assert [problem.where for problem in caught.value.problems] == [f"{file}:{number}" for number in (1, 2, 3)]
