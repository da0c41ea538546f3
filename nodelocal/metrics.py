"""nodelocal's counts under the names of CoreDNS and NodeLocal DNSCache, and its own (OPERATORS section 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from kdns.admin.metrics import Gauges
from kdns.net.listeners import Listeners
from nodelocal.queries import Front
from nodelocal.walking import Ending

SETUP_ERRORS = ("iptables", "iptables_lock", "interface_add", "interface_check", "configmap")


def gauges_of(
    front: Front, listeners: Listeners, server: str, troubles: Callable[[], Sequence[str]], facts: Mapping[str, float]
) -> Gauges:
    """Return what is read when someone looks; *troubles* are those that /ready lists, *facts* the supervisor's."""
    gauges = Gauges()
    resolver, expander, cache = front.resolver, front.expander, front.resolver.cache
    counts = resolver.counts
    zones = "."
    one: tuple[str, ...] = ()
    by_type = ("server", "type", "zones", "view")
    by_zone = ("server", "zones", "view")

    def hits() -> list[tuple[tuple[str, ...], float]]:
        return [
            ((server, "success", zones, ""), counts.answer_hits + front.stats.table_answers),
            ((server, "denial", zones, ""), counts.denial_hits + front.stats.table_denials),
        ]

    gauges.add(
        "coredns_cache_entries",
        "The number of elements in the cache.",
        lambda: [
            ((server, name, zones, ""), count) for name, count in zip(("success", "denial"), cache.counts, strict=True)
        ],
        labels=by_type,
    )
    gauges.add("coredns_cache_hits", "The count of cache hits.", hits, labels=by_type, is_counter=True)
    gauges.add(
        "coredns_cache_evictions",
        "The count of cache evictions.",
        lambda: [
            ((server, name, zones, ""), count)
            for name, count in zip(("success", "denial"), cache.evictions, strict=True)
        ],
        labels=by_type,
        is_counter=True,
    )
    gauges.add(
        "coredns_cache_requests",
        "The count of cache requests.",
        lambda: [((server, zones, ""), counts.misses + sum(value for _, value in hits()))],
        labels=by_zone,
        is_counter=True,
    )
    for name, text, attribute in (
        ("coredns_cache_misses", "The count of cache misses.", "misses"),
        ("coredns_cache_prefetch", "The number of times the cache has prefetched a cached item.", "prefetches"),
        ("coredns_cache_served_stale", "The number of requests served from stale cache entries.", "stale"),
    ):
        gauges.add(
            name,
            text,
            lambda attribute=attribute: [((server, zones, ""), getattr(counts, attribute))],  # type: ignore[misc]
            labels=by_zone,
            is_counter=True,
        )
    gauges.add(
        "coredns_cache_drops",
        "The number responses that are not cached, because the reply is malformed: here, read as no reply at all.",
        lambda: [((server, zones, ""), sum(forwarder.unreadable for forwarder in resolver.forwarders.values()))],
        labels=by_zone,
        is_counter=True,
    )
    gauges.add(
        "nodelocal_cache_bytes",
        "Memory of the cache by what it holds.",
        lambda: [((name,), octets) for name, octets in zip(("success", "denial"), cache.octets, strict=True)],
        labels=("type",),
    )
    gauges.add(
        "nodelocal_failures_served",
        "Queries answered SERVFAIL because the question had failed just before.",
        lambda: [(one, counts.failures_served)],
        is_counter=True,
    )
    gauges.add(
        "nodelocal_udp_crowded_out",
        "Queries not answered because their clients asked for more than there was time for.",
        lambda: [(one, listeners.crowded_out)],
        is_counter=True,
    )
    gauges.add(
        "coredns_forward_max_concurrent_rejects",
        "Counter of the number of queries rejected because the concurrent queries were at maximum.",
        lambda: [(one, listeners.shed + sum(forwarder.shed for forwarder in resolver.forwarders.values()))],
        is_counter=True,
    )
    gauges.add(
        "coredns_autopath_success",
        "Counter of requests that did autopath.",
        lambda: [((server,), front.expanded)],
        labels=("server",),
        is_counter=True,
    )
    gauges.add(
        "nodelocal_walks",
        "Search paths walked, by what they came to.",
        lambda: [((ending.value,), expander.endings[ending]) for ending in Ending],
        labels=("ending",),
        is_counter=True,
    )
    gauges.add(
        "nodelocal_walks_into_public_namespace",
        "Search paths that ended in a namespace named like a public top-level domain.",
        lambda: [(one, expander.hijacks)],
        is_counter=True,
    )
    gauges.add(
        "nodelocal_upstream_looping",
        "Upstreams that are not asked because they ask this server in turn.",
        lambda: [
            ((group, str(looping)), 1)
            for group, forwarder in resolver.forwarders.items()
            for looping in forwarder.servers.looping
        ],
        labels=("group", "to"),
    )
    gauges.add(
        "nodelocal_upstream_mismatched_replies",
        "Datagrams on sockets of questions that were no reply to them.",
        lambda: [(one, next(iter(resolver.forwarders.values())).exchanges.udp.mismatched)],
        is_counter=True,
    )
    gauges.add(
        "nodelocal_clients_limited",
        "Queries of clients over their share.",
        lambda: [(one, front.fairness.limited if front.fairness is not None else 0)],
        is_counter=True,
    )
    gauges.add(
        "nodelocal_clients_dropped",
        "Queries of clients over their share that were not answered at all.",
        lambda: [(one, front.fairness.dropped if front.fairness is not None else 0)],
        is_counter=True,
    )
    gauges.add(
        "nodelocal_node_pods",
        "Pods of this node that are known.",
        lambda: [(one, len(expander.pods) if expander.pods is not None else 0)],
    )
    gauges.add(
        "coredns_nodecache_setup_errors",
        "The number of errors during periodic network setup for node-cache.",
        lambda: [((kind,), facts.get(kind, 0)) for kind in SETUP_ERRORS],
        labels=("errortype",),
        is_counter=True,
    )
    gauges.add(
        "nodelocal_worker_deaths",
        "Workers that ended and were replaced, since the supervisor began.",
        lambda: [(one, facts.get("nodelocal_worker_deaths", 0))],
        is_counter=True,
    )
    gauges.add(
        "nodelocal_network_repairs",
        "Times that addresses or rules of the node were put up again.",
        lambda: [(one, facts.get("nodelocal_network_repairs", 0))],
        is_counter=True,
    )
    gauges.add("nodelocal_tcp_connections", "Open TCP connections.", lambda: [(one, len(listeners.connections))])
    gauges.add(
        "nodelocal_udp_replies_lost",
        "Replies that the system would not send.",
        lambda: [(one, listeners.lost)],
        is_counter=True,
    )
    gauges.add(
        "coredns_plugin_enabled",
        "A metric that indicates whether a plugin is enabled on per server and zone basis.",
        lambda: [
            ((server, route.zone.to_text(), "", plugin), 1)
            for route in resolver.routes.all
            for plugin in ("cache", "forward")
        ],
        labels=("server", "zone", "view", "name"),
    )
    gauges.add("nodelocal_troubles", "What is wrong now, as /ready lists it.", lambda: [(one, len(troubles()))])
    if (feed := resolver.feed) is not None:
        subscriptions = feed.subscriptions
        gauges.add(
            "nodelocal_push_connected",
            "Whether there is a connection on which kdns tells of changes.",
            lambda: [(one, feed.is_connected)],
        )
        gauges.add("nodelocal_push_subscriptions", "Subscriptions.", lambda: [(one, len(subscriptions))])
        gauges.add(
            "nodelocal_push_dropped",
            "Entries of the cache dropped because kdns told of a change.",
            lambda: [(one, subscriptions.dropped)],
            is_counter=True,
        )
        gauges.add(
            "nodelocal_push_lagging",
            "Replies of a replica that lagged behind the one that tells of changes.",
            lambda: [(one, subscriptions.lagging)],
            is_counter=True,
        )
        gauges.add(
            "nodelocal_push_connections_lost",
            "Such connections that ended.",
            lambda: [(one, feed.lost)],
            is_counter=True,
        )
    return gauges
