"""deploy/: what kubectl makes of it is valid, needs no more than it should, and starts programs with options that they have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from kdns import config as kdns_config
from nodelocal import config as nodelocal_config
from zones.names import Name
from zones.search import explicit_walk

DEPLOY = Path(__file__).parents[1] / "deploy"
ROOTS = [
    "kdns", "nodelocal", "search-path", "overlays/trial", "overlays/multicluster", "overlays/node-local-address",
    "overlays/autoscaled",
]  # fmt: skip

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")

Json = dict[str, Any]


def built(root: str) -> list[Json]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / root)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [thing for thing in yaml.safe_load_all(done.stdout) if thing]


def one(things: list[Json], kind: str) -> Json:
    (found,) = [thing for thing in things if thing["kind"] == kind]
    return found


@needs_kubectl
@pytest.mark.parametrize("root", ROOTS)
def test_everything_is_valid(root: str) -> None:
    things = built(root)
    for thing in things:
        kubernetes_validate.validate(thing, "1.36", strict=True)
    names = [(thing["kind"], thing["metadata"]["name"]) for thing in things]
    assert len(names) == len(set(names))
    for thing in things:
        assert thing["metadata"].get("namespace", "kube-system") == "kube-system"


def rules(things: list[Json]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for thing in things
        if thing["kind"] in ("Role", "ClusterRole")
        for rule in thing["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


KDNS_RULES = {
    (group, resource, verb)
    for group, resource in (("", "namespaces"), ("", "services"), ("discovery.k8s.io", "endpointslices"))
    for verb in ("list", "watch")
}


@needs_kubectl
def test_permissions_are_those_of_what_is_watched() -> None:
    assert rules(built("kdns")) == rules(built("overlays/trial")) == KDNS_RULES
    imports = {("multicluster.x-k8s.io", "serviceimports", verb) for verb in ("list", "watch")}
    assert rules(built("overlays/multicluster")) == KDNS_RULES | imports
    node = {("discovery.k8s.io", "endpointslices"), ("", "pods")}
    assert rules(built("nodelocal")) == {(*thing, verb) for thing in node for verb in ("list", "watch")}


@needs_kubectl
@pytest.mark.parametrize("root", ["kdns", "overlays/trial", "overlays/multicluster"])
def test_kdns_is_restricted(root: str) -> None:
    """Pod Security Standards, restricted."""
    pod = one(built(root), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod.get("hostNetwork")
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert all(port["containerPort"] > 1023 for port in container["ports"])
        assert not any("hostPort" in port for port in container["ports"])
    assert all(set(volume) - {"name"} <= {"configMap", "emptyDir"} for volume in pod["volumes"])


@needs_kubectl
@pytest.mark.parametrize("root", ["nodelocal", "overlays/node-local-address"])
def test_nodelocal_has_the_least_that_works(root: str) -> None:
    daemons = one(built(root), "DaemonSet")["spec"]
    assert daemons["updateStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    pod = daemons["template"]["spec"]
    (container,) = pod["containers"]
    assert "initContainers" not in pod
    assert pod["hostNetwork"] is True
    assert "ports" not in container, "they would be the host's, and keep the second pod of a hand-over off the node"
    assert all("exec" in container[probe] for probe in ("startupProbe", "livenessProbe", "readinessProbe"))
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_BIND_SERVICE"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert [volume["hostPath"]["path"] for volume in pod["volumes"]] == ["/run/nodelocal"]
    control = nodelocal_config.DEFAULT_CONTROL
    assert str(Path(control).parent) == container["volumeMounts"][0]["mountPath"]


def flags_of(args: list[str]) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    for arg in args:
        if arg.startswith("--"):
            name, _, value = arg[2:].partition("=")
            if name in ("service-address", "upstream", "cluster", "cluster-zone", "admin", "clusterset-zone", "listen"):
                flags.setdefault(name, []).append(value)
            else:
                flags[name] = value or True
    return flags


@needs_kubectl
@pytest.mark.parametrize("root", ["nodelocal", "overlays/node-local-address"])
def test_nodelocal_takes_its_options(root: str) -> None:
    (container,) = one(built(root), "DaemonSet")["spec"]["template"]["spec"]["containers"]
    flags = flags_of(container["args"])
    assert flags["node"] == "$(NODE_NAME)"
    loaded = nodelocal_config.load({**flags, "node": "n1", "api-server": "http://127.0.0.1:1"}, None)
    assert loaded.plan is not None
    assert loaded.cluster_service is not None


@needs_kubectl
@pytest.mark.parametrize("root", ["kdns", "overlays/trial", "overlays/multicluster"])
def test_kdns_takes_its_options_and_its_file(root: str, tmp_path: Path) -> None:
    things = built(root)
    text = one(things, "ConfigMap")["data"]["kdns.toml"]
    file = tmp_path / "kdns.toml"
    file.write_text(text.replace("/var/lib/kdns", str(tmp_path)))
    (container,) = one(things, "Deployment")["spec"]["template"]["spec"]["containers"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert "/etc/kdns/kdns.toml" in container["args"]
    assert all(any(path.startswith(mount) for mount in mounts) for path in ("/etc/kdns", "/var/lib/kdns"))
    args = [arg for arg in container["args"] if arg.startswith("--") and "=" in arg]
    loaded = kdns_config.load({**flags_of(args), "api-server": "http://127.0.0.1:1"}, file)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {listen.port for listen in loaded.listen} == {ports["dns"]}
    assert {listen.port for listen in loaded.admin} == {ports["metrics"], ports["health"], ports["ready"]}


@needs_kubectl
def test_the_drop_in_has_the_names_of_what_it_replaces_and_the_trial_touches_nothing() -> None:
    service = one(built("kdns"), "Service")
    assert service["metadata"]["name"] == "kube-dns"
    pod = one(built("kdns"), "Deployment")["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    trial = built("overlays/trial")
    assert one(trial, "Service")["metadata"]["name"] == "kdns"
    assert "clusterIP" not in one(trial, "Service")["spec"]
    assert "k8s-app" not in one(trial, "Deployment")["spec"]["template"]["metadata"]["labels"]


@needs_kubectl
def test_the_search_domain_of_the_policy_is_the_one_that_stands_for_the_path() -> None:
    policy = one(built("search-path"), "MutatingAdmissionPolicy")
    expression = policy["spec"]["mutations"][0]["applyConfiguration"]["expression"]
    assert '["search." + namespaceObject.metadata.name + "." + params.data["zone"] + ".ap.k8s.io"]' in expression
    walk = explicit_walk(
        Name.from_text("web.search.default.cluster.local.ap.k8s.io."), [Name.from_text("cluster.local.")]
    )
    assert walk is not None
    assert walk.namespace == b"default"


def test_the_image() -> None:
    """As far as it can be told without an engine: what it copies is there, and the stage that runs has no compiler."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    assert len(stages) == 2
    for words in re.findall(r"^COPY (?!--from)(.+)$", text, flags=re.MULTILINE):
        for source in words.split()[:-1]:
            assert (DEPLOY.parent / source).exists(), source
    allowed = [line[1:] for line in (DEPLOY.parent / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for words in re.findall(r"^COPY (?!--from)(.+)$", text, flags=re.MULTILINE):
        assert all(source in allowed for source in words.split()[:-1])
    assert "--require-hashes" in stages[0]
    assert "gcc" not in stages[1]
    assert re.search(r"^USER 65532:65532$", stages[1], flags=re.MULTILINE)
    assert "ADD " not in text
    assert "://" not in re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


METRICS = set(re.findall(r"^\| `(\w+)` \|", (DEPLOY.parent / "docs/metrics.md").read_text(), flags=re.MULTILINE))
_OF_ALL = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}


def names_in(expression: str) -> set[str]:
    """Return the names of metrics in a PromQL expression."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", "", expression)
    bare = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", "", bare)
    words = set(re.findall(r"\b[a-z_:][a-z0-9_:]*\b(?!\s*\()", bare))
    return words - {"and", "or", "unless", "bool", "by", "without", "on", "e"}


def known(name: str) -> bool:
    return name in METRICS | _OF_ALL or re.sub(r"_(bucket|count|sum)$", "", name) in METRICS


def test_alerts_read_metrics_that_there_are() -> None:
    document = yaml.safe_load((DEPLOY / "monitoring/alerts.yaml").read_text())
    assert document["kind"] == "PrometheusRule"
    rules = [rule for group in document["spec"]["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 8
    for rule in rules:
        assert names_in(rule["expr"])
        assert all(map(known, names_in(rule["expr"]))), rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_the_dashboard_reads_metrics_that_there_are() -> None:
    board = json.loads((DEPLOY / "monitoring/dashboard.json").read_text())
    targets = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert len(targets) > 10
    for expression in targets:
        unknown = [name for name in names_in(expression) if not known(name)]
        assert not unknown, (expression, unknown)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
