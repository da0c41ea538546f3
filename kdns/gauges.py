"""What kdns tells of itself beside its queries: objects and watches; answers, connections, transfers, pushes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdns.admin.metrics import Gauges
from kdns.answer.transfer import Transfers
from kdns.cluster import Cluster, public_namespaces
from kdns.control.cluster import ApiSource, Source
from kdns.control.sink import Sink
from kdns.net.fairness import Fairness
from kdns.net.listeners import Listeners
from kdns.notify import Notifier
from kdns.proto.message import Message
from kdns.served import Zones
from kdns.snapshot import Snapshots
from kdns.upstream.forwarder import Forwarder

ONE: tuple[str, ...] = ()


def cluster_gauges(
    sink: Sink,
    source: Source,
    zones: Zones,
    server: str,
    *,
    has_upstreams: bool,
    notifier: Notifier | None,
    troubles: Callable[[], Sequence[str]],
    snapshots: Snapshots | None,
) -> Gauges:
    """Return the gauges of the objects and where they come from, of a program whose metrics call it *server*.

    *troubles* are those that /ready lists.
    """
    gauges = Gauges()
    gauges.add(
        "coredns_plugin_enabled",
        "A metric that indicates whether a plugin is enabled on per server and zone basis.",
        lambda: (
            [((server, zone.origin.to_text(), "", "kubernetes"), 1) for zone in zones.all]
            + [((server, ".", "", "forward"), 1)] * has_upstreams
        ),
        labels=("server", "zone", "view", "name"),
    )
    gauges.add("kdns_synced", "Whether every kind of object has been complete once.", lambda: [(ONE, sink.is_synced)])
    if snapshots is not None:
        gauges.add(
            "kdns_stale",
            "Whether answers are made from what was known before a restart.",
            lambda: [(ONE, sink.is_stale)],
        )
        gauges.add(
            "kdns_snapshot_timestamp_seconds",
            "When the snapshot of the objects in --state-dir was made, Unix time; 0 where there is none.",
            lambda: [(ONE, snapshots.made_at or 0.0)],
        )
    gauges.add(
        "kdns_objects",
        "Objects in the store by kind.",
        lambda: [((kind.value,), sink.count(kind)) for kind in sink.kinds],
        labels=("kind",),
    )
    gauges.add("kdns_events", "Objects put or deleted.", lambda: [(ONE, sink.events)], is_counter=True)
    gauges.add(
        "kdns_bad_objects", "Objects that could not be served.", lambda: [(ONE, sink.bad_objects)], is_counter=True
    )
    gauges.add(
        "kdns_source_troubles",
        "What is wrong now with sources of objects and records, secondaries and certificates, as /ready lists it.",
        lambda: [(ONE, len(troubles()))],
    )
    if isinstance(source, ApiSource):
        gauges.add(
            "kdns_watch_age_seconds",
            "Seconds since the API server last said anything about a kind.",
            lambda: [((r.kind.value,), r.age()) for r in source.reflectors],
            labels=("kind",),
        )
        gauges.add(
            "kdns_lists",
            "Whole lists asked for by kind.",
            lambda: [((r.kind.value,), r.lists) for r in source.reflectors],
            labels=("kind",),
            is_counter=True,
        )
        if (consistency := source.consistency) is not None:
            gauges.add(
                "kdns_consistency_checks",
                "Comparisons with what the API server has, by kind.",
                lambda: [((r.kind.value,), count) for r, count in consistency.looks.items()],
                labels=("kind",),
                is_counter=True,
            )
            gauges.add(
                "kdns_inconsistencies",
                "Objects found not to be as the API server has them, by kind; they were listed anew.",
                lambda: [((r.kind.value,), count) for r, count in consistency.found.items()],
                labels=("kind",),
                is_counter=True,
            )
    gauges.add(
        "kdns_public_namespaces",
        "Namespaces named like public top-level domains, which take outside names from search paths.",
        lambda: [(ONE, len(public_namespaces(sink)))],
    )
    gauges.add(
        "kdns_serial",
        "The serial of each zone.",
        lambda: [((zone.origin.to_text(),), group.serial.value) for group in zones.groups for zone in group.zones],
        labels=("zone",),
    )
    if notifier is not None:
        gauges.add("kdns_notifies", "NOTIFY messages sent.", lambda: [(ONE, notifier.sent)], is_counter=True)
    return gauges


def answer_gauges(
    cluster: Cluster,
    listeners: Listeners,
    *,
    forwarder: Forwarder[Message] | None,
    transfers: Transfers | None,
    fairness: Fairness | None,
) -> Gauges:
    """Return the gauges of what answers: of several workers they are added up."""
    gauges = Gauges()
    tables, connections = cluster.responder.tables, listeners.connections
    gauges.add(
        "kdns_answers",
        "Finished answers stored.",
        lambda: [((transport.value,), len(table)) for transport, table in tables.items()],
        labels=("proto",),
    )
    gauges.add(
        "kdns_answer_bytes",
        "Memory of the finished answers stored.",
        lambda: [((transport.value,), table.octets) for transport, table in tables.items()],
        labels=("proto",),
    )
    if (outside := cluster.store.outside) is not None:
        gauges.add(
            "kdns_hostname_conflicts",
            "Hostnames that several objects claim which lead to different places; the oldest has it.",
            lambda: [(ONE, len(outside.conflicts))],
        )
    if transfers is not None:
        gauges.add(
            "kdns_transfers",
            "Zone transfers asked for, by what came of them: whole, current (the SOA alone) or refused.",
            lambda: list(transfers.done.items()),
            labels=("zone", "result"),
            is_counter=True,
        )
    if fairness is not None:
        gauges.add(
            "kdns_clients_limited",
            "Queries of clients over --client-rate.",
            lambda: [(ONE, fairness.limited)],
            is_counter=True,
        )
        gauges.add(
            "kdns_clients_dropped",
            "Those of them that were not answered at all.",
            lambda: [(ONE, fairness.dropped)],
            is_counter=True,
        )
    if (feed := cluster.feed) is not None:
        gauges.add("kdns_push_sessions", "Sessions open.", lambda: [(ONE, len(connections.sessions))])
        gauges.add(
            "kdns_push_sessions_cut",
            "Sessions cut because their clients broke the rules or did not read.",
            lambda: [(ONE, connections.cut)],
            is_counter=True,
        )
        gauges.add("kdns_push_subscriptions", "Subscriptions.", lambda: [(ONE, feed.subscriptions)])
        gauges.add("kdns_push_topics", "Names and types subscribed to.", lambda: [(ONE, len(feed))])
        gauges.add("kdns_push_messages", "Messages pushed.", lambda: [(ONE, feed.pushed)], is_counter=True)
    gauges.add("kdns_tcp_connections", "Open TCP connections.", lambda: [(ONE, len(connections))])
    gauges.add(
        "kdns_tcp_closed_for_others",
        "Quiet TCP connections closed to make room for new ones.",
        lambda: [(ONE, connections.closed_for_others)],
        is_counter=True,
    )
    gauges.add(
        "kdns_udp_replies_lost",
        "Replies that the system would not send.",
        lambda: [(ONE, listeners.lost)],
        is_counter=True,
    )
    gauges.add(
        "kdns_udp_crowded_out",
        "Queries not answered because their clients asked for more than there was time for.",
        lambda: [(ONE, listeners.crowded_out)],
        is_counter=True,
    )
    gauges.add(
        "coredns_forward_max_concurrent_rejects",
        "Counter of the number of queries rejected because the concurrent queries were at maximum.",
        lambda: [(ONE, listeners.shed + (forwarder.shed if forwarder else 0))],
        is_counter=True,
    )
    return gauges
