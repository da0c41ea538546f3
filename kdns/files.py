"""Files followed: looked at when they may have changed, at once where they can be watched, and every few seconds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

import trio
import watchfiles

LOOK_SECONDS: Final = 2.0
"""Files are looked at this often besides being watched; a look costs a stat a file."""


async def follow(
    paths: Iterable[Path], look: Callable[[], Awaitable[None]], trouble: Callable[[str | None], None]
) -> None:
    """Call *look* now and whenever something at *paths* may have changed, until cancelled.

    *trouble* is told when they cannot be watched, and with None when they have been for a while.
    """
    folders = {_watchable(path) for path in paths}
    changed = trio.Event()

    async def watch() -> None:
        async for _ in watchfiles.awatch(
            *folders, watch_filter=None, debounce=200, step=50, stop_event=stop, raise_interrupt=False
        ):
            changed.set()

    async def settle() -> None:
        await trio.sleep(LOOK_SECONDS)
        trouble(None)

    async def keep_watching() -> None:
        while True:
            try:
                async with trio.open_nursery() as watching:
                    watching.start_soon(settle)
                    await watch()
                    watching.cancel_scope.cancel()
            except Exception as exc:  # noqa: BLE001 - out of inotify instances, a folder that went away, …
                reason = exc.exceptions[0] if isinstance(exc, ExceptionGroup) else exc
                trouble(f"cannot be watched ({reason}); looked at every {LOOK_SECONDS:g} s")
            await trio.sleep(LOOK_SECONDS)

    async def stop_watching() -> None:
        try:
            await trio.sleep_forever()
        finally:
            stop.set()  # the watching thread looks at it every step, and ends

    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_watching)
        nursery.start_soon(keep_watching)
        while True:
            # Whatever watching misses (a folder made anew, a link turned elsewhere), a look finds.
            await look()
            with trio.move_on_after(LOOK_SECONDS):
                await changed.wait()
            changed = trio.Event()


def _watchable(path: Path) -> Path:
    """Return what to watch for *path*: a file is replaced by a new one, so it is its folder."""
    return path if path.is_dir() else path.parent
