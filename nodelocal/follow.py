"""Hear what the watcher process tells of the node's pods (``nodelocal.watcher``), and start it again when it ends."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NoReturn

import trio

from nodelocal.config import Config
from nodelocal.pods import NodePods
from zones.objects import Pod, SearchPath
from zones.records import address_from_text

log = logging.getLogger(__name__)

FIRST_WAIT_SECONDS: Final = 1.0
MAX_WAIT_SECONDS: Final = 60.0
LASTING_SECONDS: Final = 60.0
MAX_LINE_OCTETS: Final = 2**20

Json = dict[str, Any]


def watcher_command(config: Config) -> list[str]:
    """Return the command that watches the pods of the configured node, and the servers of the cluster's DNS."""
    command = [sys.executable, "-m", "nodelocal.watcher"]
    service = config.cluster_service
    for name, value in (
        ("--node", config.node),
        ("--service", None if service is None else f"{service.namespace}/{service.name}"),
        ("--zone", config.zone),
        ("--kubeconfig", config.kubeconfig),
        ("--context", config.context),
        ("--api-server", config.api_server),
    ):
        if value is not None:
            command += [name, str(value)]
    command += ["--unprivileged"] if config.plan is not None else []
    return command + (["--log-json"] if config.log_format.value == "json" else [])


async def follow(take: Callable[[Json], None], command: Sequence[str]) -> NoReturn:
    """Give *take* what the watcher says until cancelled; what it said before counts while it is away."""
    wait = FIRST_WAIT_SECONDS
    while True:
        began = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                run = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False)
                process = await nursery.start(run)
                await _read(take, process.stdout)
                nursery.cancel_scope.cancel()
            why = "ended"
        except* OSError as group:
            why = str(group.exceptions[0])
        trouble = f"the watcher of the API server {why}"
        take({"trouble": trouble})
        if trio.current_time() - began > LASTING_SECONDS:
            wait = FIRST_WAIT_SECONDS
        log.warning("%s; what it told stays in use, and it is started again in %g s", trouble, wait)
        await trio.sleep(wait)
        wait = min(wait * 2, MAX_WAIT_SECONDS)


async def _read(take: Callable[[Json], None], stream: trio.abc.ReceiveStream) -> None:
    rest = b""
    while chunk := await stream.receive_some(65_536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            try:
                said = json.loads(line)
            except (ValueError, RecursionError):
                said = None
            if isinstance(said, dict):
                take(said)
            else:
                log.warning("the watcher of the node's pods wrote something else: %r", line[:100])
        if len(rest) > MAX_LINE_OCTETS:
            return


def take_said(pods: NodePods, said: Json) -> None:
    """Apply what the watcher said."""
    try:
        if (put := said.get("put")) is not None:
            namespace, name, addresses, path = put
            octets = tuple(map(address_from_text, addresses))
            pods.put(Pod(namespace.encode(), name.encode(), octets, SearchPath(path)))
        elif (gone := said.get("delete")) is not None:
            pods.delete(gone[0].encode(), gone[1].encode())
        elif (names := said.get("all")) is not None:
            pods.keep_only((namespace.encode(), name.encode()) for namespace, name in names)
            pods.is_synced = True
            pods.trouble = ""
        elif "trouble" in said:
            pods.trouble = said["trouble"] or ""
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        log.warning("the watcher of the node's pods wrote something else: %s", exc)


class Snapshot:
    """What the watcher has said, in as few sayings as say the same: for a worker that comes later."""

    def __init__(self) -> None:
        self._pods: dict[tuple[str, str], Json] = {}
        self._is_complete = False
        self._servers: Json = {}
        self._trouble: Json | None = None

    def take(self, said: Json) -> None:
        """Note what was said."""
        try:
            if (put := said.get("put")) is not None:
                self._pods[put[0], put[1]] = said
            elif (gone := said.get("delete")) is not None:
                self._pods.pop((gone[0], gone[1]), None)
            elif (names := said.get("all")) is not None:
                kept = {(namespace, name) for namespace, name in names}
                self._pods = {key: pod for key, pod in self._pods.items() if key in kept}
                self._is_complete, self._trouble = True, None
            elif "servers" in said or "servers_trouble" in said:
                self._servers |= said
            elif "trouble" in said:
                self._trouble = said
        except (ValueError, LookupError, TypeError) as exc:
            log.warning("the watcher of the node's pods wrote something else: %s", exc)

    def __iter__(self) -> Iterator[Json]:
        yield from self._pods.values()
        if self._is_complete:
            yield {"all": [list(key) for key in self._pods]}
        yield from ({key: value} for key, value in self._servers.items())
        if self._trouble is not None:
            yield self._trouble
