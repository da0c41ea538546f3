"""Read a Corefile: server blocks, directives with arguments and blocks, snippets, quotes, comments, the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from kdns.errors import ConfigError, Problem


class Directive(msgspec.Struct):
    """A line: its name, its arguments, the lines of its block, and where it stands."""

    name: str
    arguments: list[str]
    block: list[Directive]
    line: int

    @property
    def text(self) -> str:
        """The line as it is written, without its block."""
        return " ".join((self.name, *self.arguments))


class ServerBlock(msgspec.Struct):
    """The keys of a server block (zones, perhaps with a scheme and a port) and its directives."""

    keys: list[str]
    directives: list[Directive]
    line: int


class _Token(msgspec.Struct):
    text: str
    line: int
    is_quoted: bool


_WORD: Final = re.compile(r'"((?:\\.|[^"\\])*)"|([^\s"][^\s]*)')
_ENV: Final = re.compile(r"\{\$(\w+)\}|\{%(\w+)%\}")


def read_corefile(text: str, where: str) -> list[ServerBlock]:
    """Return the server blocks of a Corefile, snippets put in where they are imported. Raises ConfigError."""
    lines = [_words(line, number) for number, line in enumerate(text.splitlines(), 1)]
    reader = _Reader([words for words in lines if words], where)
    return reader.blocks()


def _words(line: str, number: int) -> list[_Token]:
    words = []
    for match in _WORD.finditer(line):
        quoted, plain = match.groups()
        if quoted is None and plain.startswith("#"):
            break
        raw = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
        raw = _ENV.sub(lambda found: os.environ.get(found[1] or found[2], found[0]), raw)
        words.append(_Token(raw, number, quoted is not None))
    return words


class _Reader:
    def __init__(self, lines: Sequence[list[_Token]], where: str) -> None:
        self._lines = list(lines)
        self._at = 0
        self._where = where
        self._snippets: dict[str, list[Directive]] = {}

    def blocks(self) -> list[ServerBlock]:
        found = []
        while self._at < len(self._lines):
            words = self._lines[self._at]
            self._at += 1
            if words[0].text == "import" and len(words) == 2:
                found.append(ServerBlock([], [Directive("import", [words[1].text], [], words[0].line)], words[0].line))
                continue
            keys = [word.text.rstrip(",") for word in words]
            while keys[-1] != "{":  # keys may go on over lines
                if self._at >= len(self._lines):
                    raise self._problem(words[0].line, " ".join(keys), "a block in braces behind it")
                keys += [word.text.rstrip(",") for word in self._lines[self._at]]
                self._at += 1
            keys = [key for key in keys[:-1] if key]
            directives = list(self._block(words[0].line))
            if len(keys) == 1 and keys[0].startswith("(") and keys[0].endswith(")"):
                self._snippets[keys[0][1:-1]] = directives
            else:
                found.append(ServerBlock(keys, directives, words[0].line))
        return found

    def _block(self, opened: int) -> Iterator[Directive]:
        while self._at < len(self._lines):
            words = self._lines[self._at]
            self._at += 1
            if words[0].text == "}" and not words[0].is_quoted:
                return
            has_block = words[-1].text == "{" and not words[-1].is_quoted
            closes = not has_block and len(words) > 1 and words[-1].text == "}" and not words[-1].is_quoted
            name, *arguments = [word.text for word in (words[:-1] if has_block or closes else words)]
            inner = list(self._block(words[0].line)) if has_block else []
            if name == "import" and arguments and arguments[0] in self._snippets:
                yield from self._snippets[arguments[0]]
            else:
                yield Directive(name, arguments, inner, words[0].line)
            if closes:
                return
        raise self._problem(opened, "{", "a } that ends the block")

    def _problem(self, line: int, found: str, expected: str) -> ConfigError:
        return ConfigError([Problem(f"{self._where}:{line}", found, expected)])
