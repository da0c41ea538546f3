"""The Helm charts: by default what the Kustomize bases are; with other values still valid, and started with options that there are."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from kdns import config as kdns_config
from kdns.version import VERSION
from nodelocal import config as nodelocal_config
from tests.support.discovery import discovery
from tests.test_deploy import built, flags_of, one, ROOTS, rules

CHARTS = Path(__file__).parents[1] / "deploy/charts"
TOOLS = Path(__file__).parents[1] / "build/tools"
HELM = shutil.which("helm") or (str(TOOLS / "helm") if (TOOLS / "helm").exists() else None)
KUBECTL = shutil.which("kubectl") or (str(TOOLS / "kubectl") if (TOOLS / "kubectl").exists() else None)
OURS = {"app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart"}
OF_OPERATORS = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
NAMES = ["kdns", "nodelocal"]

needs_helm = pytest.mark.skipif(HELM is None, reason="needs helm: .ci/tools puts it into build/tools")
needs_kubectl = pytest.mark.skipif(KUBECTL is None, reason="needs kubectl: .ci/tools puts it into build/tools")

Json = dict[str, Any]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    return subprocess.run([HELM, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def rendered(name: str, tmp_path: Path, values: Json | None = None, *, release: str | None = None) -> list[Json]:
    """Return what the chart makes of *values*, checked against the schemas of Kubernetes."""
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values or {}))
    done = helm("template", release or name, CHARTS / name, "--namespace", "kube-system", "--values", file)
    assert done.returncode == 0, done.stderr
    things = [thing for thing in yaml.safe_load_all(done.stdout) if thing]
    for thing in things:
        if thing["kind"] not in OF_OPERATORS:
            kubernetes_validate.validate(thing, "1.36", strict=True)
        if not thing["kind"].startswith("ClusterRole"):
            assert thing["metadata"]["namespace"] == "kube-system"
    return things


def bare(thing: Any) -> Any:
    """Return *thing* without what a chart adds to every object, and without what is said by leaving it out."""
    if isinstance(thing, dict):
        kept = {key: bare(value) for key, value in thing.items() if key not in OURS and key != "imagePullPolicy"}
        if kept.get("type") == "ClusterIP":
            del kept["type"]
        if re.fullmatch(rf"kdns:{re.escape(VERSION)}", str(kept.get("image"))):
            kept["image"] = "kdns"
        for probe in ("livenessProbe", "readinessProbe"):
            defaults = {
                "initialDelaySeconds": 0,
                "periodSeconds": 10,
                "timeoutSeconds": 1,
                "failureThreshold": 3,
                "successThreshold": 1,
            }
            if probe in kept:
                kept[probe] = {key: value for key, value in kept[probe].items() if defaults.get(key) != value}
        return kept
    return [bare(one) for one in thing] if isinstance(thing, list) else thing


@needs_helm
@needs_kubectl
@pytest.mark.parametrize("name", NAMES)
def test_by_default_a_chart_is_the_kustomize_base(name: str, tmp_path: Path) -> None:
    def by_name(things: list[Json]) -> dict[tuple[str, str], Json]:
        return {(thing["kind"], thing["metadata"]["name"]): bare(thing) for thing in things}

    chart, base = by_name(rendered(name, tmp_path)), by_name(built(name))
    assert chart.keys() == base.keys()
    for things in (chart, base):
        for (kind, _), thing in things.items():
            if kind == "ConfigMap":
                thing["data"] = {file: tomllib.loads(text) for file, text in thing["data"].items()}
    for key in base:
        assert chart[key] == base[key], key


@needs_helm
@pytest.mark.parametrize("name", NAMES)
def test_lint_and_version(name: str) -> None:
    done = helm("lint", "--strict", CHARTS / name)
    assert done.returncode == 0, done.stdout
    chart = yaml.safe_load((CHARTS / name / "Chart.yaml").read_text())
    assert chart["appVersion"] == VERSION


@needs_helm
@pytest.mark.parametrize("name", NAMES)
def test_another_release_shares_no_name_and_no_pod(name: str, tmp_path: Path) -> None:
    first, second = (rendered(name, tmp_path, release=release) for release in (name, "blue"))
    kept = {(thing["kind"], thing["metadata"]["name"]) for thing in first} & {
        (thing["kind"], thing["metadata"]["name"]) for thing in second
    }
    assert kept <= {("Service", "kube-dns")}
    pods = "Deployment" if name == "kdns" else "DaemonSet"
    selector = one(first, pods)["spec"]["selector"]["matchLabels"]
    others = one(second, pods)["spec"]["template"]["metadata"]["labels"]
    assert not selector.items() <= others.items()


@needs_helm
@pytest.mark.parametrize("name", NAMES)
def test_values_that_there_are_not_are_refused(name: str, tmp_path: Path) -> None:
    option = {"config": {"ttll": 5}} if name == "kdns" else {"config": {"options": {"cache-sice": "1MiB"}}}
    for values in (
        option,
        {"replicas": 3},
        {"image": {"repo": "x"}},
        {"image": {"digest": "latest"}},
        {"resources": 5},
    ):
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        done = helm("template", name, CHARTS / name, "--values", file)
        assert done.returncode != 0, values
        assert next(iter(values)) in done.stderr
    schema = json.loads((CHARTS / name / "values.schema.json").read_text())["properties"]["config"]
    taken = schema if name == "kdns" else schema["properties"]["options"]
    options = kdns_config.OPTIONS if name == "kdns" else nodelocal_config.OPTIONS
    assert set(taken["properties"]) == {option.name for option in options}
    assert taken["additionalProperties"] is False
    known = json.loads((CHARTS / name / "values.schema.json").read_text())["properties"].keys() - {"global"}
    assert known == yaml.safe_load((CHARTS / name / "values.yaml").read_text()).keys()


# -- kdns ---------------------------------------------------------------------------------------------------------------


@needs_helm
@pytest.mark.parametrize(
    ("config", "more"),
    [
        ({"pods": "verified"}, {("", "pods")}),
        ({"clusterset-zone": ["clusterset.local"]}, {("multicluster.x-k8s.io", "serviceimports")}),
        (
            {"external-zone": ["apps.example"]},
            {
                ("networking.k8s.io", "ingresses"),
                *(
                    ("gateway.networking.k8s.io", kind)
                    for kind in ("gateways", "httproutes", "tlsroutes", "grpcroutes")
                ),
            },
        ),
        ({"ttl": 5, "record": ["a.b A 192.0.2.1"], "cookies": True, "client-rate": 1.5}, set()),
    ],
)
def test_permissions_follow_from_the_options(config: Json, more: set[tuple[str, str]], tmp_path: Path) -> None:
    base = {("", "namespaces"), ("", "services"), ("discovery.k8s.io", "endpointslices")}
    things = rendered("kdns", tmp_path, {"config": config})
    assert rules(things) == {(*thing, verb) for thing in base | more for verb in ("list", "watch")}
    file = tmp_path / "kdns.toml"
    file.write_text(one(things, "ConfigMap")["data"]["kdns.toml"].replace("/var/lib/kdns", str(tmp_path)))
    loaded = kdns_config.load({"api-server": "http://127.0.0.1:1"}, file)
    for key, value in config.items():
        if key in ("ttl", "client-rate"):
            assert getattr(loaded, key.replace("-", "_")) == value


@needs_helm
def test_without_endpoints_none_are_watched(tmp_path: Path) -> None:
    things = rendered("kdns", tmp_path, {"config": {"endpoints": "none"}})
    assert ("discovery.k8s.io", "endpointslices", "list") not in rules(things)


@needs_helm
def test_values_of_coredns_chart(tmp_path: Path) -> None:
    values = {
        "replicaCount": 3,
        "isClusterService": False,
        "serviceType": "LoadBalancer",
        "service": {"name": "", "clusterIP": "", "loadBalancerIP": "192.0.2.53", "externalTrafficPolicy": "Local",
                    "ipFamilyPolicy": "PreferDualStack", "annotations": {"a": "b"}},
        "prometheus": {"service": {"enabled": False}, "monitor": {"enabled": True, "interval": "15s", "additionalLabels": {"release": "p"}}},
        "config": {"listen": ["[::]:5353"]},
        "extraArgs": ["--log-queries"],
        "env": [{"name": "A", "value": "b"}],
        "image": {"repository": "example/kdns", "digest": f"sha256:{'0' * 64}", "pullSecrets": [{"name": "s"}]},
        "podAnnotations": {"x": "z"},
        "podLabels": {"team": "net"},
        "customLabels": {"owner": "me"},
        "affinity": {"podAntiAffinity": {}},
        "extraVolumes": [{"name": "tls", "secret": {"secretName": "tls"}}],
        "extraVolumeMounts": [{"name": "tls", "mountPath": "/etc/tls"}],
        "livenessProbe": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": None,
        "serviceAccount": {"create": False, "name": "mine"},
        "rbac": {"create": False},
    }  # fmt: skip
    things = rendered("kdns", tmp_path, values, release="edge")
    assert {thing["kind"] for thing in things} == {"ConfigMap", "Deployment", "Service", "ServiceMonitor"}
    service = one(things, "Service")
    assert service["metadata"]["name"] == "edge-kdns"
    assert service["metadata"]["annotations"] == {"a": "b"}
    assert service["metadata"]["labels"]["owner"] == "me"
    assert "kubernetes.io/cluster-service" not in service["metadata"]["labels"]
    assert service["spec"]["type"] == "LoadBalancer"
    assert "clusterIP" not in service["spec"]
    deployment = one(things, "Deployment")["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert (deployment["replicas"], pod["serviceAccountName"]) == (3, "mine")
    assert "priorityClassName" not in pod
    assert container["image"] == f"example/kdns@sha256:{'0' * 64}"
    assert container["args"][-1] == "--log-queries"
    assert {port["containerPort"] for port in container["ports"]} == {5353, 9153, 8080, 8181}
    assert "livenessProbe" not in container
    assert {"name": "tls", "mountPath": "/etc/tls"} in container["volumeMounts"]
    monitor = one(things, "ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"] == [{"port": "metrics", "interval": "15s"}]
    assert monitor["metadata"]["labels"]["release"] == "p"


@needs_helm
def test_an_autoscaler_takes_the_replicas_over(tmp_path: Path) -> None:
    things = rendered("kdns", tmp_path, {"hpa": {"enabled": True, "maxReplicas": 5}})
    assert "replicas" not in one(things, "Deployment")["spec"]
    scaler = one(things, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == one(things, "Deployment")["metadata"]["name"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 5)


# -- nodelocal ----------------------------------------------------------------------------------------------------------


@needs_helm
@pytest.mark.parametrize(
    ("keep", "monitored", "options"),
    list(
        itertools.product(
            (False, True), (False, True), ({}, {"stub": ["corp.example=192.0.2.7"], "cache-size": "64MiB"})
        )
    ),
)
def test_nodelocal_starts_with_options_that_there_are(
    keep: bool, monitored: bool, options: Json, tmp_path: Path
) -> None:
    values = {
        "config": {"keepService": keep, "localDnsIp": ["169.254.20.11", "fd00::11"], "dnsServer": ["10.0.0.10", "fd00::a"],
                   "dnsDomain": "k8s.example", "upstream": ["192.0.2.1", "192.0.2.2"], "options": options},
        "podMonitor": {"enabled": monitored},
    }  # fmt: skip
    things = rendered("nodelocal", tmp_path, values)
    (container,) = one(things, "DaemonSet")["spec"]["template"]["spec"]["containers"]
    flags = flags_of(container["args"])
    file = None
    if options:
        file = tmp_path / "nodelocal.toml"
        file.write_text(one(things, "ConfigMap")["data"]["nodelocal.toml"])
        assert flags.pop("config") == "/etc/nodelocal/nodelocal.toml"
        assert {"name": "config", "mountPath": "/etc/nodelocal", "readOnly": True} in container["volumeMounts"]
    loaded = nodelocal_config.load({**flags, "node": "n1", "api-server": "http://127.0.0.1:1"}, file)
    assert loaded.plan is not None
    assert [str(zone) for zone in loaded.cluster_zones] == ["k8s.example."]
    assert {str(server) for server in loaded.upstreams} == {"192.0.2.1:53", "192.0.2.2:53"}
    assert len(loaded.stubs) == len(options) // 2
    assert {listen.address for listen in loaded.listen} >= {"169.254.20.11", "fd00::11"}
    assert ("10.0.0.10" in {listen.address for listen in loaded.listen}) == (not keep)
    assert len([thing for thing in things if thing["kind"] == "PodMonitor"]) == monitored
    assert ({listen.address for listen in loaded.admin} == {"::"}) == monitored


# -- kubectl ------------------------------------------------------------------------------------------------------------


@needs_kubectl
@pytest.mark.parametrize("root", [*ROOTS, "monitoring"])
def test_kubectl_would_apply_the_bases_and_overlays(root: str) -> None:
    _would_apply("-k", str(CHARTS.parent / root), count=len(built(root)))


@needs_helm
@needs_kubectl
@pytest.mark.parametrize("name", NAMES)
def test_kubectl_would_apply_the_charts(name: str, tmp_path: Path) -> None:
    things = rendered(
        name, tmp_path, {"hpa": {"enabled": True}} if name == "kdns" else {"podMonitor": {"enabled": True}}
    )
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(things))
    _would_apply("-f", str(file), count=len(things))


def _would_apply(*what: str, count: int) -> None:
    assert KUBECTL is not None
    with discovery() as url:
        done = subprocess.run(
            [KUBECTL, "--server", url, "apply", "--dry-run=client", "--validate=false", *what],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("created (dry run)") == count
