"""What both programs do with their sockets, with something else that answers on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import trio

from kdns.net.addresses import Listen
from kdns.net.listeners import Sockets
from kdns.program import Program


class Slow:
    """Takes its time to begin."""

    def __init__(self) -> None:
        self.may_begin = trio.Event()

    async def serve(
        self, sets: Sequence[Sockets], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await self.may_begin.wait()
        task_status.started()
        await trio.sleep_forever()

    def hold(self) -> None: ...

    def retire(self) -> None: ...

    async def drain(self) -> None: ...


class Well:
    """Is always well."""

    def health(self) -> tuple[int, str]:
        return 200, "OK"

    ready = page = health


@pytest.mark.parametrize("begins", [False, True])
def test_who_is_told_to_end_before_it_has_begun_ends_without_an_error(*, begins: bool) -> None:
    async def main() -> list[str]:
        said: list[str] = []
        answering = Slow()
        program = Program(
            "kdns", [Listen("127.0.0.1", 0)], [Listen("127.0.0.1", 0)], answering, lameduck=0, announce=said.append
        )
        program.bind()
        if begins:
            answering.may_begin.set()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                program.end(0) if not begins else nursery.start_soon(_end_later, program)
                await nursery.start(partial(program.run, Well(), [], heeds_signals=False))  # type: ignore[arg-type]
        return said

    assert trio.run(main)[-1] == "kdns: stopped"


async def _end_later(program: Program) -> None:
    await trio.sleep(0.05)
    program.end(0)
