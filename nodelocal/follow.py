"""Keep the node's pods as the watcher process tells them (``nodelocal.watcher``), and start it again when it ends."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final, NoReturn

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


def watcher_command(config: Config) -> list[str]:
    """Return the command that watches the pods of the configured node."""
    assert config.node is not None  # there is nothing to watch without one
    command = [sys.executable, "-m", "nodelocal.watcher", "--node", config.node]
    for name, value in (
        ("--kubeconfig", config.kubeconfig),
        ("--context", config.context),
        ("--api-server", config.api_server),
    ):
        if value is not None:
            command += [name, str(value)]
    return command + (["--log-json"] if config.log_format.value == "json" else [])


async def follow(pods: NodePods, command: Sequence[str]) -> NoReturn:
    """Keep *pods* until cancelled; what is known stays while the watcher is away."""
    wait = FIRST_WAIT_SECONDS
    while True:
        began = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                run = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False)
                process = await nursery.start(run)
                await _read(pods, process.stdout)
                nursery.cancel_scope.cancel()
            why = "ended"
        except* OSError as group:
            why = str(group.exceptions[0])
        pods.trouble = f"the watcher of the node's pods {why}"
        if trio.current_time() - began > LASTING_SECONDS:
            wait = FIRST_WAIT_SECONDS
        log.warning("%s; what it told stays in use, and it is started again in %g s", pods.trouble, wait)
        await trio.sleep(wait)
        wait = min(wait * 2, MAX_WAIT_SECONDS)


async def _read(pods: NodePods, stream: trio.abc.ReceiveStream) -> None:
    rest = b""
    while chunk := await stream.receive_some(65_536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            take_line(pods, line)
        if len(rest) > MAX_LINE_OCTETS:
            return


def take_line(pods: NodePods, line: bytes) -> None:
    """Apply one line of the watcher."""
    try:
        said = json.loads(line)
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
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        log.warning("the watcher of the node's pods wrote something else: %s", exc)
