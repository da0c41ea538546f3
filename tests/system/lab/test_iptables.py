"""nodelocal beside kube-proxy's iptables mode, with both of the programs that go by that name."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest

from tests.system.lab.lab import ALL, BY_CLUSTER, BY_NODE, kill_whole, Lab, lab, LOCAL, needs_lab

pytestmark = [
    *needs_lab,
    pytest.mark.skipif(shutil.which("iptables") is None, reason="needs Debian's package iptables"),
]


@pytest.fixture(scope="module", params=["iptables-nft", "iptables-legacy"])
def node(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lab(request.param) as made:
        made.start_servers()
        yield made


def answered_by(node: Lab, who: str) -> None:
    """All addresses, both protocols, pods and the node itself."""
    for tcp in (False, True):
        with node.asking(",".join(ALL), seconds=0.5, on_node=True, tcp=tcp) as asked:
            pass
        assert asked.by(who) == len(asked.rows) > 100, (tcp, asked.lost[:3])


def test_alive_it_answers_dead_the_cluster_does_and_started_again_it_does(node: Lab) -> None:
    with node.running() as server:
        node.node.run("conntrack", "-F")
        answered_by(node, BY_NODE)
        assert node.conntrack() == 0
        with node.asking(LOCAL[4], seconds=3) as asked:
            kill_whole(server)
        times = [row["at"] for row in asked.lost]
        assert not times or max(times) - min(times) < 0.2, times
        time.sleep(1)
        answered_by(node, BY_CLUSTER)
    with node.running():
        answered_by(node, BY_NODE)
