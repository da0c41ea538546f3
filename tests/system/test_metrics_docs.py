"""docs/metrics.md lists every metric of both programs, and no other. KDNS_WRITE_DOCS=1 writes it anew."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.api_server import ApiServer
from tests.support.client import addresses, ask_udp, lookup
from tests.support.kube import namespace, service
from tests.support.process import kdns, nodelocal, wait_until

pytestmark = pytest.mark.system

DOCS = Path(__file__).parents[2] / "docs/metrics.md"
HEAD = """\
# Metrics

What `/metrics` of both programs tells, in the text format of Prometheus. Names that begin with `coredns_` are CoreDNS's and
NodeLocal DNSCache's, with their labels, so that dashboards and alerts go on working; `go_*` metrics do not exist. Those of
options that are not used are missing. `deploy/monitoring` has alerts and a Grafana dashboard of our own
(`kubectl apply -k deploy/monitoring`, `dashboard.json`), and what the Prometheus operator is to scrape; the alerts of
coredns-mixin and CoreDNS's dashboards find their metrics and labels here. `tests/system/test_metrics_docs.py` holds this list and the programs together.
"""

Metrics = dict[str, tuple[str, str, str]]
"""By name: type, labels, help."""


def metrics_of(page: str) -> Metrics:
    found: Metrics = {}
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", page, flags=re.MULTILINE))
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, flags=re.MULTILINE):
        if name.endswith("_created"):
            continue
        labels: set[str] = set()
        for inner in re.findall(rf"^{re.escape(name)}(?:_bucket)?\{{([^}}]*)\}}", page, flags=re.MULTILINE):
            labels.update(re.findall(r'(\w+)="', inner))
        found[name] = kind, ", ".join(sorted(labels - {"le"})), helps[name]
    return found


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, Metrics]]:
    """What both tell with all there is turned on, after some questions of all sorts."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        api = stack.enter_context(ApiServer())
        api.put(namespace(), service("web", "10.96.0.1"))
        behind = stack.enter_context(
            kdns(
                "--api-server", api.url, "--workers", "2", "--push", "tcp", "--transfer-to", "127.0.0.0/8", "--notify",
                "127.0.0.1:9", "--upstream", "127.0.0.1:9", "--state-dir", folder, "--client-rate", "1000",
                "--external-zone", "apps.test", "--clusterset-zone", "clusterset.local", "--record", "a.test A 192.0.2.1",
                "--dnstap", f"unix:{folder}/no.sock",
            )
        )  # fmt: skip
        behind.wait_for("synced")
        node = stack.enter_context(
            nodelocal(
                "--cluster", f"127.0.0.1:{behind.port}", "--upstream", "127.0.0.1:9", "--supervise", "--client-rate", "1000",
                "--api-server", api.url, "--node", "n1", "--dnstap", f"unix:{folder}/no.sock",
            )
        )  # fmt: skip
        for port in (behind.port, node.port):
            for _ in range(2):
                assert addresses(port, "web.default.svc.cluster.local.") == {"10.96.0.1"}
                lookup(port, "no.default.svc.cluster.local.")
                lookup(port, "www.example.com.")
                lookup(port, "web.default.svc.cluster.local.", tcp=True)
            ask_udp(port, b"\0" * 12, quiet=True)
        for page in ("/health", "/ready"):
            behind.page(page)
            node.page(page)
        wait_until(lambda: "coredns_dns_requests_total{" in behind.page("/metrics")[1])
        yield {"kdns": metrics_of(behind.page("/metrics")[1]), "nodelocal": metrics_of(node.page("/metrics")[1])}


def as_markdown(found: dict[str, Metrics]) -> str:
    lines = [HEAD]
    for program, metrics in found.items():
        lines += [f"## {program}", "", "| metric | type | labels | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{name}` | {kind} | {labels or '–'} | {text} |"
            for name, (kind, labels, text) in sorted(metrics.items())
        ]
        lines.append("")
    return "\n".join(lines)


def test_the_list_is_complete(found: dict[str, Metrics]) -> None:
    if os.environ.get("KDNS_WRITE_DOCS"):
        DOCS.write_text(as_markdown(found))
    text = DOCS.read_text()
    for program, metrics in found.items():
        section = text.split(f"## {program}\n", 1)[1].split("\n## ", 1)[0]
        listed = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section, flags=re.MULTILINE))
        assert listed == {name: kind for name, (kind, _, _) in metrics.items()}


def test_every_metric_says_what_it_is(found: dict[str, Metrics]) -> None:
    for metrics in found.values():
        for name, (_, _, text) in metrics.items():
            assert len(text) > 10, name


MIXIN = {
    "kdns": {
        "coredns_dns_request_duration_seconds": {"server", "zone", "view"},
        "coredns_dns_responses_total": {"server", "zone", "view", "rcode", "plugin"},
        "coredns_forward_requests_total": {"to"},
        "coredns_forward_request_duration_seconds": {"to", "rcode"},
        "coredns_forward_responses_total": {"to", "rcode"},
        "coredns_dns_requests_total": {"server", "zone", "view", "proto", "family", "type"},
        "coredns_dns_request_size_bytes": {"server", "zone", "view", "proto"},
        "coredns_dns_response_size_bytes": {"server", "zone", "view", "proto"},
    },
    "nodelocal": {
        "coredns_cache_hits_total": {"server", "type", "zones", "view"},
        "coredns_cache_misses_total": {"server", "zones", "view"},
        "coredns_cache_entries": {"server", "type", "zones", "view"},
        "coredns_dns_requests_total": {"server", "zone", "view", "proto", "family", "type"},
        "coredns_nodecache_setup_errors_total": {"errortype"},
    },
}
"""What the alerts of coredns-mixin and the dashboards read, and by which labels."""


@pytest.mark.parametrize("program", MIXIN)
def test_alerts_and_dashboards_of_coredns_find_their_metrics(found: dict[str, Metrics], program: str) -> None:
    for name, labels in MIXIN[program].items():
        assert name in found[program], name
        shown = set(found[program][name][1].split(", ")) - {"–", ""}
        assert shown <= labels, name
        assert not shown or shown == labels, name
