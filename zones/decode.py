"""Kubernetes JSON, as the API server sends it or a manifest says it, into the objects of ``zones.objects``.

Only the fields that matter are decoded (msgspec skips the rest); any of them may be null, as bookmarks
have them. A value of the wrong type, or one that DNS cannot carry, raises BadObject with its path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast, TypeVar

import msgspec

from zones.errors import BadName, BadObject
from zones.names import Name
from zones.objects import (
    Endpoint,
    EndpointSlice,
    ImportedSlice,
    Kind,
    Namespace,
    Object,
    ObjectKey,
    Pod,
    Port,
    SearchPath,
    Service,
    ServiceImport,
    ZonedEndpoint,
)
from zones.records import address_from_text
from zones.selectors import Scope

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

MAX_PORT_NAME = 62
"""A port's name in SRV has an underscore in front; the one longer name that the API takes has no SRV record."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PORT_NAME = re.compile(r"[a-z0-9A-Z]([-a-z0-9A-Z]{0,61}[a-z0-9A-Z])?")
_ENDED = frozenset({"Succeeded", "Failed", "Unknown"})


class _Json(msgspec.Struct, rename="camel", gc=False):
    """A JSON object of the API; keys that are not named here are skipped."""


class Meta(_Json):
    """``metadata``, as far as it is needed here."""

    name: str | None = None
    namespace: str | None = None
    resource_version: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class HeadMeta(_Json):
    """The part of ``metadata`` that tells which object it is."""

    name: str | None = None
    namespace: str | None = None
    resource_version: str | None = None


class Head(_Json):
    """What every object has; read first, or alone where the rest does not count or cannot be read."""

    kind: str | None = None
    api_version: str | None = None
    metadata: HeadMeta | None = None


class NamespaceJson(_Json):
    """``v1`` Namespace."""

    metadata: Meta | None = None


class ServicePortJson(_Json):
    """``spec.ports[]`` of a Service, ``ports[]`` of a slice."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class ServiceSpecJson(_Json):
    """``spec`` of a Service."""

    type: str | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ports: list[ServicePortJson] | None = None
    external_name: str | None = None
    publish_not_ready_addresses: bool | None = None


class ServiceJson(_Json):
    """``v1`` Service."""

    metadata: Meta | None = None
    spec: ServiceSpecJson | None = None


class ConditionsJson(_Json):
    """``endpoints[].conditions`` of a slice."""

    ready: bool | None = None


class TargetRefJson(_Json):
    """``endpoints[].targetRef`` of a slice."""

    kind: str | None = None
    name: str | None = None


class EndpointJson(_Json):
    """``endpoints[]`` of a slice."""

    addresses: list[str] | None = None
    conditions: ConditionsJson | None = None
    hostname: str | None = None
    target_ref: TargetRefJson | None = None
    zone: str | None = None


class EndpointSliceJson(_Json):
    """``discovery.k8s.io/v1`` EndpointSlice."""

    metadata: Meta | None = None
    address_type: str | None = None
    endpoints: list[EndpointJson] | None = None
    ports: list[ServicePortJson] | None = None


class PodIPJson(_Json):
    """``status.podIPs[]`` of a pod."""

    ip: str | None = None


class PodStatusJson(_Json):
    """``status`` of a pod."""

    phase: str | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    pod_ips: list[PodIPJson] | None = msgspec.field(default=None, name="podIPs")


class PodDnsOptionJson(_Json):
    """``spec.dnsConfig.options[]`` of a pod."""

    name: str | None = None


class PodDnsJson(_Json):
    """``spec.dnsConfig`` of a pod."""

    searches: list[str] | None = None
    options: list[PodDnsOptionJson] | None = None


class PodSpecJson(_Json):
    """``spec`` of a pod."""

    host_network: bool | None = None
    dns_policy: str | None = None
    dns_config: PodDnsJson | None = None


class PodJson(_Json):
    """``v1`` Pod."""

    metadata: Meta | None = None
    spec: PodSpecJson | None = None
    status: PodStatusJson | None = None


class ServiceImportSpecJson(_Json):
    """``spec`` of a ServiceImport."""

    type: str | None = None
    ips: list[str] | None = None
    ports: list[ServicePortJson] | None = None


class ServiceImportJson(_Json):
    """``multicluster.x-k8s.io`` ServiceImport, v1alpha1 and v1beta1."""

    metadata: Meta | None = None
    spec: ServiceImportSpecJson | None = None


ObjectJson = NamespaceJson | ServiceJson | EndpointSliceJson | PodJson | ServiceImportJson

JSON_OF: Mapping[Kind, type[ObjectJson]] = {
    Kind.NAMESPACE: NamespaceJson,
    Kind.SERVICE: ServiceJson,
    Kind.ENDPOINT_SLICE: EndpointSliceJson,
    Kind.POD: PodJson,
    Kind.SERVICE_IMPORT: ServiceImportJson,
}
"""The JSON shape of each kind."""

API_VERSIONS: Mapping[Kind, tuple[str, ...]] = {
    Kind.NAMESPACE: ("v1",),
    Kind.SERVICE: ("v1",),
    Kind.ENDPOINT_SLICE: ("discovery.k8s.io/v1",),
    Kind.POD: ("v1",),
    Kind.SERVICE_IMPORT: ("multicluster.x-k8s.io/v1beta1", "multicluster.x-k8s.io/v1alpha1"),
}
"""The versions of each kind whose shape is that above, the preferred one first."""

KIND_OF_JSON: Mapping[type[ObjectJson], Kind] = {shape: kind for kind, shape in JSON_OF.items()}


class Decoder:
    """Makes objects of their JSON.

    *endpoint_pod_names* gives an endpoint without a hostname the name of its pod for a label (CoreDNS's option
    of that name; a pod name that is no single label is passed over). What *scope* does not admit becomes None, and so
    do slices imported from other clusters unless *imports*. With *topology_zones* endpoints keep theirs.
    """

    def __init__(
        self,
        *,
        endpoint_pod_names: bool = False,
        scope: Scope | None = None,
        imports: bool = False,
        topology_zones: bool = False,
    ) -> None:
        self._endpoint_pod_names = endpoint_pod_names
        self._imports = imports
        self._topology_zones = topology_zones
        self._scope = scope or Scope()
        self._from: dict[type, Callable[[Any], Object | None]] = {
            NamespaceJson: self._namespace,
            ServiceJson: self._service,
            EndpointSliceJson: self._endpoint_slice,
            PodJson: self._pod,
            ServiceImportJson: self._service_import,
        }

    def build(self, json: ObjectJson) -> Object | None:
        """Return the object, or None where nothing of it is shown: out of scope, an ended pod, a slice of FQDNs.

        Raises BadObject.
        """
        meta = json.metadata or Meta()
        if not self._scope.admits(KIND_OF_JSON[type(json)], meta.namespace or "default", meta.name or "", meta.labels):
            return None
        return self._from[type(json)](json)

    def convert(self, kind: Kind, value: object) -> Object | None:
        """Do the same from plain dicts and lists, as YAML gives them."""
        return self.build(convert_json(kind, value))

    def _namespace(self, json: NamespaceJson) -> Namespace:
        return Namespace(_own_name(json.metadata, _LABEL, "a DNS label"))

    def _service(self, json: ServiceJson) -> Service | None:
        meta = json.metadata or Meta()
        spec = json.spec or ServiceSpecJson()
        namespace, name = _namespace_of(meta), _own_name(meta, _LABEL, "a DNS label")
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
            _address(text, f"spec.clusterIPs[{at}]") for at, text in enumerate(ips) if text and not is_headless
        ]
        tolerates = (meta.annotations or {}).get(TOLERATE_UNREADY, "").lower() == "true"
        return Service(
            namespace,
            name,
            cluster_ips=tuple(dict.fromkeys(addresses)),
            ports=_ports(spec.ports, "spec.ports"),
            is_headless=is_headless,
            publish_not_ready=bool(spec.publish_not_ready_addresses) or tolerates,
        )

    def _endpoint_slice(self, json: EndpointSliceJson) -> EndpointSlice | None:
        meta = json.metadata or Meta()
        namespace, name = _namespace_of(meta), _own_name(meta, _SUBDOMAIN, "a DNS subdomain")
        labels = meta.labels or {}
        is_import = IMPORT_NAME_LABEL in labels and labels.get(MANAGED_BY_LABEL) != SLICE_CONTROLLER
        service = labels.get(IMPORT_NAME_LABEL if is_import else SERVICE_NAME_LABEL)
        if not service or json.address_type == "FQDN" or (is_import and not self._imports):
            return None
        if json.address_type not in ("IPv4", "IPv6"):
            raise BadObject("addressType", json.address_type, "IPv4, IPv6 or FQDN")
        octets = 4 if json.address_type == "IPv4" else 16
        endpoints: list[Endpoint] = []
        for at, endpoint in enumerate(json.endpoints or ()):
            hostname = self._hostname(endpoint, at)
            ready = endpoint.conditions is None or endpoint.conditions.ready is not False
            for number, text in enumerate(endpoint.addresses or ()):
                field = f"endpoints[{at}].addresses[{number}]"
                address = _address(text, field)
                if len(address) != octets:
                    raise BadObject(field, text, f"an {json.address_type} address")
                if self._topology_zones and endpoint.zone:
                    zone = _shared(endpoint.zone.lower().encode())
                    endpoints.append(ZonedEndpoint(address, hostname, ready, zone))
                else:
                    endpoints.append(Endpoint(address, hostname, ready))
        whole = namespace, name, service.lower().encode(), tuple(endpoints)
        ports = _ports(json.ports, "ports", may_lack_number=True)
        return ImportedSlice(*whole, ports, _cluster(labels)) if is_import else EndpointSlice(*whole, ports)

    def _service_import(self, json: ServiceImportJson) -> ServiceImport:
        meta = json.metadata or Meta()
        spec = json.spec or ServiceImportSpecJson()
        namespace, name = _namespace_of(meta), _own_name(meta, _LABEL, "a DNS label")
        if spec.type not in (None, "ClusterSetIP", "Headless"):
            raise BadObject("spec.type", spec.type, "ClusterSetIP or Headless")
        is_headless = spec.type == "Headless"
        ips = [_address(text, f"spec.ips[{at}]") for at, text in enumerate(spec.ips or ()) if text and not is_headless]
        return ServiceImport(
            namespace, name, tuple(dict.fromkeys(ips)), _ports(spec.ports, "spec.ports"), is_headless=is_headless
        )

    def _hostname(self, endpoint: EndpointJson, at: int) -> bytes:
        if endpoint.hostname:
            if not _LABEL.fullmatch(endpoint.hostname):
                raise BadObject(f"endpoints[{at}].hostname", endpoint.hostname, "a DNS label")
            return endpoint.hostname.encode()
        if self._endpoint_pod_names and endpoint.target_ref is not None:
            pod = endpoint.target_ref.name or ""
            if endpoint.target_ref.kind == "Pod" and _LABEL.fullmatch(pod):
                return pod.encode()
        return b""

    def _pod(self, json: PodJson) -> Pod | None:
        meta = json.metadata or Meta()
        namespace, name = _namespace_of(meta), _own_name(meta, _SUBDOMAIN, "a DNS subdomain")
        status = json.status or PodStatusJson()
        if status.phase in _ENDED:
            return None
        texts = [entry.ip or "" for entry in status.pod_ips or ()] or [status.pod_ip or ""]
        addresses = [_address(text, f"status.podIPs[{at}].ip") for at, text in enumerate(texts) if text]
        return Pod(namespace, name, tuple(dict.fromkeys(addresses)), _search_path(json.spec or PodSpecJson()))


def _search_path(spec: PodSpecJson) -> SearchPath:
    if spec.host_network:
        return SearchPath.UNKNOWN
    config = spec.dns_config or PodDnsJson()
    has_ndots = any(option.name == "ndots" for option in config.options or ())
    if spec.dns_policy not in (None, "ClusterFirst") or config.searches or has_ndots:
        return SearchPath.OWN
    return SearchPath.USUAL


NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for octets that are not the JSON asked for: text that is not UTF-8, endless nesting."""


def bad_json(exc: Exception) -> BadObject:
    """Turn msgspec's message, whose path is written ``$.spec.ports[0].port``, into a BadObject."""
    message, _, path = str(exc).partition(" - at ")
    field = path.strip("`").removeprefix("$.").removeprefix("$") or "object"
    if (types := re.fullmatch(r"Expected `(.+?)(?: \| null)?`, got `(.+)`", message)) is not None:
        return BadObject(field, _Kind(types[2]), _kind_text(types[1]))
    return BadObject(field, message, "JSON of a Kubernetes object")


class _Kind(str):
    """The name of a JSON type, shown as what was found: ``a string``."""

    def __repr__(self) -> str:
        return _kind_text(str(self))


def _kind_text(name: str) -> str:
    text = {"str": "string", "int": "whole number", "float": "number", "bool": "boolean", "array": "list"}.get(
        name, name
    )
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"


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


_T = TypeVar("_T")


def _cluster(labels: Mapping[str, str]) -> tuple[bytes, ...]:
    """Return the labels of the cluster id: a DNS label, or two (KEP-1645)."""
    cluster = labels.get(SOURCE_CLUSTER_LABEL, "").lower()
    parts = cluster.split(".")
    if len(parts) > 2 or not all(_LABEL.fullmatch(part) for part in parts):
        expected = "a DNS label, or two with a dot between them"
        raise BadObject(f"metadata.labels[{SOURCE_CLUSTER_LABEL}]", cluster or None, expected)
    return _shared(tuple(part.encode() for part in parts))


def _own_name(meta: Meta | None, pattern: re.Pattern[str], expected: str) -> bytes:
    name = meta.name if meta else None
    if not name or len(name) > 253 or not pattern.fullmatch(name):
        raise BadObject("metadata.name", name, expected)
    return name.encode()


def _namespace_of(meta: Meta) -> bytes:
    namespace = meta.namespace or "default"
    if not _LABEL.fullmatch(namespace):
        raise BadObject("metadata.namespace", namespace, "a DNS label")
    return namespace.encode()


def _address(text: str, field: str) -> bytes:
    try:
        return address_from_text(text)
    except ValueError as exc:
        raise BadObject(field, text, "an IP address") from exc


def _ports(ports: list[ServicePortJson] | None, field: str, *, may_lack_number: bool = False) -> tuple[Port, ...]:
    result = []
    for at, port in enumerate(ports or ()):
        if port.port is None and may_lack_number:
            continue  # EndpointSlice API: null means "all ports", which no SRV record can say
        if port.port is None or not 0 < port.port < 65_536:
            raise BadObject(f"{field}[{at}].port", port.port, "a port number from 1 to 65535")
        name = port.name or ""
        if name and not _PORT_NAME.fullmatch(name):
            raise BadObject(f"{field}[{at}].name", name, "a DNS label")
        protocol = (port.protocol or "TCP").lower()
        if not _LABEL.fullmatch(protocol) or len(protocol) > MAX_PORT_NAME:
            raise BadObject(f"{field}[{at}].protocol", port.protocol, "TCP, UDP or SCTP")
        if len(name) > MAX_PORT_NAME:
            name = ""
        result.append(Port(_shared(name.lower().encode()), _shared(protocol.encode()), port.port))
    return _shared(tuple(result))


_SHARED: dict[object, object] = {}
_MAX_SHARED = 10_000


def _shared(value: _T) -> _T:
    """Return one instance for equal values, so that ten thousand slices hold one tuple of ports; bounded."""
    if len(_SHARED) >= _MAX_SHARED:
        _SHARED.clear()
    return cast(_T, _SHARED.setdefault(value, value))
