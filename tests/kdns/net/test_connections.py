"""Samples of what comes over TCP: each stands for all messages since the one before it, however many a turn has."""

from __future__ import annotations

from kdns.net.connections import Connections
from kdns.net.hitters import Sampler
from tests.support.cases import question


def test_samples_stand_for_all_messages() -> None:
    sampler = Sampler()
    connections = Connections(sampler=sampler)
    wire = question("web.default.svc.cluster.local A")
    total = unsampled = 0
    for messages in (16, 1, 16, 3, 16, 16, 7, 16, 16, 16, 2, 1, 1):
        total += messages
        unsampled += messages
        connections.until_sample -= messages
        if connections.until_sample <= 0:
            connections.sample(wire, "192.0.2.1")
            unsampled = 0
    assert [(client, round(count)) for client, count in sampler.clients.top()] == [(b"192.0.2.1", total - unsampled)]
    assert [round(count) for _, count in sampler.names.top()] == [total - unsampled]
