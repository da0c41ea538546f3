"""The cache by itself, with ``now`` as an argument: its bounds and properties."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nodelocal.body import remaining, sections
from nodelocal.cache import Cache, ENTRY_OCTETS, key_of, MAX_FAILURE_SECONDS
from nodelocal.entry import Entry, Limits, seal
from zones.names import Name
from zones.records import A, AAAA, RRset, SOA, soa_rdata

WWW = Name.from_text("www.example.com")
ZONE = Name.from_text("example.com")


def positive(name: Name = WWW, ttl: int = 60, address: bytes = b"\xc0\0\2\1") -> Entry:
    return seal(name, A, rcode=0, answer=[RRset(name, A, ttl, (address,))], authority=[], is_denial=False)


def denial(name: Name = WWW, ttl: int = 60, *, rcode: int = 3) -> Entry:
    rdata = soa_rdata(ZONE.prefixed(b"ns"), ZONE.prefixed(b"h"), serial=1, refresh=2, retry=3, expire=4, minimum=ttl)
    return seal(name, A, rcode=rcode, answer=[], authority=[RRset(ZONE, SOA, ttl, (rdata,))], is_denial=True)


def put(cache: Cache, entry: Entry, now: float, name: Name = WWW, qtype: int = A) -> None:
    cache.put(key_of(name, qtype, do=False, cd=False), entry, now)


def find(cache: Cache, now: float, name: Name = WWW, qtype: int = A) -> Entry | None:
    return cache.find(key_of(name, qtype, do=False, cd=False), now)


@given(
    ttl=st.integers(1, 10_000), stored=st.floats(0, 1e6), times=st.lists(st.floats(0, 12_000), min_size=1, max_size=20)
)
def test_a_ttl_never_rises_and_never_says_more_than_is_left(ttl: int, stored: float, times: list[float]) -> None:
    cache = Cache(Limits(max_ttl=86_400))
    put(cache, positive(ttl=ttl), stored)
    last = ttl
    for passed in sorted(times):
        entry = find(cache, stored + passed)
        if entry is None or stored + passed >= entry.expires_at:
            assert passed >= ttl - 1e-6
            continue
        shown = remaining(entry, stored + passed)
        assert shown <= last
        assert shown <= ttl - int(passed) + 1e-6
        last = shown


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "deny", "nodata", "find", "flush"]),
            st.integers(0, 40),
            st.integers(1, 300),
            st.floats(0, 50),
        ),
        max_size=80,
    )
)
@settings(deadline=None)
def test_octets_and_index_agree_with_what_is_held(steps: list[tuple[str, int, int, float]]) -> None:
    """Whatever happens, both parts stay within their room, and nothing is found that is not held."""
    room = 24 * ENTRY_OCTETS
    cache = Cache(Limits(max_octets=room), cuts=lambda above, name, entry: True)
    now = 0.0
    for action, number, ttl, wait in steps:
        now += wait
        name = Name.from_text(f"n{number}.example.com")
        match action:
            case "put":
                put(cache, positive(name, ttl), now, name)
                assert (found := find(cache, now, name)) is None or not found.is_denial
            case "deny":
                put(cache, denial(name, ttl), now, name)
                for qtype in (A, AAAA):
                    kept = find(cache, now, name, qtype)
                    assert kept is None or kept.is_nxdomain
            case "nodata":
                put(cache, denial(name, ttl, rcode=0), now, name, AAAA)
            case "find":
                find(cache, now, name)
            case "flush":
                cache.flush(name)
                assert find(cache, now, name) is None
        held = list(cache.items())
        assert len({key for key, _ in held}) == len(held) == sum(cache.counts) == len(cache._index)
        assert cache.octets == (
            sum(entry.octets for _, entry in held if not entry.is_denial),
            sum(entry.octets for _, entry in held if entry.is_denial),
        )
        assert cache.octets[0] <= room - room // 4
        assert cache.octets[1] <= room // 4


def test_what_nobody_asked_for_goes_first() -> None:
    cache = Cache(Limits(max_octets=8 * (ENTRY_OCTETS + 100)))
    names = [Name.from_text(f"n{number}.example.com") for number in range(6)]
    for name in names:
        put(cache, positive(name), 0.0, name)
    for _ in range(3):
        find(cache, 1.0, names[0])
    put(cache, positive(Name.from_text("new.example.com")), 1.0, Name.from_text("new.example.com"))
    assert find(cache, 1.0, names[0]) is not None
    assert find(cache, 1.0, names[1]) is None


def test_an_entry_larger_than_all_room_is_not_kept() -> None:
    cache = Cache(Limits(max_octets=2**20))
    many = tuple(number.to_bytes(4, "big") for number in range(4000))
    huge = seal(WWW, A, rcode=0, answer=[RRset(WWW, A, 60, many)], authority=[], is_denial=False)
    put(cache, huge, 0.0)
    assert find(cache, 0.0) is not None
    small = Cache(Limits(max_octets=40_000))
    put(small, huge, 0.0)
    assert find(small, 0.0) is None


def test_keys_tell_do_and_cd_apart() -> None:
    keys = {key_of(WWW, A, do=do, cd=cd) for do in (False, True) for cd in (False, True)}
    assert len(keys) == 4
    assert key_of(Name.from_text("WWW.EXAMPLE.com"), A, do=False, cd=False) in keys


def test_flush_by_name_takes_what_is_below_and_nothing_else() -> None:
    cache = Cache()
    names = [Name.from_text(text) for text in ("example.com", "a.example.com", "badexample.com", "example.org")]
    for name in names:
        put(cache, positive(name), 0.0, name)
    assert cache.flush(ZONE) == 2
    assert [find(cache, 0.0, name) is not None for name in names] == [False, False, True, True]
    assert cache.flush() == 2


def test_failures_double_up_to_a_bound_and_are_ended_by_an_answer() -> None:
    cache = Cache()
    key = key_of(WWW, A, do=False, cd=False)
    now, waits = 0.0, []
    for _ in range(8):
        cache.fail(key, now)
        began = now
        while cache.has_failed(key, now):
            now += 0.5
        waits.append(now - began)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    assert max(waits) <= MAX_FAILURE_SECONDS
    put(cache, positive(), now)
    cache.fail(key, now)
    assert not cache.has_failed(key, now + 1.0)


def test_failures_of_long_ago_make_no_new_one_last_longer() -> None:
    cache = Cache()
    key, other = (key_of(name, A, do=False, cd=False) for name in (WWW, ZONE))
    assert cache.fails_until < 0
    for now in (0.0, 1.0, 3.0):
        cache.fail(key, now)
    assert cache.fails_until == 7.0
    cache.fail(other, 7.0 + MAX_FAILURE_SECONDS - 2.0)
    cache.fail(key, 7.0 + MAX_FAILURE_SECONDS - 1.0)
    assert cache.has_failed(key, 7.0 + MAX_FAILURE_SECONDS + 6.0), "it is not so long ago"
    later = cache.fails_until + MAX_FAILURE_SECONDS
    cache.fail(key, later)
    assert cache.has_failed(key, later)
    assert not cache.has_failed(key, later + 1.0)


def test_the_denial_below_a_cut_reads_like_the_one_above() -> None:
    cache = Cache(cuts=lambda above, name, entry: True)
    gone = Name.from_text("gone.example.com")
    put(cache, denial(gone), 0.0, gone)
    for text in ("a.gone.example.com", "b.a.gone.example.com", "x" * 63 + ".gone.example.com"):
        below = Name.from_text(text)
        entry = find(cache, 1.0, below)
        assert entry is not None
        _, authority = sections(entry, below, 7)
        _, above = sections(denial(gone), gone, 7)
        assert authority == above
    assert find(cache, 1.0, ZONE) is None
    assert find(cache, 61.0, Name.from_text("a.gone.example.com")) is None, "a stale denial cuts nothing"
