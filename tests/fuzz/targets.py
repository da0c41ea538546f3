"""What is fuzzed, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import objects, packets

CORPUS = Path(__file__).parent / "corpus"
"""Inputs that once broke something, by target; each is run by the suite."""


@dataclass(frozen=True)
class Target:
    """Reads an input; raises AssertionError, or anything at all, where that is not read as it should be."""

    name: str
    run: Callable[[bytes], None]
    seeds: Sequence[bytes]

    def corpus(self) -> list[Path]:
        """List the inputs kept."""
        return sorted((CORPUS / self.name).glob("*"))


TARGETS = {
    target.name: target
    for target in (
        Target("query", packets.query, packets.QUERIES),
        Target("respond", packets.respond, packets.QUERIES),
        Target("edns", packets.edns, packets.OPTIONS),
        Target("message", packets.message, (*packets.REPLIES, *packets.QUERIES)),
        Target("reply", packets.reply, packets.REPLIES),
        Target("session", packets.session, packets.SESSIONS),
        Target("stream", packets.stream, packets.STREAMS),
        Target("events", objects.events, objects.EVENTS),
        Target("manifests", objects.manifests, objects.MANIFESTS),
        Target("configuration", objects.configuration, objects.FILES),
        Target("snapshot", objects.snapshot, objects.SNAPSHOTS),
        Target("hosts", objects.hosts, objects.HOSTS),
    )
}
