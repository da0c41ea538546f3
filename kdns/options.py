"""Options of a program: read from flags and a TOML file, each checked by itself, every problem told at once.

An option has the same name on the command line (``--name``) and in the file (``name``). What a flag says wins over
the file, as a whole: a list of the file is replaced, not added to.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from kdns.admin.pages import Audience
from kdns.errors import Problem
from kdns.net.addresses import listen_from_text
from kdns.tap import Collector
from kdns.upstream.servers import DNS_PORT, Protocol, Server, server_from_text
from zones.errors import BadName, BadRecord
from zones.names import Name
from zones.records import RRset
from zones.rewrite import Rule, rule_from_text
from zones.static import merged, record_from_text

MAX_ZONE_OCTETS: Final = 192
"""So that a Service of any name fits in front; of longer names of endpoints those that do not fit do not exist."""

_ODD: Final = re.compile(r"[^A-Za-z0-9_.-]")
_ESCAPED: Final = re.compile(r"\\([0-9]{3}|[^0-9])")

SERVING: Final = "Serving"
LOGGING: Final = "Logging"
STATIC: Final = "Static records"
ANSWERS: Final = "What is answered"


class LogFormat(Enum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


class Option(msgspec.Struct, frozen=True):
    """One option. ``read`` makes its value of what a user wrote or raises ValueError; ``expected`` says what it takes.

    ``metavar`` is None for a switch. ``default`` is written as a user would write it.
    A list that ``needs_one`` must not be given empty.
    """

    name: str
    metavar: str | None
    help: str
    expected: str
    read: Callable[[Any], Any]
    default: Any = None
    is_list: bool = False
    group: str = ANSWERS
    needs_one: bool = False


_E = TypeVar("_E", bound=Enum)


def choice(kind: type[_E]) -> Callable[[Any], _E]:
    """Return a reader of the values of *kind*."""

    def read(value: Any) -> _E:
        try:
            return kind(value)
        except ValueError:
            raise ValueError from None  # what is expected says it better

    return read


def switch(value: Any) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError("no boolean")  # noqa: TRY004 - every reader raises ValueError
    return value


def text(value: Any) -> str:
    """Read text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("no text")
    return value


def whole_number(most: int) -> Callable[[Any], int]:
    """Return a reader of whole numbers from 0 to *most*."""

    def read(value: Any) -> int:
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
        if isinstance(number, float) and number.is_integer():  # as programs write TOML that know no whole numbers
            number = int(number)
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError("no whole number")  # noqa: TRY004 - every reader raises ValueError
        if not 0 <= number <= most:
            raise ValueError("out of range")
        return number

    return read


def of_hosts(written: str) -> str:
    """Return *written* if its characters are those of names that are asked for; any other is a slip, unless escaped."""
    plain = _ESCAPED.sub("", written)
    if written.lower().rstrip(".").endswith((".in-addr.arpa", ".ip6.arpa")):
        plain = plain.replace("/", "")  # RFC 2317
    if (odd := _ODD.search(plain)) is not None:
        hint = "" if odd[0].isascii() else ": xn--… is"
        raise ValueError(f"{odd[0]!r} is in no name that is asked for{hint}")
    return written


def _rule(value: Any) -> Rule:
    written = text(value)
    for side in written.split("=", 1):
        of_hosts(side.strip().removeprefix("*."))
    return rule_from_text(written)


def zone(value: Any) -> Name:
    """Read a domain name that can be a zone."""
    name = Name.from_text(of_hosts(text(value)))
    if not name.labels:
        raise ValueError("the root")
    if len(name.wire) > MAX_ZONE_OCTETS:
        raise ValueError(f"longer than {MAX_ZONE_OCTETS} octets")
    return name


def upstream(value: Any, *, default: Protocol = Protocol.UDP) -> Server | Path:
    """Read a server as ``server_from_text`` does, or the path of a resolv.conf."""
    written = text(value)
    path = Path(written)
    if "://" not in written and ("/" in written or path.is_file()):
        if not path.is_file():
            raise ValueError("no such file")
        return path
    return server_from_text(written, default=default)


def existing(value: Any) -> Path:
    """Read the path of a file or folder that is there."""
    path = Path(text(value))
    if not path.exists():
        raise ValueError("no such file or folder")
    return path


def readable_file(value: Any) -> Path:
    """Read the path of a file that can be read."""
    path = Path(text(value))
    try:
        path.read_bytes()
    except OSError as exc:
        raise ValueError(exc.strerror) from exc
    return path


def url(value: Any) -> str:
    """Read the URL of an HTTP server."""
    written = text(value)
    parts = urlsplit(written)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:  # reading a bad port raises
        raise ValueError("no URL")
    return written


def collector_from_text(value: Any) -> Collector:
    """Read ``unix:/path`` or ``tcp://ADDR:PORT``. Raises ValueError."""
    written = text(value)
    if written.startswith("tcp://"):
        listen = listen_from_text(written.removeprefix("tcp://"), default_port=DNSTAP_PORT)
        if not listen.port:
            raise ValueError("port 0")
        if listen.address in ("::", "0.0.0.0"):  # noqa: S104 - connected to, not bound
            raise ValueError("no address")
        return Collector(address=listen.address, port=listen.port)
    path = written.removeprefix("unix:").removeprefix("//")
    if not path.startswith("/"):
        raise ValueError("no absolute path")
    return Collector(path=Path(path))


DNSTAP_PORT: Final = 6000

DNSTAP: Final = Option(
    "dnstap",
    "COLLECTOR",
    "Send every query and response, and what upstreams are asked and reply, to a collector as dnstap: a Unix socket "
    "(unix:/run/dnstap.sock) or tcp://ADDR:PORT. What it does not take in time is counted and dropped.",
    "unix: and an absolute path, or tcp://ADDR:PORT",
    collector_from_text,
    group=LOGGING,
)

LAMEDUCK: Final = Option(
    "lameduck",
    "SECONDS",
    "After SIGTERM, be unready and keep answering for this long.",
    "whole seconds from 0 to 300",
    whole_number(300),
    5,
    group=SERVING,
)

LOG_OPTIONS: Final = (
    Option("log-queries", None, "Log a line for each query.", "true or false", switch, default=False, group=LOGGING),
    Option(
        "log-errors",
        None,
        "Log a line for each query that ends in SERVFAIL.",
        "true or false",
        switch,
        default=False,
        group=LOGGING,
    ),
    Option("log-format", "FORMAT", "text or json.", "text or json", choice(LogFormat), "text", group=LOGGING),
    DNSTAP,
)


def static_record(value: Any) -> RRset:
    """Read a static record; its TTL is ``NO_TTL`` where none is written."""
    return record_from_text(text(value), NO_TTL)


NO_TTL: Final = 2**31 - 2
"""Stands for no TTL: one second less than the largest, which nobody means."""

STATIC_OPTIONS: Final = (
    Option(
        "hosts",
        "FILE",
        "A hosts file, followed as it changes. Repeatable; of several that disagree the first counts.",
        "a readable file",
        readable_file,
        is_list=True,
        group=STATIC,
    ),
    Option(
        "record",
        "RECORD",
        "A static record, such as 'db.corp.example 60 A 192.0.2.1': A, AAAA, CNAME, TXT, SRV or PTR. Repeatable; "
        "records win over hosts files, and those over what the zones have.",
        "NAME [TTL] TYPE DATA, such as db.corp.example 60 A 192.0.2.1",
        static_record,
        is_list=True,
        group=STATIC,
    ),
    Option(
        "rewrite",
        "FROM=TO",
        "Look FROM up as TO and answer under the name asked for; *.FROM=*.TO for all names below. Repeatable, the "
        "first that matches counts.",
        "two names such as old.example=new.example or *.old.example=*.new.example",
        _rule,
        is_list=True,
        group=STATIC,
    ),
)


def static_records(
    values: Mapping[str, Any], written: Mapping[str, tuple[str, Any]], problems: list[Problem], *, ttl: int | None
) -> tuple[RRset, ...]:
    """Return the records of ``--record`` as RRsets; *ttl* is that of those without one."""
    some = [rrset for rrset in values["record"] if rrset is not None]
    timed = [msgspec.structs.replace(r, ttl=ttl or 0) if r.ttl == NO_TTL else r for r in some]
    try:
        return tuple(merged(timed))
    except BadRecord as exc:
        problems.append(Problem(written["record"][0], str(exc), "a CNAME alone"))
        return ()


def listen_options(dns: Sequence[str], admin: Sequence[str], *, admin_port: int) -> tuple[Option, ...]:
    """Return the options that say where DNS and HTTP are served: there by default, HTTP at *admin_port* if none is
    written."""
    return (
        Option(
            "listen",
            "ADDR:PORT",
            "Answer there over UDP and TCP. Repeatable; IPv6 in brackets; [::] is every address of both families.",
            f"an address and port such as 127.0.0.1:{DNS_PORT} or [::]:{DNS_PORT}",
            lambda value: listen_from_text(text(value), default_port=DNS_PORT),
            dns,
            is_list=True,
            needs_one=True,
            group=SERVING,
        ),
        Option(
            "admin",
            "ADDR:PORT",
            "Serve /metrics, /health and /ready there over HTTP, and the status page. Repeatable.",
            f"an address and port such as 127.0.0.1:{admin_port}",
            lambda value: listen_from_text(text(value), default_port=admin_port),
            admin,
            is_list=True,
            needs_one=True,
            group=SERVING,
        ),
        Option(
            "status",
            "WHO",
            "Who may see the status page, which shows names and clients: local, who connects from this machine or "
            "through kubectl port-forward; all; or off.",
            "off, local or all",
            choice(Audience),
            "local",
            group=SERVING,
        ),
    )


def _rate(value: Any) -> float:
    number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1.0
    if not 0 <= number <= 1e9:
        raise ValueError("out of range")
    return number


def cookie_option(text_of_it: str) -> Option:
    """Return the switch for DNS cookies."""
    return Option("cookies", None, text_of_it, "true or false", switch, default=False, group=SERVING)


def client_options(default_slip: int) -> tuple[Option, ...]:
    """Return the options that bound what one client gets."""
    return (
        Option(
            "client-rate",
            "QUERIES",
            "Queries a second that one client address may ask, and two seconds' worth at once; over that it is told to "
            "come over TCP, or not answered. 0: any number.",
            "a number of queries a second, 0 or more",
            _rate,
            "0",
            group=SERVING,
        ),
        Option(
            "client-slip",
            "N",
            "Of the queries over --client-rate, tell each N-th to come over TCP and leave the others unanswered; "
            "1: tell all, 0: none.",
            "a whole number from 0 to 100",
            whole_number(100),
            default_slip,
            group=SERVING,
        ),
    )


def api_options(group: str) -> tuple[Option, ...]:
    """Return the options that say which API server is asked."""
    return (
        Option(
            "kubeconfig", "FILE", "The cluster of a kubeconfig.", "a readable kubeconfig", readable_file, group=group
        ),
        Option(
            "context",
            "NAME",
            "The context in the kubeconfig; its current one by default.",
            "a name",
            text,
            group=group,
        ),
        Option(
            "api-server",
            "URL",
            "An API server without credentials, such as http://127.0.0.1:8001 of kubectl proxy.",
            "a URL such as http://127.0.0.1:8001",
            url,
            group=group,
        ),
    )


class Given(msgspec.Struct):
    """What a user wrote, option by option: ``written`` has place and text of those that were given at all."""

    values: dict[str, Any]
    written: dict[str, tuple[str, Any]]
    problems: list[Problem]
    has_file: bool


def read_options(options: Sequence[Option], flags: Mapping[str, Any], file: Path | None, *, program: str) -> Given:
    """Read *flags* (option name to what was written; None or empty: not given) and *file*; problems are collected."""
    by_name = {option.name: option for option in options}
    problems: list[Problem] = []
    written: dict[str, tuple[str, Any]] = {}
    from_file: dict[str, tuple[str, Any]] | None = None
    if file is not None:
        from_file = _read_file(file, by_name, program, problems)
        written.update(from_file or {})
    for name, value in flags.items():
        if value is not None and value != () and value is not False:
            written[name] = (f"--{name}", value)
    values: dict[str, Any] = {}
    for option in options:
        where, value = written.get(option.name, ("default", option.default))
        values[option.name] = _read(option, where, value, problems)
    problems.extend(
        Problem(written[option.name][0], "an empty list", f"at least one: {option.expected}")
        for option in options
        if option.is_list and option.needs_one and option.name in written and written[option.name][1] == []
    )
    return Given(values, written, problems, from_file is not None)


def _read_file(
    file: Path, by_name: Mapping[str, Option], program: str, problems: list[Problem]
) -> dict[str, tuple[str, Any]] | None:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        problems.append(Problem(f"--config {file}", exc.strerror or str(exc), "a readable file"))
        return None
    except (ValueError, RecursionError) as exc:  # not TOML, not UTF-8; a number of thousands of digits; a list too deep
        problems.append(Problem(f"--config {file}", str(exc), "TOML"))
        return None
    written = {}
    for name, value in table.items():
        if name in by_name:
            written[name] = (f"{file}: {name}", value)
        else:
            close = difflib.get_close_matches(name.replace("_", "-"), by_name, n=1)
            expected = f"{close[0]}?" if close else f"an option's name, as {program} serve --help lists them"
            problems.append(Problem(f"{file}: {name}", "an unknown key", expected))
    return written


def _read(option: Option, where: str, value: Any, problems: list[Problem]) -> Any:
    def one(item: Any, place: str) -> Any:
        try:
            return option.read(item)
        except (ValueError, BadName, BadRecord) as exc:
            found = repr(item) if not str(exc) or str(exc) in repr(item) else f"{item!r} ({exc})"
            problems.append(Problem(place, found, option.expected))
            return None

    if not option.is_list:
        return None if value is None else one(value, where)
    if value is None:
        return []
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        problems.append(Problem(where, repr(value), f"a list, each {option.expected}"))
        return []
    is_flag = where.startswith("--")
    return [one(item, where if is_flag else f"{where}[{at}]") for at, item in enumerate(value)]
