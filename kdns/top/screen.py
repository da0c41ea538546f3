"""``kdns top`` and ``nodelocal top``: the status page on a terminal, from a running program's admin address."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any, Final

import msgspec
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kdns.errors import ConfigError, Problem
from kdns.net.addresses import Listen

ASK_SECONDS: Final = 5.0
_BARS: Final = "▁▂▃▄▅▆▇█"

_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Nobody's proxy reaches this machine's own addresses."""
_NEEDED: Final = {
    "addresses", "began", "clients", "figures", "history", "hit_ratio", "latency", "names", "not_ready", "now",
    "program", "rate", "ready", "responses", "troubles", "upstreams", "version",
}  # fmt: skip

Json = dict[str, Any]


def fetch(admin: Listen) -> Json:
    """Return what the program at *admin* tells. Raises ConfigError where there is none that does."""
    url = f"http://{admin}/status.json"
    try:
        with _OPENER.open(url, timeout=ASK_SECONDS) as reply:
            told = msgspec.json.decode(reply.read())
    except urllib.error.HTTPError as exc:
        with exc:
            found = exc.read(200).decode(errors="replace").strip() or str(exc)
        raise _problem(admin, found) from exc
    except (OSError, ValueError, HTTPException) as exc:
        reason = getattr(exc, "reason", exc)
        raise _problem(admin, str(getattr(reason, "strerror", None) or reason)) from exc
    if not isinstance(told, dict) or not told.keys() >= _NEEDED:
        raise _problem(admin, "something else")
    return told


def _problem(admin: Listen, found: str) -> ConfigError:
    expected = "the --admin address of a running kdns or nodelocal, whose --status lets this machine look"
    return ConfigError([Problem(f"--admin {admin}", found, expected)])


def run_top(admin: Listen, *, every: float, once: bool) -> None:
    """Show what *admin* tells, again and again until interrupted, or *once*. Raises ConfigError for the first time."""
    console = Console()
    told = fetch(admin)
    if once:
        console.print(page(told, console.width, rows=None))
        return
    with Live(page(told, console.width, rows=console.height), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            try:
                told = fetch(admin)
            except ConfigError as exc:
                told = {**told, "ready": False, "not_ready": [exc.problems[0].found], "troubles": []}
            live.update(page(told, console.width, rows=console.height), refresh=True)


def page(told: Json, width: int, *, rows: int | None) -> RenderableType:
    """Return what was *told*, for a terminal of that *width* and so many *rows* (None: as many as it takes)."""
    parts: list[RenderableType] = [_head(told), _figures(told), _history(told, width)]
    room = None if rows is None else max(rows - 10 - len(told["troubles"]), 4)
    half = max(width // 2 - 2, 30)
    names = _table("names asked for most", ("name", "type", "a second"), told["names"], room)
    clients = _table(
        "clients that ask most", ("client", "a second", "pod"), told["clients"], None if room is None else room // 2
    )
    upstreams = [[server, rate, took, f"{lost:.1%}"] for server, rate, took, lost in told["upstreams"]]
    others: list[RenderableType] = [clients]
    if upstreams:
        others.append(_table("upstreams, the slowest first", ("server", "a second", "ms", "no reply"), upstreams, room))
    others.append(_table("responses", ("RCODE", "a second"), [list(item) for item in told["responses"].items()], room))
    if width >= 100:
        table = Table.grid(padding=(0, 2))
        table.add_column(width=half)
        table.add_column(width=half)
        table.add_row(names, Group(*others))
        parts.append(table)
    else:
        parts += [names, *others]
    return Group(*parts)


def _head(told: Json) -> RenderableType:
    state = (
        Text("ready", "bold green") if told["ready"] else Text(f"not ready: {', '.join(told['not_ready'])}", "bold red")
    )
    up = told["now"] - told["began"]
    lasted = f"{up / 3600:.1f} h" if up >= 3600 else f"{up / 60:.0f} min" if up >= 60 else f"{up:.0f} s"
    about = f"  {told['version']}, up for {lasted}, {' '.join(told['addresses'])}"
    line = Text.assemble((told["program"], "bold"), "  ", state, (about, "dim"))
    return Group(line, *(Text(trouble, "red") for trouble in told["troubles"]))


def _figures(told: Json) -> RenderableType:
    rate, responses, latency = told["rate"], told["responses"], told["latency"]
    figures: list[tuple[str, str]] = [("queries a second", number(rate))]
    figures += [(rcode, f"{responses.get(rcode, 0) / rate:.1%}" if rate else "–") for rcode in ("NXDOMAIN", "SERVFAIL")]
    figures += [(f"{key} ms", number(latency[key])) for key in ("p50", "p90", "p99")]
    if told["hit_ratio"] is not None:
        figures.append(("from the cache", f"{told['hit_ratio']:.1%}"))
    figures += [(label, value if isinstance(value, str) else number(value)) for label, value in told["figures"]]
    return Columns([Text.assemble((value, "bold"), f" {label}") for label, value in figures], padding=(0, 3))


def _history(told: Json, width: int) -> RenderableType:
    points = [point[1] for point in told["history"]][-max(width - 4, 10) :]
    most = max(points, default=0.0)
    bars = "".join(_BARS[min(int(point / most * len(_BARS)), len(_BARS) - 1)] if most else _BARS[0] for point in points)
    return Panel(Text(bars, "cyan"), title=f"queries a second, at most {number(most)}", title_align="left", height=3)


def _table(title: str, heads: Sequence[str], lines: Sequence[Sequence[Any]], room: int | None) -> RenderableType:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, expand=True)
    count = max((len(line) for line in lines), default=len(heads) - 1)
    for at, head in enumerate(heads[:count]):
        is_number = bool(lines) and not isinstance(lines[0][at] if at < len(lines[0]) else "", str)
        table.add_column(
            head,
            justify="right" if is_number else "left",
            overflow="fold" if room is None else "ellipsis",
            no_wrap=room is not None,
            ratio=4 if not at else None,
        )
    for line in lines[:room]:
        table.add_row(*(Text(cell if isinstance(cell, str) else number(cell)) for cell in line))
    return table


def number(value: float | None) -> str:
    """Return a number in three digits or so."""
    if value is None:
        return "–"
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
