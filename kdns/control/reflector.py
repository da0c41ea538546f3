"""List and watch one kind of object, for ever (the reflector of Kubernetes' API concepts).

| what happens                                              | what follows                                         |
|-----------------------------------------------------------|------------------------------------------------------|
| start, or the version is gone (410)                       | the whole kind anew: a streaming list where the      |
|                                                           | server has them, else pages of ``PAGE_OBJECTS``; each |
|                                                           | object is applied as it comes, and what did not come |
|                                                           | is deleted at the end, so there are never two copies |
| the watch ends, is cut, or the server's time for it is up | a watch from the last version                        |
| nothing for ``silence_seconds``, no bookmark either       | a look at the server's version: a watch from the     |
|                                                           | last version, or anew if that lies in the future     |
| 403, 429, 5xx, no connection, nonsense                    | again after a back-off with jitter; what is known is |
|                                                           | served meanwhile                                     |
| 401                                                       | the same with credentials read anew                  |
| 404 of an API that a cluster may lack                     | another of its versions, if there is one; else the   |
|                                                           | kind is empty, and asked for every ``absent_seconds`` |

The stream is read and decoded in a thread and applied in the trio thread, an object at a time, with queries answered
in between. An end by cancellation shuts the connection down, which ends the thread's read.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime, UTC
from functools import partial
from typing import Final, TypeVar

import trio

from kdns.control.client import ApiServer, Silence, Stream
from kdns.control.events import BadStream, Batch, EventDecoder, ListMeta
from kdns.control.gathering import Gathering
from kdns.control.handover import Handover
from kdns.control.resource import Backoff, Pace, Resource
from kdns.control.sink import Sink
from kdns.errors import AccessDenied, ClusterError, ClusterUnavailable, ResourceExpired
from zones.decode import Decoder
from zones.objects import EndpointSlice, Object, ObjectKey

log = logging.getLogger(__name__)

PAGE_OBJECTS: Final = 500
LASTING_SECONDS: Final = 5.0
"""A watch that lasted for this long ends a row of failures; a list that succeeds between two of them does not."""

SETTLED_SECONDS: Final = 1.0
"""A watch open for this long without an error means that all is well again."""

MAX_STUCK: Final = 3
"""Answers that make no sense to a watch of one version before everything is listed again. A server that is away does
not count: when it is back the watch goes on where it was, and a thousand clients do not all list at once."""

MAX_PAGES: Final = 100_000
"""Of a list, each of 500 objects: more is a server that does not know how to end."""

GATHER_SECONDS: Final = 0.002
"""Of a list, what comes within this is applied together: waking up for each object costs more than the object."""

STEP_SECONDS: Final = 0.001
"""Objects are applied for this long between two looks at the network."""

_T = TypeVar("_T")


Difference = tuple[Object | None, Object | None]
"""What we have, and what the server has; None: nothing."""


class Reflector:
    """Keeps the objects of one *resource* in *sink* equal to those of *server*."""

    def __init__(
        self,
        server: ApiServer,
        resource: Resource,
        sink: Sink,
        decoder: Decoder,
        *,
        pace: Pace | None = None,
        observe_programming: Callable[[str, float], None] | None = None,
    ) -> None:
        self._server = server
        self._resource = resource
        self._sink = sink
        self._events = EventDecoder(resource.kind, decoder)
        self._pace = pace or Pace()
        self._observe_programming = observe_programming
        self._backoff = Backoff(self._pace)
        self._version: str | None = None
        self._streams_lists = True
        self._where = resource.kind.plural
        self._paths = list(resource.paths)
        self._lacking = 0
        self.kind = resource.kind
        self.lists = 0
        self._stuck = 0
        self._settled = False
        self._heard_at = trio.current_time()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Reflect until cancelled."""
        failure: type[Exception] | None = None
        while True:
            watched_from = self._version
            try:
                with trio.CancelScope() as self._scope:
                    if self._version is None:
                        await self._list()
                    else:
                        await self._watch(self._version)
                if self._scope.cancelled_caught:
                    self._version = None
                continue
            except Silence as exc:
                if self._version is not None:
                    await self._after_silence()
                    continue
                error: Exception = exc
            except Exception as exc:  # noqa: BLE001 - nothing that a server says ends the program
                error = exc
            if self._resource.is_optional and isinstance(error, ClusterUnavailable) and error.code == 404:
                failure, self._settled = None, False
                await self._absent()
                continue
            if self._settled:
                failure, self._settled = None, False
            if not isinstance(error, ClusterError):
                log.error(
                    "%s: unexpected: %r", self._where, error, exc_info=error if failure is not type(error) else None
                )
            if isinstance(error, ResourceExpired) and failure is None:
                log.info("%s: %s; listing again", self._where, error)
            else:
                self._trouble(error)
            if type(error) is not failure:  # a server that is back and still refuses: soon it will not
                self._backoff.reset()
            failure = type(error)
            if isinstance(error, ResourceExpired):
                self._version = None
            elif watched_from is not None and watched_from == self._version and _may_be_the_versions(error):
                self._stuck += 1
                if self._stuck >= MAX_STUCK:
                    self._version, self._stuck = None, 0
            wait = error.retry_after if isinstance(error, ClusterUnavailable) else 0.0
            await trio.sleep(max(wait, self._backoff.next()))

    @property
    def is_complete(self) -> bool:
        """Whether everything of the kind was here once, of an API that the server has."""
        return self._sink.is_complete(self.kind) and not self._lacking

    def age(self) -> float:
        """Return the seconds since the server last said anything, or since the start."""
        return trio.current_time() - self._heard_at

    def start_again(self) -> None:
        """List everything anew, now."""
        self._scope.cancel()

    async def differences(self) -> dict[ObjectKey, Difference]:
        """List the kind and tell where the server and the sink differ now. Raises ClusterError."""
        kind, sink = self._resource.kind, self._sink
        found: dict[ObjectKey, Difference] = {}
        seen: set[ObjectKey] = set()
        async for _, batch in self._pages():
            seen.update(batch.seen)
            for key, theirs in batch.puts.items():
                if (ours := sink.get(kind, key)) != theirs:
                    found[key] = ours, theirs
        for key in sink.keys(kind):
            if key not in seen and (ours := sink.get(kind, key)) is not None:
                found[key] = ours, None
        return found

    @property
    def _path(self) -> str:
        return self._paths[0]

    async def _absent(self) -> None:
        """Go on with another version of the API, or, when all are lacking, wait a while."""
        self._version = None
        self._paths.append(self._paths.pop(0))
        self._lacking += 1
        if self._lacking % len(self._paths):
            return
        if self._lacking == len(self._paths):
            log.info("%s: the API server has no such API; skipped, and looked for again", self._where)
        self._heard()
        self._complete(set())
        self._sink.trouble(self._where, None)
        self._backoff.reset()
        await trio.sleep(self._pace.absent_seconds)

    # -- the whole kind -------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        self.lists += 1
        if self._streams_lists:
            try:
                await self._watch(None)
            except _NoStreamingLists as exc:
                log.info("%s: no streaming lists here (%s); listing page by page", self._where, exc)
                self._streams_lists = False
            else:
                return
        seen: set[ObjectKey] = set()
        version: str | None = None
        async for page, batch in self._pages():
            await self.take(batch)
            seen.update(batch.seen)
            version = page.resource_version
        self._complete(seen)
        self._version = version

    async def _pages(self) -> AsyncIterator[tuple[ListMeta, Batch]]:
        params = {"limit": str(PAGE_OBJECTS), **self._resource.selectors}
        tokens: set[str] = set()
        while True:
            page, batch = await self._in_thread(partial(self._read_page, params), lambda: None)
            yield page, batch
            if not page.continue_:
                return
            if page.continue_ in tokens or len(tokens) > MAX_PAGES:
                raise ClusterUnavailable(f"{self._path}: a list that does not end")
            tokens.add(page.continue_)
            params["continue"] = page.continue_

    def _read_page(self, params: dict[str, str]) -> tuple[ListMeta, Batch]:
        body = self._server.get(self._path, params, silence_seconds=self._pace.silence_seconds).read_all()
        return self._events.page(body, self._path)

    def _complete(self, seen: set[ObjectKey]) -> None:
        if ObjectKey(b"default", b"") in seen or ObjectKey(b"", b"") in seen:
            # An object whose very name could not be read: whichever it is, it must not be deleted for that.
            log.warning("%s: an object without a readable name; nothing is deleted by this list", self._where)
        else:
            self._sink.keep_only(self._resource.kind, seen)
        self._sink.complete(self._resource.kind)

    # -- the watch ------------------------------------------------------------------------------------------------

    async def _watch(self, version: str | None) -> None:
        """Watch from *version*, or with None from a streaming list, until the stream ends."""
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(self._pace.watch_seconds, 2 * self._pace.watch_seconds)),
            **self._resource.selectors,
        }
        if version is None:
            params |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        else:
            params["resourceVersion"] = version
        began = trio.current_time()
        streams: list[Stream] = []
        flowing = trio.Event()
        initial: set[ObjectKey] | None = set() if version is None else None

        async def apply(batch: Batch) -> None:
            nonlocal initial
            if batch.error is not None:
                raise batch.error
            if initial is not None and batch.version is not None and batch.is_bookmark and not batch.ends_initial:
                raise _NoStreamingLists("a bookmark before the list's end")
            await self.take(batch)
            self._stuck = 0
            if initial is None:
                self._note_programming(batch)
            if trio.current_time() - began > LASTING_SECONDS:
                self._backoff.reset()
            if initial is not None:
                initial.difference_update(batch.deletes)
                initial.update(batch.seen)
                if batch.ends_initial:
                    self._complete(initial)
                    initial = None
                    flowing.set()
            if initial is None and batch.version is not None:
                self._version = batch.version

        def read() -> None:
            try:
                stream = self._server.get(self._path, params, silence_seconds=self._pace.silence_seconds)
            except ClusterUnavailable as exc:
                if version is None and exc.code in (400, 422):
                    raise _NoStreamingLists(exc.args[0]) from exc
                raise
            streams.append(stream)
            with stream:
                if version is not None:
                    trio.from_thread.run_sync(flowing.set)
                gathering = Gathering()
                asked = time.monotonic()
                for lines in stream.lines():
                    came = time.monotonic()
                    batches.put(self._events.lines(lines, self._path))
                    if flowing.is_set() and (pause := gathering.pause(asked, came, len(lines))):
                        time.sleep(pause)
                    asked = time.monotonic()

        def stop() -> None:
            batches.stop()
            for stream in streams:
                stream.close()

        async def read_to_end() -> None:
            try:
                await self._in_thread(read, stop)
            except Exception as exc:  # noqa: BLE001 - raised again below, behind what was read before it
                batches.end(exc)
            else:
                batches.end()

        batches: Handover[Batch] = Handover()

        async def settle() -> None:
            await flowing.wait()
            await trio.sleep(SETTLED_SECONDS)
            self._settled = True
            self._sink.trouble(self._where, None)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(settle)
                nursery.start_soon(read_to_end)
                while (some := await batches.take()) is not None:
                    await apply(some)
                    if initial is not None and not batches:
                        await trio.sleep(GATHER_SECONDS)
                nursery.cancel_scope.cancel()
        except* Silence as group:
            if initial:
                raise _NoStreamingLists("the list did not end") from None
            raise group.exceptions[0] from None
        except* ClusterError as group:
            raise group.exceptions[0] from None
        if initial is not None:
            raise _NoStreamingLists("the stream ended before the list did")
        # A server that ends every watch at once must not spin us; after a while it is what servers do.
        await trio.sleep(min(self._backoff.next(), 1.0) if trio.current_time() - began < LASTING_SECONDS else 0)

    def _note_programming(self, batch: Batch) -> None:
        """Tell how long it took from the pods' or the Service's change to here (CONTRACT row 11.7)."""
        if self._observe_programming is None:
            return
        now = datetime.now(UTC)
        for key, when in batch.triggers:
            piece = batch.puts.get(key)
            if not isinstance(piece, EndpointSlice):
                continue
            service = self._sink.service(piece.namespace, piece.service)
            try:
                seconds = (now - datetime.fromisoformat(when)).total_seconds()
            except (ValueError, TypeError):
                continue  # whoever wrote the annotation wrote no time
            if service is not None:
                # Only the slice controller sets the annotation, and only for Services with a selector.
                self._observe_programming("headless_with_selector" if service.is_headless else "cluster_ip", seconds)

    async def take(self, batch: Batch) -> None:
        """Apply what came."""
        self._heard()
        if self._lacking:
            if self._lacking >= len(self._paths):
                log.info("%s: the API server has the API now", self._where)
            self._lacking = 0
        for message in batch.bad:
            self._sink.bad_object(self._where, message)
        kind = self._resource.kind
        is_first = self._sink.is_loading(kind)
        if batch.deletes:
            self._sink.apply((), [(kind, key) for key in batch.deletes])
        began = trio.current_time()
        for new in batch.puts.values():
            self._sink.apply((new,), is_first=is_first)
            if trio.current_time() - began > STEP_SECONDS:
                await trio.lowlevel.checkpoint()
                began = trio.current_time()

    def _heard(self) -> None:
        self._heard_at = trio.current_time()

    def _trouble(self, exc: Exception) -> None:
        code = exc.code if isinstance(exc, ClusterUnavailable) else 0
        is_away = type(exc) is ClusterUnavailable and not code  # no connection
        self._sink.trouble(
            self._where,
            str(exc),
            sort=f"{type(exc).__name__} {code}",
            is_final=is_away or isinstance(exc, AccessDenied),
        )

    async def _after_silence(self) -> None:
        """Find out whether the version watched from lies in the server's future, where every watch is silent."""
        log.info("%s: the watch was silent for %g s; renewing it", self._where, self._pace.silence_seconds)
        try:
            page, _ = await self._in_thread(partial(self._read_page, {"limit": "1"}), lambda: None)
        except Exception as exc:  # noqa: BLE001 - nothing that a server says ends the program
            self._trouble(exc)
            await trio.sleep(self._backoff.next())
            return
        self._heard()
        try:
            if int(page.resource_version or "") >= int(self._version or ""):
                return
        except ValueError:
            pass  # versions that are no numbers cannot be compared: list again
        self._version = None

    # -- threads -------------------------------------------------------------------------------------------------

    async def _in_thread(self, work: Callable[[], _T], stop: Callable[[], None]) -> _T:
        """Run *work* in a thread; if cancelled, call *stop*, which makes it end, and leave it to."""
        try:
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=_THREADS)
        except trio.Cancelled:
            stop()
            raise


def _may_be_the_versions(error: Exception) -> bool:
    """Tell whether another version might be watched without this error."""
    return (
        not isinstance(error, ClusterError)
        or isinstance(error, BadStream)
        or (isinstance(error, ClusterUnavailable) and error.code in (400, 422))
    )


class _NoStreamingLists(ClusterError):
    """The server does not know ``sendInitialEvents``."""


_THREADS = trio.CapacityLimiter(32)
"""One thread a kind, and one more for the moment in which an abandoned one ends."""
