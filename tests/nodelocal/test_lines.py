"""What the processes say to each other: whatever one of them writes, the other's reader ends in one kind of error."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from kdns.lines import encode, Json, lines


def _read(*chunks: bytes) -> list[Json]:
    async def main() -> list[Json]:
        writer, reader = trio.testing.memory_stream_one_way_pair()
        for chunk in chunks:
            await writer.send_all(chunk)
        await writer.aclose()
        return [said async for said in lines(reader)]

    return trio.run(main)


def test_objects_come_as_they_were_said_however_they_are_cut() -> None:
    said: list[Json] = [{"ask": 1}, {"watch": {"put": ["a", "b"]}}]
    wire = b"".join(encode(one) for one in said)
    assert _read(wire) == _read(*(bytes([octet]) for octet in wire)) == said
    assert _read(wire[:-1]) == said[:1]  # what is cut off was not said


@pytest.mark.parametrize("wire", [b"nonsense\n", b"[1]\n", b"\xff\n", b"[" * 100_000 + b"\n", b"x" * (2**20 + 1)])
def test_anything_else_is_a_value_error(wire: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        _read(wire)
