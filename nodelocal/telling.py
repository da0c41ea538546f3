"""What the control socket replies (``nodelocal.control``), as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

_ENDINGS = {
    "lost": "ends nowhere",
    "failed": "ends in failure: SERVFAIL",
    "literal": "is not walked: the name may have been meant as it stands",
}


def explanation(reply: Json) -> Iterator[str]:
    """Yield the lines of a reply to ``explain``."""
    yield f"{reply['name']} {reply['type']}"
    yield f"  route: {reply['route'] or 'none: REFUSED'}"
    if "client" in reply:
        yield f"  client {reply['client']}"
    walk = reply.get("walk")
    if walk is None:
        yield f"  not expanded: {reply.get('not expanded', 'no search path')}"
        if "rcode" in reply:
            yield f"  {reply['rcode']}"
    else:
        yield f"  search path of namespace {walk['namespace']}, {walk['form']} form, for {walk['prefix']}:"
        for step, outcome in walk["steps"]:
            yield f"    {step}: {outcome}"
        end = _ENDINGS.get(walk["ending"]) or f"ends at {walk['name']}"
        yield f"    {end}; good for {walk['seconds']} s more"
    for entry in reply.get("entries", ()):
        yield from (f"  {line}" for line in entry_lines(entry))


def entry_lines(entry: Json) -> Iterator[str]:
    """Yield the lines of an entry of the cache."""
    about = [entry["rcode"], *entry["flags"]]
    if entry["seconds"] is not None:
        about.append("stale" if entry["stale"] else f"{entry['seconds']} s left")
    if entry["from"]:
        about.append(f"from {entry['from']}")
    yield f"{' '.join(filter(None, (entry['name'], entry['type'])))}: {', '.join(about)}"
    yield from (f"  {line}" for line in entry["records"])
    if entry["goes on at"]:
        yield f"  goes on at {entry['goes on at']}"
