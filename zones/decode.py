"""Kubernetes JSON, as the API server sends it or a manifest says it, into the objects of ``zones.objects``.

Only the fields that matter are decoded (msgspec skips the rest); any of them may be null, as bookmarks
have them. A value of the wrong type, or one that DNS cannot carry, raises BadObject with its path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import msgspec

from zones.claimants import gateway_of, ingress_of, outside_of, route_of
from zones.endpoints import EndpointReader
from zones.errors import BadName, BadObject
from zones.fields import address_of, LABEL, namespace_of, own_name, ports_of, shared, SUBDOMAIN
from zones.json_errors import bad_json, NOT_JSON
from zones.names import Name
from zones.objects import (
    EndpointSlice,
    ExposedService,
    ImportedSlice,
    Kind,
    Namespace,
    Object,
    ObjectKey,
    Pod,
    SearchPath,
    Service,
    ServiceImport,
)
from zones.selectors import Scope
from zones.shapes import (
    ChangedSliceJson,
    EndpointSliceJson,
    GatewayJson,
    GRPCRouteJson,
    HeadMeta,
    HTTPRouteJson,
    IngressJson,
    JSON_OF,
    KIND_OF_JSON,
    Meta,
    NamespaceJson,
    ObjectJson,
    PodDnsJson,
    PodJson,
    PodSpecJson,
    PodStatusJson,
    ServiceImportJson,
    ServiceImportSpecJson,
    ServiceJson,
    ServiceSpecJson,
    TLSRouteJson,
)

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
"""The label by which a slice belongs to a Service of its namespace (EndpointSlice API)."""

IMPORT_NAME_LABEL = "multicluster.kubernetes.io/service-name"
"""The label by which a slice belongs to a ServiceImport of its namespace (KEP-1645)."""
SOURCE_CLUSTER_LABEL = "multicluster.kubernetes.io/source-cluster"
"""The label that names the cluster that such a slice came from."""
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
SLICE_CONTROLLER = "endpointslice-controller.k8s.io"
"""Whoever manages the slices of local Services: what it made is no import, whatever else it is labelled."""

TOLERATE_UNREADY = "service.alpha.kubernetes.io/tolerate-unready-endpoints"
"""The annotation that came before ``publishNotReadyAddresses`` (Kubernetes DNS spec 2.1)."""

_ENDED = frozenset({"Succeeded", "Failed", "Unknown"})


class Decoder:
    """Makes objects of their JSON.

    *endpoint_pod_names* gives an endpoint without a hostname the name of its pod for a label (CoreDNS's option
    of that name; a pod name that is no single label is passed over). What *scope* does not admit becomes None, and so
    do slices imported from other clusters unless *imports*. With *topology_zones* endpoints keep theirs,
    with *outside* Services keep where they are reached from outside the cluster. *versions* is given the
    resourceVersion of each object that is made.
    """

    def __init__(
        self,
        *,
        endpoint_pod_names: bool = False,
        scope: Scope | None = None,
        imports: bool = False,
        topology_zones: bool = False,
        outside: bool = False,
        versions: dict[tuple[Kind, ObjectKey], str] | None = None,
    ) -> None:
        self._versions = versions
        self._endpoints = EndpointReader(pod_names=endpoint_pod_names, topology_zones=topology_zones)
        self._imports = imports
        self._outside = outside
        self._scope = scope or Scope()
        self._from: dict[type, Callable[[Any], Object | None]] = {
            NamespaceJson: self._namespace,
            ServiceJson: self._service,
            EndpointSliceJson: self._endpoint_slice,
            ChangedSliceJson: self._endpoint_slice,
            PodJson: self._pod,
            ServiceImportJson: self._service_import,
            IngressJson: ingress_of,
            GatewayJson: gateway_of,
            HTTPRouteJson: partial(route_of, Kind.HTTP_ROUTE),
            TLSRouteJson: partial(route_of, Kind.TLS_ROUTE),
            GRPCRouteJson: partial(route_of, Kind.GRPC_ROUTE),
        }

    def build(self, json: ObjectJson) -> Object | None:
        """Return the object, or None where nothing of it is shown: out of scope, an ended pod, a slice of FQDNs.

        Raises BadObject.
        """
        meta = json.metadata or Meta()
        if not self._scope.admits(KIND_OF_JSON[type(json)], meta.namespace or "default", meta.name or "", meta.labels):
            return None
        made = self._from[type(json)](json)
        if self._versions is not None and made is not None and meta.resource_version:
            kind = KIND_OF_JSON[type(json)]
            self._versions[kind, key_of(kind, meta)] = meta.resource_version
        return made

    def convert(self, kind: Kind, value: object) -> Object | None:
        """Do the same from plain dicts and lists, as YAML gives them."""
        return self.build(convert_json(kind, value))

    def _namespace(self, json: NamespaceJson) -> Namespace:
        return Namespace(own_name(json.metadata, LABEL, "a DNS label"))

    def _service(self, json: ServiceJson) -> Service | None:
        meta = json.metadata or Meta()
        spec = json.spec or ServiceSpecJson()
        namespace, name = namespace_of(meta), own_name(meta, LABEL, "a DNS label")
        if spec.type == "ExternalName":
            if not spec.external_name:
                raise BadObject("spec.externalName", spec.external_name, "a domain name")
            try:
                target = Name.from_text(spec.external_name)
            except BadName as exc:
                raise BadObject("spec.externalName", spec.external_name, f"a domain name ({exc})") from exc
            return Service(namespace, name, external_name=target)
        ips = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
        is_headless = "None" in ips
        addresses = [
            address_of(text, f"spec.clusterIPs[{at}]") for at, text in enumerate(ips) if text and not is_headless
        ]
        tolerates = (meta.annotations or {}).get(TOLERATE_UNREADY, "").lower() == "true"
        service = Service(
            namespace,
            name,
            cluster_ips=tuple(dict.fromkeys(addresses)),
            ports=ports_of(spec.ports, "spec.ports"),
            is_headless=is_headless,
            publish_not_ready=bool(spec.publish_not_ready_addresses) or tolerates,
        )
        if self._outside and (outside := outside_of(json)):
            fields = msgspec.structs.asdict(service)
            return ExposedService(**fields, outside=outside, created=meta.creation_timestamp or "")
        return service

    def _endpoint_slice(self, json: EndpointSliceJson | ChangedSliceJson) -> EndpointSlice | None:
        meta = json.metadata or Meta()
        namespace, name = namespace_of(meta), own_name(meta, SUBDOMAIN, "a DNS subdomain")
        labels = meta.labels or {}
        is_import = IMPORT_NAME_LABEL in labels and labels.get(MANAGED_BY_LABEL) != SLICE_CONTROLLER
        service = labels.get(IMPORT_NAME_LABEL if is_import else SERVICE_NAME_LABEL)
        if not service or json.address_type == "FQDN" or (is_import and not self._imports):
            return None
        if json.address_type not in ("IPv4", "IPv6"):
            raise BadObject("addressType", json.address_type, "IPv4, IPv6 or FQDN")
        octets = 4 if json.address_type == "IPv4" else 16
        if isinstance(json, ChangedSliceJson):
            endpoints = self._endpoints.read_again(
                ObjectKey(namespace, name), json.endpoints or (), octets, json.event_octets
            )
        else:
            endpoints = tuple(self._endpoints.read(json.endpoints or (), octets))
        whole = namespace, name, service.lower().encode(), endpoints
        ports = ports_of(json.ports, "ports", may_lack_number=True)
        return ImportedSlice(*whole, ports, _cluster(labels)) if is_import else EndpointSlice(*whole, ports)

    def _service_import(self, json: ServiceImportJson) -> ServiceImport:
        meta = json.metadata or Meta()
        spec = json.spec or ServiceImportSpecJson()
        namespace, name = namespace_of(meta), own_name(meta, LABEL, "a DNS label")
        if spec.type not in (None, "ClusterSetIP", "Headless"):
            raise BadObject("spec.type", spec.type, "ClusterSetIP or Headless")
        is_headless = spec.type == "Headless"
        ips = [
            address_of(text, f"spec.ips[{at}]") for at, text in enumerate(spec.ips or ()) if text and not is_headless
        ]
        return ServiceImport(
            namespace, name, tuple(dict.fromkeys(ips)), ports_of(spec.ports, "spec.ports"), is_headless=is_headless
        )

    def _pod(self, json: PodJson) -> Pod | None:
        meta = json.metadata or Meta()
        namespace, name = namespace_of(meta), own_name(meta, SUBDOMAIN, "a DNS subdomain")
        status = json.status or PodStatusJson()
        if status.phase in _ENDED:
            return None
        texts = [entry.ip or "" for entry in status.pod_ips or ()] or [status.pod_ip or ""]
        addresses = [address_of(text, f"status.podIPs[{at}].ip") for at, text in enumerate(texts) if text]
        return Pod(namespace, name, tuple(dict.fromkeys(addresses)), _search_path(json.spec or PodSpecJson()))


def _search_path(spec: PodSpecJson) -> SearchPath:
    if spec.host_network:
        return SearchPath.UNKNOWN
    config = spec.dns_config or PodDnsJson()
    has_ndots = any(option.name == "ndots" for option in config.options or ())
    if spec.dns_policy not in (None, "ClusterFirst") or config.searches or has_ndots:
        return SearchPath.OWN
    return SearchPath.USUAL


_DECODERS: Mapping[Kind, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(shape) for kind, shape in JSON_OF.items()
}


def decode_json(kind: Kind, text: bytes | msgspec.Raw) -> ObjectJson:
    """Decode one object's JSON text. Raises BadObject."""
    try:
        return cast(ObjectJson, _DECODERS[kind].decode(text))
    except NOT_JSON as exc:
        raise bad_json(exc) from exc


def convert_json(kind: Kind, value: object) -> ObjectJson:
    """Do the same for dicts and lists. Raises BadObject."""
    try:
        return msgspec.convert(value, JSON_OF[kind])
    except msgspec.ValidationError as exc:
        raise bad_json(exc) from exc


def key_of(kind: Kind, meta: Meta | HeadMeta | None) -> ObjectKey:
    """Return what names an object in the store, whatever else may be wrong with it."""
    name = ((meta and meta.name) or "").encode()
    if kind is Kind.NAMESPACE:
        return ObjectKey(b"", name)
    return ObjectKey(((meta and meta.namespace) or "default").encode(), name)


def _cluster(labels: Mapping[str, str]) -> tuple[bytes, ...]:
    """Return the labels of the cluster id: a DNS label, or two (KEP-1645)."""
    cluster = labels.get(SOURCE_CLUSTER_LABEL, "").lower()
    parts = cluster.split(".")
    if len(parts) > 2 or not all(LABEL.fullmatch(part) for part in parts):
        expected = "a DNS label, or two with a dot between them"
        raise BadObject(f"metadata.labels[{SOURCE_CLUSTER_LABEL}]", cluster or None, expected)
    return shared(tuple(part.encode() for part in parts))
