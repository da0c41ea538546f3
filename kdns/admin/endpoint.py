"""/metrics, /health and /ready over HTTP (OPERATORS section 1), and the status page beside them."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve

from kdns.admin.pages import Reply, StatusPages, TEXT

log = logging.getLogger(__name__)


class Health(Protocol):
    """What the pages ask."""

    def not_ready(self) -> list[str]:
        """List why the program is not ready; empty when it is."""

    def troubles(self) -> list[str]:
        """List what is wrong, ready or not."""

    async def metrics_page(self) -> bytes:
        """Return the metrics in Prometheus's text format."""


class AdminEndpoint:
    """Serves the pages on bound, listening sockets; takes no more connections once *held* returns."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        health: Health,
        held: Callable[[], Awaitable[None]],
        pages: StatusPages | None = None,
    ) -> None:
        self._sockets = tuple(sockets)
        self._health = health
        self._held = held
        self._pages = pages

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        config = HypercornConfig()
        config.bind = [f"fd://{os.dup(sock.fileno())}" for sock in self._sockets]  # it closes what it is given
        config.include_server_header = False
        config.keep_alive_timeout = 75
        config.graceful_timeout = 0.5
        config.h11_max_incomplete_size = 8192
        config.errorlog = logging.getLogger("kdns.admin.http")
        config.errorlog.setLevel(logging.WARNING)

        async def run(*, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
            await serve(self._app, config, shutdown_trigger=self._held, task_status=task_status)  # type: ignore[arg-type]

        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            task_status.started()

    async def _app(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["type"] != "http":
            return
        status, kind, body, more = await self._page(scope)
        headers = [
            *more,
            (b"content-type", kind),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _page(self, scope: dict[str, Any]) -> Reply:
        if scope["method"] not in ("GET", "HEAD"):
            return 405, TEXT, b"only GET and HEAD\n", []
        match scope["path"]:
            case "/health":
                return 200, TEXT, b"OK", []
            case "/ready":
                missing = self._health.not_ready()
                lines = [*(missing or ["OK"]), *self._health.troubles()]
                return 503 if missing else 200, TEXT, "\n".join(lines).encode(), []
            case "/metrics":
                return 200, b"text/plain; version=0.0.4; charset=utf-8", await self._health.metrics_page(), []
        if self._pages is not None:
            client, host = (scope.get("client") or ("",))[0], dict(scope["headers"]).get(b"host", b"")
            reply = await self._pages.answer(scope["path"], scope["query_string"], client, host.decode("latin1"))
            if reply is not None:
                return reply
        return 404, TEXT, b"there are /metrics, /health and /ready, and a status page at / unless --status is off\n", []
