"""What is wrong with JSON that is none, or none of a Kubernetes object, in the words of this project's errors."""

from __future__ import annotations

import re

import msgspec

from zones.errors import BadObject

NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for octets that are not the JSON asked for: text that is not UTF-8, endless nesting."""


def bad_json(exc: Exception, inside: str = "") -> BadObject:
    """Turn msgspec's message, whose path is written ``$.spec.ports[0].port``, into a BadObject.

    *inside* is the path of what was decoded, where that was not the whole object.
    """
    message, _, path = str(exc).partition(" - at ")
    field = (inside + path.strip("`").removeprefix("$")).removeprefix(".") or "object"
    if (types := re.fullmatch(r"Expected `(.+?)(?: \| null)?`, got `(.+)`", message)) is not None:
        return BadObject(field, _Kind(types[2]), _kind_text(types[1]))
    return BadObject(field, message, "JSON of a Kubernetes object")


class _Kind(str):
    """The name of a JSON type, shown as what was found: ``a string``."""

    def __repr__(self) -> str:
        return _kind_text(str(self))


def _kind_text(name: str) -> str:
    text = {"str": "string", "int": "whole number", "float": "number", "bool": "boolean", "array": "list"}.get(
        name, name
    )
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"
