"""Lines of a stream are whole and in order, however they are cut into chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from kdns.control import client
from kdns.control.client import Stream
from kdns.errors import ClusterUnavailable


class Chunks(urllib3.HTTPResponse):
    """A chunked response of which the chunks are known."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        super().__init__(headers={"transfer-encoding": "chunked"})
        self._some = chunks

    def read_chunked(self, amt: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:  # type: ignore[override]
        yield from self._some


def lines_of(chunks: Sequence[bytes]) -> list[bytes]:
    return [line for some in Stream(Chunks(chunks), "/x").lines() for line in some]


@given(st.lists(st.binary(max_size=12).map(lambda some: some.replace(b"\r", b"")), max_size=8), st.data())
def test_lines_are_those_that_were_written(lines: list[bytes], data: st.DataObject) -> None:
    text = b"".join(line.replace(b"\n", b"") + b"\n" for line in lines) + b"cut off"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    chunks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True) if start < end]
    expected = [line for line in text.split(b"\n")[:-1] if line.strip()]
    assert lines_of(chunks) == expected


def test_a_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_BODY_OCTETS", 1000)
    assert lines_of([b"x" * 600, b"\n", b"y" * 900, b"z\n"]) == [b"x" * 600, b"y" * 900 + b"z"]
    with pytest.raises(ClusterUnavailable, match="/x: a line of more than 1000 octets"):
        lines_of([b"x" * 600, b"y" * 600])
