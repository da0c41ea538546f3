"""/metrics, /health and /ready over HTTP (OPERATORS section 1)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve

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

    def __init__(self, sockets: Sequence[socket.socket], health: Health, held: Callable[[], Awaitable[None]]) -> None:
        self._sockets = tuple(sockets)
        self._health = health
        self._held = held

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
        status, kind, body = await self._page(scope["method"], scope["path"])
        headers = [
            (b"content-type", kind),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _page(self, method: str, path: str) -> tuple[int, bytes, bytes]:
        text = b"text/plain; charset=utf-8"
        if method not in ("GET", "HEAD"):
            return 405, text, b"only GET and HEAD\n"
        match path:
            case "/health":
                return 200, text, b"OK"
            case "/ready":
                missing = self._health.not_ready()
                lines = [*(missing or ["OK"]), *self._health.troubles()]
                return 503 if missing else 200, text, "\n".join(lines).encode()
            case "/metrics":
                return 200, b"text/plain; version=0.0.4; charset=utf-8", await self._health.metrics_page()
        return 404, text, b"there are /metrics, /health and /ready\n"
