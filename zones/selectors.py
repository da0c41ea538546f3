"""Label selectors, and the scope of what is shown (Kubernetes label selectors; CONTRACT section 10).

``app=web,tier!=cache,env in (prod, canary),region notin (eu),team,!legacy``: requirements that all must hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from zones.objects import Kind

_KEY = r"(?:[A-Za-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_EQUALITY: Final = re.compile(rf"({_KEY})\s*(==|=|!=)\s*({_VALUE})")
_SET: Final = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)")
_EXISTENCE: Final = re.compile(rf"(!?)\s*({_KEY})")
_COMMA: Final = re.compile(r",(?![^(]*\))")


class Requirement(msgspec.Struct, frozen=True):
    """One requirement: ``key`` in or not in ``values``; no values: the key is there, or is not."""

    key: str
    values: frozenset[str] | None
    is_negative: bool

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Tell whether *labels* meet it; a key that is missing meets every negative requirement."""
        found = self.key in labels if self.values is None else labels.get(self.key) in self.values
        return found is not self.is_negative


class Selector(msgspec.Struct, frozen=True):
    """A label selector; the empty one selects everything. ``text`` is what goes to an API server."""

    requirements: tuple[Requirement, ...] = ()
    text: str = ""

    @classmethod
    def from_text(cls, text: str) -> Selector:
        """Read the form that ``kubectl -l`` takes. Raises ValueError naming the part that is wrong."""
        parts = [part.strip() for part in _COMMA.split(text)] if text.strip() else []
        return cls(tuple(_requirement(part) for part in parts), text.strip())

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        """Tell whether an object with *labels* is selected."""
        return all(requirement.holds(labels or {}) for requirement in self.requirements)


def _requirement(part: str) -> Requirement:
    if found := _SET.fullmatch(part):
        values = [value.strip() for value in found[3].split(",")]
        if any(not re.fullmatch(_VALUE, value) for value in values):
            raise ValueError(f"{part!r}: {found[3]!r} is no list of label values")
        return Requirement(found[1], frozenset(values), found[2] == "notin")
    if found := _EQUALITY.fullmatch(part):
        return Requirement(found[1], frozenset({found[3]}), found[2] == "!=")
    if found := _EXISTENCE.fullmatch(part):
        return Requirement(found[2], None, bool(found[1]))
    raise ValueError(f"{part!r} is no requirement such as app=web, app!=web, app in (web, api), app or !app")


HEADLESS_SLICES: Final = Selector.from_text("service.kubernetes.io/headless")
"""The slices of headless Services: the EndpointSlice controller labels them so (well-known labels of Kubernetes)."""

_LABELLED: Final = frozenset({Kind.SERVICE, Kind.ENDPOINT_SLICE, Kind.POD})
"""The kinds that are selected by their own labels (CONTRACT section 10)."""


class Scope(msgspec.Struct, frozen=True):
    """What of a cluster is shown: namespaces by name (None: all) or by label, the objects in them by label.

    A namespace that is not shown hides all that is in it, reverse names and pods included. EndpointSlices must have
    *slice_labels* besides.
    """

    namespaces: frozenset[str] | None = None
    namespace_labels: Selector = Selector()
    labels: Selector = Selector()
    slice_labels: Selector = Selector()

    def admits(self, kind: Kind, namespace: str, name: str, labels: Mapping[str, str] | None) -> bool:
        """Tell whether an object may enter the store. What a namespace's labels hide is hidden by its absence."""
        if kind is Kind.NAMESPACE:
            shown = self.namespaces is None or name in self.namespaces
            return shown and self.namespace_labels.matches(labels)
        if kind is Kind.GATEWAY:
            return True  # routes of namespaces that are shown may lead to it; its own hostnames its namespace hides
        shown = self.namespaces is None or namespace in self.namespaces
        if kind is Kind.ENDPOINT_SLICE and not self.slice_labels.matches(labels):
            return False
        return shown and (kind not in _LABELLED or self.labels.matches(labels))

    def selector_of(self, kind: Kind) -> str:
        """Return the selector that an API server applies for us."""
        if kind is Kind.NAMESPACE:
            return self.namespace_labels.text
        if kind is Kind.ENDPOINT_SLICE:
            return ",".join(text for text in (self.labels.text, self.slice_labels.text) if text)
        return self.labels.text if kind in _LABELLED else ""
