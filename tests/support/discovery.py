"""An API server that knows which kinds there are, and has no objects: enough for ``kubectl apply --dry-run=client``."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RESOURCES: dict[str, dict[str, tuple[str, bool]]] = {
    "v1": {
        "configmaps": ("ConfigMap", True),
        "serviceaccounts": ("ServiceAccount", True),
        "services": ("Service", True),
    },
    "apps/v1": {"daemonsets": ("DaemonSet", True), "deployments": ("Deployment", True)},
    "autoscaling/v2": {"horizontalpodautoscalers": ("HorizontalPodAutoscaler", True)},
    "monitoring.coreos.com/v1": {
        "podmonitors": ("PodMonitor", True),
        "prometheusrules": ("PrometheusRule", True),
        "servicemonitors": ("ServiceMonitor", True),
    },
    "networking.k8s.io/v1": {"networkpolicies": ("NetworkPolicy", True)},
    "policy/v1": {"poddisruptionbudgets": ("PodDisruptionBudget", True)},
    "rbac.authorization.k8s.io/v1": {
        "clusterrolebindings": ("ClusterRoleBinding", False),
        "clusterroles": ("ClusterRole", False),
        "rolebindings": ("RoleBinding", True),
        "roles": ("Role", True),
    },
    "admissionregistration.k8s.io/v1": {
        "mutatingadmissionpolicies": ("MutatingAdmissionPolicy", False),
        "mutatingadmissionpolicybindings": ("MutatingAdmissionPolicyBinding", False),
    },
}
"""By API version: the path's last part, the kind, whether it is in a namespace."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = _page(self.path.partition("?")[0])
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(missing if found is None else found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


def _page(path: str) -> dict[str, Any] | None:
    if path == "/version":
        return {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = []
        for version in RESOURCES:
            group, is_there, number = version.partition("/")
            if is_there:
                one = {"groupVersion": version, "version": number}
                groups.append({"name": group, "versions": [one], "preferredVersion": one})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    if version not in RESOURCES:
        return None
    rows = [
        {
            "name": name,
            "singularName": "",
            "namespaced": spaced,
            "kind": kind,
            "verbs": ["create", "get", "list", "patch"],
        }
        for name, (kind, spaced) in RESOURCES[version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": rows}


@contextmanager
def discovery() -> Iterator[str]:
    """Serve it; yield the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
