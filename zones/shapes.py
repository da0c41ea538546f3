"""The JSON of Kubernetes objects, as far as it matters to DNS: msgspec skips the rest.

Any field may be null, as bookmarks have them. What the values may be ``zones.decode`` says.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from zones.objects import Kind


class Json(msgspec.Struct, rename="camel", gc=False):
    """A JSON object of the API; keys that are not named here are skipped."""


class Meta(Json):
    """``metadata``, as far as it is needed here."""

    name: str | None = None
    namespace: str | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class HeadMeta(Json):
    """The part of ``metadata`` that tells which object it is."""

    name: str | None = None
    namespace: str | None = None
    resource_version: str | None = None


class Head(Json):
    """What every object has; read first, or alone where the rest does not count or cannot be read."""

    kind: str | None = None
    api_version: str | None = None
    metadata: HeadMeta | None = None


class NamespaceJson(Json):
    """``v1`` Namespace."""

    metadata: Meta | None = None


class ServicePortJson(Json):
    """``spec.ports[]`` of a Service, ``ports[]`` of a slice."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class ServiceSpecJson(Json):
    """``spec`` of a Service."""

    type: str | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ports: list[ServicePortJson] | None = None
    external_name: str | None = None
    publish_not_ready_addresses: bool | None = None
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")


class IngressPointJson(Json):
    """``status.loadBalancer.ingress[]`` of a Service or an Ingress."""

    ip: str | None = None
    hostname: str | None = None


class LoadBalancerJson(Json):
    """``status.loadBalancer``."""

    ingress: list[IngressPointJson] | None = None


class BalancedStatusJson(Json):
    """``status`` of a Service or an Ingress."""

    load_balancer: LoadBalancerJson | None = None


class ServiceJson(Json):
    """``v1`` Service."""

    metadata: Meta | None = None
    spec: ServiceSpecJson | None = None
    status: BalancedStatusJson | None = None


class ConditionsJson(Json):
    """``endpoints[].conditions`` of a slice."""

    ready: bool | None = None


class TargetRefJson(Json):
    """``endpoints[].targetRef`` of a slice."""

    kind: str | None = None
    name: str | None = None


class EndpointJson(Json):
    """``endpoints[]`` of a slice."""

    addresses: list[str] | None = None
    conditions: ConditionsJson | None = None
    hostname: str | None = None
    target_ref: TargetRefJson | None = None
    zone: str | None = None


class EndpointSliceJson(Json):
    """``discovery.k8s.io/v1`` EndpointSlice."""

    metadata: Meta | None = None
    address_type: str | None = None
    endpoints: list[EndpointJson] | None = None
    ports: list[ServicePortJson] | None = None


class ChangedSliceJson(Json):
    """The same, of one whose endpoints are for the most part as they were: see ``zones.endpoints``.

    ``event_octets`` is set by whoever reads it: the length of what ``endpoints`` are parts of.
    """

    metadata: Meta | None = None
    address_type: str | None = None
    endpoints: list[msgspec.Raw] | None = None
    ports: list[ServicePortJson] | None = None
    event_octets: int = 0


class PodIPJson(Json):
    """``status.podIPs[]`` of a pod."""

    ip: str | None = None


class PodStatusJson(Json):
    """``status`` of a pod."""

    phase: str | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    pod_ips: list[PodIPJson] | None = msgspec.field(default=None, name="podIPs")


class PodDnsOptionJson(Json):
    """``spec.dnsConfig.options[]`` of a pod."""

    name: str | None = None


class PodDnsJson(Json):
    """``spec.dnsConfig`` of a pod."""

    searches: list[str] | None = None
    options: list[PodDnsOptionJson] | None = None


class PodSpecJson(Json):
    """``spec`` of a pod."""

    host_network: bool | None = None
    dns_policy: str | None = None
    dns_config: PodDnsJson | None = None


class PodJson(Json):
    """``v1`` Pod."""

    metadata: Meta | None = None
    spec: PodSpecJson | None = None
    status: PodStatusJson | None = None


class ServiceImportSpecJson(Json):
    """``spec`` of a ServiceImport."""

    type: str | None = None
    ips: list[str] | None = None
    ports: list[ServicePortJson] | None = None


class ServiceImportJson(Json):
    """``multicluster.x-k8s.io`` ServiceImport, v1alpha1 and v1beta1."""

    metadata: Meta | None = None
    spec: ServiceImportSpecJson | None = None


class IngressRuleJson(Json):
    """``spec.rules[]`` of an Ingress."""

    host: str | None = None


class IngressSpecJson(Json):
    """``spec`` of an Ingress."""

    rules: list[IngressRuleJson] | None = None


class IngressJson(Json):
    """``networking.k8s.io/v1`` Ingress."""

    metadata: Meta | None = None
    spec: IngressSpecJson | None = None
    status: BalancedStatusJson | None = None


class ListenerJson(Json):
    """``spec.listeners[]`` of a Gateway."""

    name: str | None = None
    hostname: str | None = None
    port: int | None = None


class GatewaySpecJson(Json):
    """``spec`` of a Gateway."""

    listeners: list[ListenerJson] | None = None


class GatewayAddressJson(Json):
    """``status.addresses[]`` of a Gateway."""

    type: str | None = None
    value: str | None = None


class GatewayStatusJson(Json):
    """``status`` of a Gateway."""

    addresses: list[GatewayAddressJson] | None = None


class GatewayJson(Json):
    """``gateway.networking.k8s.io`` Gateway."""

    metadata: Meta | None = None
    spec: GatewaySpecJson | None = None
    status: GatewayStatusJson | None = None


class ParentRefJson(Json):
    """``spec.parentRefs[]`` of a route."""

    group: str | None = None
    kind: str | None = None
    namespace: str | None = None
    name: str | None = None
    section_name: str | None = None
    port: int | None = None


class RouteSpecJson(Json):
    """``spec`` of a route."""

    hostnames: list[str] | None = None
    parent_refs: list[ParentRefJson] | None = None


class ConditionJson(Json):
    """``status.parents[].conditions[]`` of a route."""

    type: str | None = None
    status: str | None = None


class RouteParentJson(Json):
    """``status.parents[]`` of a route."""

    parent_ref: ParentRefJson | None = None
    conditions: list[ConditionJson] | None = None


class RouteStatusJson(Json):
    """``status`` of a route."""

    parents: list[RouteParentJson] | None = None


class RouteJson(Json):
    """What the routes of ``gateway.networking.k8s.io`` have in common."""

    metadata: Meta | None = None
    spec: RouteSpecJson | None = None
    status: RouteStatusJson | None = None


class HTTPRouteJson(RouteJson):
    """HTTPRoute."""


class TLSRouteJson(RouteJson):
    """TLSRoute."""


class GRPCRouteJson(RouteJson):
    """GRPCRoute."""


ObjectJson = (
    NamespaceJson
    | ServiceJson
    | EndpointSliceJson
    | ChangedSliceJson
    | PodJson
    | ServiceImportJson
    | IngressJson
    | GatewayJson
    | RouteJson
)

JSON_OF: Mapping[Kind, type[ObjectJson]] = {
    Kind.NAMESPACE: NamespaceJson,
    Kind.SERVICE: ServiceJson,
    Kind.ENDPOINT_SLICE: EndpointSliceJson,
    Kind.POD: PodJson,
    Kind.SERVICE_IMPORT: ServiceImportJson,
    Kind.INGRESS: IngressJson,
    Kind.GATEWAY: GatewayJson,
    Kind.HTTP_ROUTE: HTTPRouteJson,
    Kind.TLS_ROUTE: TLSRouteJson,
    Kind.GRPC_ROUTE: GRPCRouteJson,
}
"""The JSON shape of each kind."""

API_VERSIONS: Mapping[Kind, tuple[str, ...]] = {
    Kind.NAMESPACE: ("v1",),
    Kind.SERVICE: ("v1",),
    Kind.ENDPOINT_SLICE: ("discovery.k8s.io/v1",),
    Kind.POD: ("v1",),
    Kind.SERVICE_IMPORT: ("multicluster.x-k8s.io/v1beta1", "multicluster.x-k8s.io/v1alpha1"),
    Kind.INGRESS: ("networking.k8s.io/v1",),
    Kind.GATEWAY: ("gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"),
    Kind.HTTP_ROUTE: ("gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"),
    Kind.TLS_ROUTE: (
        "gateway.networking.k8s.io/v1",
        "gateway.networking.k8s.io/v1alpha3",
        "gateway.networking.k8s.io/v1alpha2",
    ),
    Kind.GRPC_ROUTE: ("gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"),
}
"""The versions of each kind whose shape is that above, the preferred one first."""

KIND_OF_JSON: Mapping[type[ObjectJson], Kind] = {
    **{shape: kind for kind, shape in JSON_OF.items()},
    ChangedSliceJson: Kind.ENDPOINT_SLICE,
}
