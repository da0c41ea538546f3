"""Names rewritten before they are looked up: whole names, and suffixes.

| rule                       | rewrites                                                      |
|----------------------------|---------------------------------------------------------------|
| ``a.example=b.example``    | that name alone                                               |
| ``*.a.example=*.b.example`` | every name below ``a.example``; what is in front is kept      |

The first rule that matches counts, and a name is rewritten once. A name that would be too long is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from zones.errors import BadName
from zones.names import Name, split_labels


class Rule(msgspec.Struct, frozen=True):
    """One rule; of a suffix rule both sides are without their ``*``."""

    source: Name
    target: Name
    is_suffix: bool


def rule_from_text(text: str) -> Rule:
    """Read ``FROM=TO``. Raises ValueError or BadName."""
    source, equals, target = text.partition("=")
    if not equals:
        raise ValueError("no FROM=TO")
    is_suffix = source.startswith("*.")
    if is_suffix != target.startswith("*."):
        raise ValueError("a * on one side alone")
    names = [Name.from_text(part.removeprefix("*.")) for part in (source.strip(), target.strip())]
    if not all(name.labels for name in names):
        raise ValueError("the root")
    if names[0] == names[1]:
        raise ValueError("the same name on both sides")
    return Rule(names[0], names[1], is_suffix)


class Rewrites:
    """Rules, in the order to try them."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rules)

    def of(self, name: Name) -> Name | None:
        """Return what *name* is looked up as instead, None for a name that is left as it is."""
        for rule in self._rules:
            if not rule.is_suffix:
                if name == rule.source:
                    return rule.target
            elif name.is_under(rule.source) and name != rule.source:
                front = split_labels(name.wire)[: len(name.labels) - len(rule.source.labels)]
                try:
                    return rule.target.prefixed(*front)
                except BadName:
                    return None
        return None
