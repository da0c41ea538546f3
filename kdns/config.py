"""The configuration of ``kdns``: every option, read from flags and a TOML file, checked whole.

An option has the same name on the command line (``--name``) and in the file (``name``). What a flag says wins over
the file, as a whole: a list of the file is replaced, not added to.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from kdns.control.client import Access, SERVICE_ACCOUNT
from kdns.errors import ConfigError, Problem
from kdns.net.addresses import Listen, listen_from_text
from kdns.upstream.servers import Server, server_from_text
from zones.errors import BadName
from zones.names import Name
from zones.pods import PodMode
from zones.reverse import IN_ADDR_ARPA, IP6_ARPA, reverse_zones_from_text
from zones.selectors import Selector

DNS_PORT: Final = 53
MAX_TTL_SECONDS: Final = 3600
"""CoreDNS's bound: a client that keeps an answer for longer is a pod that talks to one long gone."""


MAX_ZONE_OCTETS: Final = 192
"""So that a Service of any name fits in front; of longer names of endpoints those that do not fit do not exist."""


class EndpointMode(Enum):
    """Which EndpointSlices are watched."""

    ALL = "all"
    NONE = "none"


class LogFormat(Enum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that ``kdns serve`` was told, valid as a whole; each field is explained by its ``Option``."""

    manifests: tuple[Path, ...]
    access: Access | None
    listen: tuple[Listen, ...]
    admin: tuple[Listen, ...]
    zones: tuple[Name, ...]
    reverse: tuple[Name, ...]
    pods: PodMode
    ttl: int
    endpoints: EndpointMode
    endpoint_pod_names: bool
    ignore_empty_service: bool
    namespaces: frozenset[str] | None
    namespace_labels: Selector
    labels: Selector
    upstreams: tuple[Server | Path, ...]
    lameduck: float
    log_queries: bool
    log_errors: bool
    log_format: LogFormat


class Option(msgspec.Struct, frozen=True):
    """One option. ``read`` makes its value of what a user wrote or raises ValueError; ``expected`` says what it takes.

    ``metavar`` is None for a switch. ``default`` is written as a user would write it.
    """

    name: str
    metavar: str | None
    help: str
    expected: str
    read: Callable[[Any], Any]
    default: Any = None
    is_list: bool = False
    group: str = "What is answered"


_E = TypeVar("_E", bound=Enum)


def _choice(kind: type[_E]) -> Callable[[Any], _E]:
    def read(value: Any) -> _E:
        try:
            return kind(value)
        except ValueError:
            raise ValueError from None  # what is expected says it better

    return read


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("no boolean")  # noqa: TRY004 - every reader raises ValueError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("no text")
    return value


def _seconds(most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError("no whole number")  # noqa: TRY004 - every reader raises ValueError
        if not 0 <= number <= most:
            raise ValueError("out of range")
        return number

    return read


def _zone(value: Any) -> Name:
    name = Name.from_text(_text(value))
    if not name.labels:
        raise ValueError("the root")
    if len(name.wire) > MAX_ZONE_OCTETS:
        raise ValueError(f"longer than {MAX_ZONE_OCTETS} octets")
    return name


def _upstream(value: Any) -> Server | Path:
    text = _text(value)
    if "/" in text:
        path = Path(text)
        if not path.is_file():
            raise ValueError("no such file")
        return path
    return server_from_text(text)


def _existing(value: Any) -> Path:
    path = Path(_text(value))
    if not path.exists():
        raise ValueError("no such file or folder")
    return path


def _file(value: Any) -> Path:
    path = Path(_text(value))
    try:
        path.read_bytes()
    except OSError as exc:
        raise ValueError(exc.strerror) from exc
    return path


def _url(value: Any) -> str:
    text = _text(value)
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:  # reading a bad port raises
        raise ValueError("no URL")
    return text


def _namespace(value: Any) -> str:
    text = _text(value)
    if not all(char.isalnum() or char == "-" for char in text) or text != text.lower() or len(text) > 63:
        raise ValueError("no DNS label")
    return text


SOURCE = "Where objects come from (exactly one; none of them: the service account of the pod this runs in)"
SERVING = "Serving"
LOGGING = "Logging"
ANSWERS = "What is answered"

OPTIONS: Final[Sequence[Option]] = (
    Option(
        "manifests",
        "PATH",
        "A file or folder of manifests, YAML or JSON, followed as it changes. Repeatable.",
        "a file or folder",
        _existing,
        is_list=True,
        group=SOURCE,
    ),
    Option("kubeconfig", "FILE", "The cluster of a kubeconfig.", "a readable kubeconfig", _file, group=SOURCE),
    Option(
        "context", "NAME", "The context in the kubeconfig; its current one by default.", "a name", _text, group=SOURCE
    ),
    Option(
        "api-server",
        "URL",
        "An API server without credentials, such as http://127.0.0.1:8001 of kubectl proxy.",
        "a URL such as http://127.0.0.1:8001",
        _url,
        group=SOURCE,
    ),
    Option(
        "listen",
        "ADDR:PORT",
        "Answer there over UDP and TCP. Repeatable; IPv6 in brackets; [::] is every address of both families.",
        "an address and port such as 127.0.0.1:53 or [::]:53",
        lambda value: listen_from_text(_text(value), default_port=DNS_PORT),
        ["[::]:53"],
        is_list=True,
        group=SERVING,
    ),
    Option(
        "admin",
        "ADDR:PORT",
        "Serve /metrics, /health and /ready there over HTTP. Repeatable.",
        "an address and port such as 127.0.0.1:9153",
        lambda value: listen_from_text(_text(value), default_port=9153),
        ["[::]:9153", "[::]:8080", "[::]:8181"],
        is_list=True,
        group=SERVING,
    ),
    Option(
        "upstream",
        "SERVER",
        "Ask there for names outside the zones: an address, ADDR:PORT, or a resolv.conf followed as it changes. "
        "Repeatable, in the order to ask; without one such names are REFUSED.",
        "an address, ADDR:PORT or the path of a resolv.conf",
        _upstream,
        is_list=True,
        group=SERVING,
    ),
    Option(
        "lameduck",
        "SECONDS",
        "After SIGTERM, be unready and keep answering for this long.",
        "whole seconds from 0 to 300",
        _seconds(300),
        5,
        group=SERVING,
    ),
    Option(
        "zone",
        "ZONE",
        "A cluster zone. Repeatable; the first is the one that reverse names point into.",
        "a domain name such as cluster.local",
        _zone,
        ["cluster.local"],
        is_list=True,
        group=ANSWERS,
    ),
    Option(
        "reverse",
        "ZONE|CIDR",
        "A reverse zone, or a network. Repeatable; by default the whole of in-addr.arpa and ip6.arpa.",
        "a network such as 10.96.0.0/12 or a zone such as 96.10.in-addr.arpa",
        lambda value: reverse_zones_from_text(_text(value)),
        is_list=True,
        group=ANSWERS,
    ),
    Option(
        "pods",
        "MODE",
        "Names such as 10-1-2-3.default.pod: disabled, insecure (any address), verified (addresses of pods).",
        "disabled, insecure or verified",
        _choice(PodMode),
        "disabled",
        group=ANSWERS,
    ),
    Option(
        "ttl",
        "SECONDS",
        "The TTL of answers.",
        f"whole seconds from 0 to {MAX_TTL_SECONDS}",
        _seconds(MAX_TTL_SECONDS),
        5,
    ),
    Option(
        "endpoints",
        "WHICH",
        "Watch all EndpointSlices, or none: then headless Services and endpoints have no names.",
        "all or none",
        _choice(EndpointMode),
        "all",
    ),
    Option(
        "endpoint-pod-names",
        None,
        "Name endpoints without a hostname by their pod.",
        "true or false",
        _switch,
        default=False,
    ),
    Option(
        "ignore-empty-service",
        None,
        "Deny Services with a cluster IP and no ready endpoint.",
        "true or false",
        _switch,
        default=False,
    ),
    Option("namespace", "NAME", "Show this namespace alone. Repeatable.", "a namespace", _namespace, is_list=True),
    Option(
        "namespace-labels",
        "SELECTOR",
        "Show the namespaces with these labels alone.",
        "a label selector such as team=web",
        lambda value: Selector.from_text(_text(value)),
    ),
    Option(
        "labels",
        "SELECTOR",
        "Use the Services, EndpointSlices and pods with these labels alone.",
        "a label selector such as app!=test",
        lambda value: Selector.from_text(_text(value)),
    ),
    Option("log-queries", None, "Log a line for each query.", "true or false", _switch, default=False, group=LOGGING),
    Option(
        "log-errors",
        None,
        "Log a line for each query that ends in SERVFAIL.",
        "true or false",
        _switch,
        default=False,
        group=LOGGING,
    ),
    Option("log-format", "FORMAT", "text or json.", "text or json", _choice(LogFormat), "text", group=LOGGING),
)

_BY_NAME: Final = {option.name: option for option in OPTIONS}


def load(flags: Mapping[str, Any], file: Path | None, *, needs_source: bool = True) -> Config:
    """Build the configuration from *flags* (option name to what was written; None or empty: not given) and *file*.

    Raises ConfigError with every problem at once. Without *needs_source* a configuration that names none is fine.
    """
    problems: list[Problem] = []
    written: dict[str, tuple[str, Any]] = {}
    if file is not None:
        from_file = _read_file(file, problems)
        needs_source = needs_source and from_file is not None  # it may well have named one
        written.update(from_file or {})
    for name, value in flags.items():
        if value is not None and value != () and value is not False:
            written[name] = (f"--{name}", value)
    values: dict[str, Any] = {}
    for option in OPTIONS:
        where, value = written.get(option.name, ("default", option.default))
        values[option.name] = _read(option, where, value, problems)
    _check_together(values, written, problems, needs_source=needs_source)
    if problems:
        raise ConfigError(problems)
    reverse = [name for some in values["reverse"] for name in some] or [IN_ADDR_ARPA, IP6_ARPA]
    access = None
    if not values["manifests"]:
        access = Access(url=values["api-server"], kubeconfig=values["kubeconfig"], context=values["context"])
    return Config(
        manifests=tuple(values["manifests"]),
        access=access,
        listen=tuple(dict.fromkeys(values["listen"])),
        admin=tuple(dict.fromkeys(values["admin"])),
        zones=tuple(dict.fromkeys(values["zone"])),
        reverse=tuple(dict.fromkeys(reverse)),
        pods=values["pods"],
        ttl=values["ttl"],
        endpoints=values["endpoints"],
        endpoint_pod_names=values["endpoint-pod-names"],
        ignore_empty_service=values["ignore-empty-service"],
        namespaces=frozenset(values["namespace"]) or None,
        namespace_labels=values["namespace-labels"] or Selector(),
        labels=values["labels"] or Selector(),
        upstreams=tuple(values["upstream"]),
        lameduck=values["lameduck"],
        log_queries=values["log-queries"],
        log_errors=values["log-errors"],
        log_format=values["log-format"],
    )


def _read_file(file: Path, problems: list[Problem]) -> dict[str, tuple[str, Any]] | None:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        problems.append(Problem(f"--config {file}", exc.strerror or str(exc), "a readable file"))
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        problems.append(Problem(f"--config {file}", str(exc), "TOML"))
        return None
    written = {}
    for name, value in table.items():
        if name in _BY_NAME:
            written[name] = (f"{file}: {name}", value)
        else:
            close = difflib.get_close_matches(name.replace("_", "-"), _BY_NAME, n=1)
            expected = f"{close[0]}?" if close else "an option's name, as kdns serve --help lists them"
            problems.append(Problem(f"{file}: {name}", "an unknown key", expected))
    return written


def _read(option: Option, where: str, value: Any, problems: list[Problem]) -> Any:
    def one(item: Any, place: str) -> Any:
        try:
            return option.read(item)
        except (ValueError, BadName) as exc:
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


def _check_together(
    values: Mapping[str, Any], written: Mapping[str, tuple[str, Any]], problems: list[Problem], *, needs_source: bool
) -> None:
    sources = [name for name in ("manifests", "kubeconfig", "api-server") if name in written]
    if len(sources) > 1:
        found = " and ".join(written[name][0] for name in sources)
        problems.append(Problem("source", found, "one of --manifests, --kubeconfig and --api-server"))
    if "context" in written and "kubeconfig" not in written:
        problems.append(Problem(written["context"][0], "no --kubeconfig", "a kubeconfig that has the context"))
    if not sources and needs_source and not SERVICE_ACCOUNT.is_dir():
        expected = "--manifests, --kubeconfig or --api-server, or to run in a pod with a service account"
        problems.append(Problem("source", "none", expected))
    if "namespace" in written and "namespace-labels" in written:
        place = written["namespace-labels"][0]
        problems.append(Problem(place, f"{written['namespace'][0]} besides", "one of the two"))
    if "ignore-empty-service" in written and values["endpoints"] is EndpointMode.NONE:
        place = written["ignore-empty-service"][0]
        problems.append(Problem(place, "--endpoints none besides", "one of the two: without endpoints all are empty"))
    problems.extend(
        Problem(written[name][0], "an empty list", f"at least one: {_BY_NAME[name].expected}")
        for name in ("zone", "listen", "admin", "manifests")
        if name in written and written[name][1] == []
    )
