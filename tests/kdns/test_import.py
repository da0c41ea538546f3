"""Corefiles as they are found in clusters: every line is an option of ours, or explained."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kdns import config as kdns_config
from kdns.cli import main
from kdns.errors import ConfigError
from kdns.migrate.imported import Imported
from kdns.migrate.sources import import_text
from nodelocal import config as nodelocal_config

KUBEADM = """\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
"""
EKS = """\
.:53 {
    errors
    health {
        lameduck 5s
      }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
      pods insecure
      fallthrough in-addr.arpa ip6.arpa
    }
    prometheus :9153
    forward . /etc/resolv.conf
    cache 30
    loop
    reload
    loadbalance
}
"""
K3S = """\
.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
      pods insecure
      fallthrough in-addr.arpa ip6.arpa
    }
    hosts /etc/coredns/NodeHosts {
      ttl 60
      reload 15s
      fallthrough
    }
    prometheus :9153
    forward . /etc/resolv.conf
    cache 30
    loop
    reload
    loadbalance
    import /etc/coredns/custom/*.override
}
import /etc/coredns/custom/*.server
"""
NODE = """\
__PILLAR__DNS__DOMAIN__:53 {
    errors
    cache {
            success 9984 30
            denial 9984 5
    }
    reload
    loop
    bind __PILLAR__LOCAL__DNS__ __PILLAR__DNS__SERVER__
    forward . __PILLAR__CLUSTER__DNS__ {
            force_tcp
    }
    prometheus :9253
    health __PILLAR__LOCAL__DNS__:8080
    }
in-addr.arpa:53 {
    errors
    cache 30
    reload
    loop
    bind __PILLAR__LOCAL__DNS__ __PILLAR__DNS__SERVER__
    forward . __PILLAR__CLUSTER__DNS__ {
            force_tcp
    }
    prometheus :9253
    }
ip6.arpa:53 {
    errors
    cache 30
    reload
    loop
    bind __PILLAR__LOCAL__DNS__ __PILLAR__DNS__SERVER__
    forward . __PILLAR__CLUSTER__DNS__ {
            force_tcp
    }
    prometheus :9253
    }
.:53 {
    errors
    cache 30
    reload
    loop
    bind __PILLAR__LOCAL__DNS__ __PILLAR__DNS__SERVER__
    forward . __PILLAR__UPSTREAM__SERVERS__
    prometheus :9253
    }
"""


def unexplained(text: str, imported: Imported) -> list[str]:
    """List the lines that became neither an option nor a note; braces and zones of blocks aside."""
    explained = imported.settled | {note.line for note in imported.notes}
    return [
        f"{number}: {line}"
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() not in ("", "}") and number not in explained and not line.rstrip().endswith(":53 {")
    ]


def loaded(imported: Imported, tmp_path: Path, **more: Any) -> Any:
    """Return what the program makes of the file."""
    file = tmp_path / "imported.toml"
    file.write_text(imported.toml())
    read = nodelocal_config.load if imported.program == "nodelocal" else kdns_config.load
    watches = imported.program == "kdns" or "cluster" in imported.options
    return read({**({"api-server": "http://127.0.0.1:1"} if watches else {}), **more}, file)


@pytest.mark.parametrize(("text", "lost"), [(KUBEADM, 0), (EKS, 0), (K3S, 2)], ids=["kubeadm", "EKS", "k3s"])
def test_stock_corefiles(text: str, lost: int, tmp_path: Path) -> None:
    text = text.replace("/etc/coredns/NodeHosts", str(tmp_path / "NodeHosts"))
    (tmp_path / "NodeHosts").write_text("192.0.2.1 node-1\n")
    imported = import_text(text, "Corefile")
    assert imported.program == "kdns"
    assert unexplained(text, imported) == []
    assert sum(note.is_lost for note in imported.notes) == lost
    config = loaded(imported, tmp_path)
    assert [zone.to_text() for zone in config.zones] == ["cluster.local."]
    assert [zone.to_text() for zone in config.reverse] == ["in-addr.arpa.", "ip6.arpa."]
    assert config.pods.value == "insecure"
    assert config.upstreams == (Path("/etc/resolv.conf"),)
    assert {listen.port for listen in config.admin} == {9153, 8080, 8181}
    assert config.log_errors


def test_a_stock_corefile_of_node_local_dnscache(tmp_path: Path) -> None:
    imported = import_text(NODE, "Corefile")
    assert imported.program == "nodelocal"
    assert unexplained(NODE, imported) == []
    assert not any(note.is_lost for note in imported.notes)
    assert any("service-address" in note.text for note in imported.notes)
    config = loaded(imported, tmp_path, **{"service-address": ["10.96.0.10"]})
    assert config.cluster_service is not None
    assert {str(listen) for listen in config.listen} == {"169.254.20.10:53", "10.96.0.10:53"}
    assert config.limits.max_ttl == 30
    assert config.limits.max_negative_ttl == 5


def test_addresses_in_the_place_of_placeholders(tmp_path: Path) -> None:
    text = (
        NODE.replace("__PILLAR__LOCAL__DNS__", "169.254.20.10")
        .replace("__PILLAR__DNS__SERVER__", "10.96.0.10")
        .replace("__PILLAR__DNS__DOMAIN__", "cluster.local")
    )
    imported = import_text(text, "Corefile")
    assert imported.options["service-address"] == ["10.96.0.10"]
    assert imported.options["listen"] == ["169.254.20.10:53"]
    assert unexplained(text, imported) == []


EVERYTHING = """\
# a comment
(common) {
    errors
    log
}
.:5353 {
    import common
    kubernetes k8s.test 10.0.0.0/8 { # another
        kubeconfig {$KUBE_FILE} admin
        namespaces a b
        pods verified
        endpoint_pod_names
        multicluster clusterset.local
        ignore empty_service
        ttl 7
        apiserver_qps 100
    }
    rewrite stop name suffix .old.test .new.test answer auto
    rewrite name exact "a.test" b.test
    rewrite ttl exact a.test 5
    hosts {
        192.0.2.1 one.test two.test
        2001:db8::1 one.test
        fallthrough
    }
    k8s_external apps.test
    transfer {
        to 192.0.2.7
    }
    template IN A {
        answer "x 60 IN A 1.2.3.4"
    }
    forward . tls://9.9.9.9 tls://149.112.112.112 {
        tls_servername dns.quad9.net
        health_check 5s
    }
    forward corp.test 10.0.0.1
    nosuchplugin x
}
"""


def test_everything_that_has_a_counterpart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kubeconfig").write_text("")
    monkeypatch.setenv("KUBE_FILE", str(tmp_path / "kubeconfig"))
    imported = import_text(EVERYTHING, "f")
    assert imported.options == {
        "listen": ["[::]:5353"], "log-errors": True, "log-queries": True, "zone": ["k8s.test"], "reverse": ["10.0.0.0/8"],
        "kubeconfig": str(tmp_path / "kubeconfig"), "context": "admin", "namespace": ["a", "b"], "pods": "verified",
        "endpoint-pod-names": True, "clusterset-zone": ["clusterset.local"], "ignore-empty-service": True, "ttl": 7,
        "rewrite": ["*.old.test=*.new.test", "a.test=b.test"],
        "record": ["one.test A 192.0.2.1", "two.test A 192.0.2.1", "one.test AAAA 2001:db8::1"],
        "external-zone": ["apps.test"], "transfer-to": ["192.0.2.7"], "notify": ["192.0.2.7"],
        "upstream": ["tls://9.9.9.9#dns.quad9.net", "tls://149.112.112.112#dns.quad9.net"],
    }  # fmt: skip
    lost = [str(note) for note in imported.notes if note.is_lost]
    assert [line.split(": ", 1)[0] for line in lost] == ["f:20", "f:30", "f:37", "f:38"]
    assert "nodelocal: --stub corp.test=10.0.0.1" in lost[2]
    file = tmp_path / "kdns.toml"
    file.write_text(imported.toml())
    assert kdns_config.load({}, file).ttl == 7


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("/tmp/dnstap.sock full", "unix:/tmp/dnstap.sock"),
        ("unix:///tmp/dnstap.sock", "unix:/tmp/dnstap.sock"),
        ("tcp://127.0.0.1:6000 full", "tcp://127.0.0.1:6000"),
        ("tcp://collector.example:6000", None),
        ("tls://127.0.0.1:6000", None),
        ("", None),
    ],
)
def test_dnstap(written: str, wanted: str | None) -> None:
    imported = import_text(f". {{\n kubernetes cluster.local\n dnstap {written}\n}}\n", "f")
    assert imported.options.get("dnstap") == wanted
    (note,) = [note for note in imported.notes if str(note).startswith("f:3:")]
    assert note.is_lost == (wanted is None)


FILLED_IN = """\
cluster.local:53 {
    errors
    cache {
        success 9984 30
        denial 9984 5
    }
    reload
    loop
    bind 169.254.25.10
    forward . 10.233.0.3 {
        force_tcp
    }
    prometheus :9253
    health 169.254.25.10:9254
}
in-addr.arpa:53 {
    errors
    cache 30
    bind 169.254.25.10
    forward . 10.233.0.3 {
        force_tcp
    }
}
ip6.arpa:53 {
    forward . 10.233.0.3 {
        force_tcp
    }
    bind 169.254.25.10
}
corp.example:53 {
    forward . 10.0.0.1
    bind 169.254.25.10
}
.:53 {
    bind 169.254.25.10
    forward . /etc/resolv.conf
}
"""


def test_a_node_cache_with_its_addresses_filled_in(tmp_path: Path) -> None:
    """As kubespray writes it: whoever is asked for reverse names is the cluster's DNS."""
    imported = import_text(FILLED_IN, "f")
    assert imported.program == "nodelocal"
    assert imported.options["cluster"] == ["tcp://10.233.0.3"]
    assert imported.options["cluster-zone"] == ["cluster.local"]
    assert imported.options["stub"] == ["corp.example=10.0.0.1"]
    assert any("--service-address" in str(note) for note in imported.notes)
    assert not [note for note in imported.notes if note.is_lost]
    file = tmp_path / "nodelocal.toml"
    file.write_text(imported.toml())
    loaded = nodelocal_config.load({}, file)
    assert loaded.plan is not None
    assert [str(server) for server in loaded.cluster] == ["tcp://10.233.0.3:53"]


def test_the_clusters_own_corefile_is_none_of_a_node() -> None:
    imported = import_text(KUBEADM, "f", "nodelocal")
    (lost,) = [str(note) for note in imported.notes if note.is_lost]
    assert "kubernetes: no counterpart; nodelocal has no objects" in lost
    assert "zone" not in imported.options


@pytest.mark.parametrize(
    "order",
    [("endpoint https://192.0.2.1", "kubeconfig /k admin"), ("kubeconfig /k admin", "endpoint https://192.0.2.1")],
)
def test_a_kubeconfig_wins_over_an_endpoint(order: tuple[str, str]) -> None:
    imported = import_text(". {\n kubernetes cluster.local {\n  %s\n  %s\n }\n}\n" % order, "f")  # noqa: UP031
    assert imported.options["kubeconfig"] == "/k"
    assert "api-server" not in imported.options
    assert len([note for note in imported.notes if "says which server" in str(note)]) == 1


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "Corefile").write_text(KUBEADM)
    done = CliRunner().invoke(main, ["import", str(tmp_path / "Corefile"), "--output", str(tmp_path / "no/x.toml")])
    assert done.exit_code == 2
    assert "no/x.toml: found No such file or directory" in done.output


def test_the_config_map_of_coredns_and_its_lines() -> None:
    body = "\n".join("    " + line for line in KUBEADM.splitlines())
    text = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: coredns}}\ndata:\n  Corefile: |\n{body}\n    nothere\n"
    with pytest.raises(ConfigError) as caught:
        import_text(text, "cm.yaml")
    assert str(caught.value.problems[0]).startswith("cm.yaml:29: found nothere")
    imported = import_text(text.replace("    nothere\n", ""), "cm.yaml")
    assert imported.options["ttl"] == 30
    assert text.splitlines()[next(note.line for note in imported.notes if "loop" in note.text) - 1].strip() == "loop"


def test_stub_domains_of_kube_dns(tmp_path: Path) -> None:
    data = {
        "stubDomains": json.dumps({"acme.local": ["1.2.3.4", "1.2.3.5"]}),
        "upstreamNameservers": json.dumps(["8.8.8.8"]),
    }
    imported = import_text(json.dumps({"kind": "ConfigMap", "data": data}, indent=1), "cm.json")
    assert imported.options == {"upstream": ["8.8.8.8"], "stub": ["acme.local=1.2.3.4,1.2.3.5"]}
    config = loaded(imported, tmp_path, cluster=["192.0.2.1"])
    assert [zone.to_text() for zone in config.stubs] == ["acme.local."]
    with pytest.raises(ConfigError) as caught:
        import_text('kind: ConfigMap\ndata:\n  stubDomains: "{"\n', "cm.yaml")
    assert str(caught.value.problems[0]).startswith("cm.yaml:3: found stubDomains: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (".:53 {\n errors\n", "f:1: found {; expected a } that ends the block"),
        (".:53\n", "f:1: found .:53; expected a block in braces behind it"),
    ],
)
def test_what_is_no_corefile(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        import_text(text, "f")
    assert str(caught.value.problems[0]) == said


def test_the_command(tmp_path: Path) -> None:
    corefile, out = tmp_path / "Corefile", tmp_path / "kdns.toml"
    corefile.write_text(KUBEADM + "corp:53 {\n    file /zones/corp\n}\n")
    done = subprocess.run(
        [sys.executable, "-m", "kdns", "import", str(corefile), "--output", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"kdns: {corefile}:25: file: no counterpart" in done.stderr
    assert "1 without a counterpart" in done.stderr
    assert tomllib.loads(out.read_text())["ttl"] == 30
    missing = subprocess.run(
        [sys.executable, "-m", "kdns", "import", str(tmp_path / "no")], capture_output=True, text=True, check=False
    )
    assert missing.returncode == 2
