"""The system's ``nft``: reading our table, and replacing it in one transaction."""

from __future__ import annotations

import json
import subprocess
from typing import Any, Final

from kdns.errors import ConfigError, Problem
from nodelocal.network.plan import Plan
from nodelocal.network.ruleset import FAMILY, MARKER, marker, script, TABLE

SECONDS: Final = 20.0
"""How long one call may take: another tool may hold the kernel's lock for a while."""

Rows = list[dict[str, Any]]


class NftError(ConfigError):
    """``nft`` is not there, may not, or will not."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__([Problem("nftables", found, expected)])


def read() -> Rows | None:
    """Return our table as JSON objects, without what changes by itself (handles, the lease); None where there is none.

    Raises NftError.
    """
    done = _nft("--json", "list", "table", FAMILY, TABLE)
    if done.returncode:
        if "No such file" in done.stderr:
            return None
        raise _error(done.stderr)
    rows = []
    for item in json.loads(done.stdout)["nftables"]:
        ((kind, row),) = item.items()
        if kind == "metainfo":
            continue
        row.pop("handle", None)
        if kind == "set" and str(row.get("name", "")).startswith("alive"):
            row.pop("elem", None)
        rows.append({kind: row})
    return rows


def is_ours(rows: Rows) -> bool:
    """Tell whether some nodelocal made the table."""
    return any(str(row["set"]["name"]).startswith(MARKER) for row in rows if "set" in row)


def is_current(rows: Rows, plan: Plan) -> bool:
    """Tell whether the table says of itself that it has the rules of *plan*, and has as many as those are."""
    wanted = script(plan)
    count = wanted.count("\n\t\t") - wanted.count("\ttype ")
    return any(row["set"]["name"] == marker(plan) for row in rows if "set" in row) and count == sum(
        "rule" in row for row in rows
    )


def load(plan: Plan) -> None:
    """Put the table of *plan* in place of whatever there is under its name. Raises NftError."""
    done = _nft("--file", "-", text=script(plan))
    if done.returncode:
        raise _error(done.stderr)


def delete() -> None:
    """Take the table away, where there is one. Raises NftError."""
    table = f"table {FAMILY} {TABLE}"
    done = _nft("--file", "-", text=f"{table}\ndelete {table}\n")
    if done.returncode:
        raise _error(done.stderr)


def _nft(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["nft", *arguments], input=text, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except FileNotFoundError as exc:
        raise NftError("no command nft", "Debian's package nftables, or --rules none") from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NftError(str(exc), "an nft that can be run") from exc


def _error(said: str) -> NftError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    first = lines[0] if lines else "no reason"
    if "Operation not permitted" in said:
        return NftError("no permission", "root, or the capability NET_ADMIN, on the node's own network")
    if "Operation not supported" in said or "Protocol not supported" in said or "Invalid argument" in said:
        return NftError(
            f"a kernel without what the rules need ({first})",
            "Linux 5.6 or later with nf_tables, nft_socket, nft_ct and nft_nat, or --rules none",
        )
    return NftError(first, "an nft that takes the rules (1.0 or later)")
