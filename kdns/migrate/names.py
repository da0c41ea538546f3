"""Questions from a file: names as text, a line each, or a dnstap capture, as ``fstrm_capture`` and others write it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kdns.errors import ConfigError, Problem, WireError
from kdns.proto.dnstap import CONTENT_TYPE, queries_in
from kdns.proto.query import Transport
from kdns.proto.reading import read_query
from zones.errors import BadName
from zones.names import Name
from zones.records import A, rrtype_from_text

Asked = tuple[Name, int]


def names_in(path: Path) -> list[Asked]:
    """Return the questions of a file, each once, in order. Raises ConfigError with every line that is none."""
    try:
        octets = path.read_bytes()
    except OSError as exc:
        raise ConfigError([Problem(f"--names {path}", exc.strerror or str(exc), "a readable file")]) from exc
    if CONTENT_TYPE in octets[:512]:
        try:
            return list(dict.fromkeys(_captured(octets)))
        except ValueError as exc:
            raise ConfigError([Problem(f"--names {path}", str(exc), "a whole dnstap capture")]) from exc
    return list(dict.fromkeys(_listed(path, octets.decode(errors="replace"))))


def _captured(octets: bytes) -> Iterator[Asked]:
    for wire in queries_in(octets):
        try:
            query = read_query(wire, Transport.TCP)
        except WireError:
            continue  # whoever sent it got no answer, or FORMERR
        yield query.qname, query.qtype


def _listed(path: Path, text: str) -> Iterator[Asked]:
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        try:
            yield Name.from_text(words[0]), _rrtype(words[1]) if len(words) > 1 else A
        except (BadName, ValueError) as exc:
            problems.append(Problem(f"{path}:{number}", repr(line), f"a name, and perhaps a type ({exc})"))
    if problems:
        raise ConfigError(problems)


def _rrtype(word: str) -> int:
    """Read a type by its mnemonic or, as tshark writes them, by its number."""
    return rrtype_from_text(f"TYPE{word}" if word.isdigit() else word)
