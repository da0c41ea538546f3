"""Sketches of who asks most, and for what."""

from __future__ import annotations

import random
from collections import Counter

import dns.message
from hypothesis import given
from hypothesis import strategies as st

from kdns.net.hitters import FADE_SECONDS, HeavyHitters, MAX_STRIDE, Sampler, SAMPLES_A_SECOND


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.integers(0, 40), max_size=400), st.integers(1, 20))
def test_a_sketch_never_counts_less_than_there_was_and_keeps_what_matters(asked: list[int], room: int) -> None:
    """Space-Saving: a kept count is at most a share of 1/room of all too large; what has more than that is kept."""
    sketch = HeavyHitters(keys=room)
    for key in asked:
        sketch.add(b"%d" % key, 1)
    truth, found = Counter(asked), dict(sketch.top())
    assert len(sketch) <= room
    for octets, counted in found.items():
        assert truth[int(octets)] <= counted <= truth[int(octets)] + len(asked) / room
    assert all(b"%d" % key in found for key, count in truth.items() if count > len(asked) / room)
    assert abs(sum(found.values()) - len(asked)) < 1e-6 or not asked


def test_counts_fade_and_go() -> None:
    sketch = HeavyHitters()
    sketch.add(b"a", 8)
    sketch.add(b"b", 0.02)
    sketch.fade(0.5)
    assert sketch.top() == [(b"a", 4.0)]


def test_rates_are_those_of_the_last_while() -> None:
    clock = Clock()
    sampler = Sampler(clock)
    wire = dns.message.make_query("Web.Example.", "AAAA").to_wire()
    stride, left = 1, 1
    for _ in range(40):  # 40 s at 1,000 batches a second, of two queries each
        for _ in range(1000):
            clock.now += 0.001
            left -= 1
            if left <= 0:
                left = stride = sampler.take(wire, "192.0.2.1", 2 * stride, stride)
        sampler.fade()
    names, clients = sampler.rates(5)
    ((key, rate),) = names
    assert key == b"\3web\7example\0\0\x1c"
    assert 1800 < rate < 2200
    assert clients[0][0] == b"192.0.2.1"
    for _ in range(120):
        clock.now += 1
        sampler.fade()
    assert sum(rate for _, rate in sampler.rates(5)[0]) < 2000 * 2.8 ** -(120 / FADE_SECONDS)


def test_samples_are_few_however_many_queries_there_are() -> None:
    clock = Clock()
    sampler = Sampler(clock)
    wire = dns.message.make_query("a.example.", "A").to_wire()
    stride, left, taken = 1, 1, 0
    for _ in range(100_000):  # in one second
        clock.now += 1e-5
        left -= 1
        if left <= 0:
            taken += 1
            left = stride = sampler.take(wire, "::1", stride, stride)
    assert taken < 4 * SAMPLES_A_SECOND
    assert stride <= MAX_STRIDE


def test_whatever_is_asked_is_taken() -> None:
    source = random.Random(5)
    sampler = Sampler()
    wire = dns.message.make_query("a.b.example.", "A").to_wire()
    for end in range(len(wire) + 1):
        sampler.take(wire[:end], "192.0.2.1", 1, 1)
    for _ in range(2000):
        sampler.take(source.randbytes(source.randrange(600)), "192.0.2.1", 1, 1)
    names, clients = sampler.rates(200)
    assert b"\1a\1b\7example\0\0\1" in dict(names)
    assert max(len(key) for key, _ in names) <= 259
    assert len(clients) == 1
