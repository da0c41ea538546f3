"""Kubernetes JSON: what a real API server of 1.36 sent, and what is wrong with what nobody should send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from zones.decode import decode_json, Decoder, key_of
from zones.errors import BadObject
from zones.objects import (
    address_from_dashed,
    dashed_address,
    Endpoint,
    EndpointSlice,
    ImportedSlice,
    Kind,
    Namespace,
    Pod,
    Port,
    Service,
    ServiceImport,
)
from zones.records import address_from_text, address_to_text
from zones.selectors import Scope, Selector
from zones.shapes import Head

RECORDINGS = Path(__file__).parent.parent / "recordings"


def body(name: str) -> bytes:
    data = (RECORDINGS / name).read_bytes()
    for gap in (b"\r\n\r\n", b"\n\n"):
        if gap in data:
            return data.partition(gap)[2]
    raise AssertionError(name)


def listed(name: str, kind: Kind) -> list[Any]:
    items = msgspec.json.decode(body(name), type=dict[str, msgspec.Raw])["items"]
    return [Decoder().build(decode_json(kind, item)) for item in msgspec.json.decode(items, type=list[msgspec.Raw])]


def test_services_as_recorded() -> None:
    services = {service.name: service for service in listed("list-services-limit-rv0.http", Kind.SERVICE)}
    assert services[b"kubernetes"] == Service(
        b"default", b"kubernetes", (bytes((10, 96, 0, 1)),), (Port(b"https", b"tcp", 443),)
    )
    assert services[b"cname"].external_name is not None
    assert services[b"db"].is_headless
    assert not services[b"db"].publish_not_ready
    assert services[b"db-all"].publish_not_ready
    assert sorted(map(len, services[b"dual"].cluster_ips)) == [4, 16]
    assert [len(address) for address in services[b"six"].cluster_ips] == [16]


def test_slices_as_recorded() -> None:
    slices = [piece for piece in listed("list-endpointslices.http", Kind.ENDPOINT_SLICE) if piece is not None]
    by_service: dict[bytes, list[EndpointSlice]] = {}
    for piece in slices:
        by_service.setdefault(piece.service, []).append(piece)
    assert {endpoint.hostname for endpoint in by_service[b"db"][0].endpoints} == {b"db-0", b"db-1"}
    assert len(by_service[b"dual"]) == 2
    assert by_service[b"kubernetes"][0].ports == (Port(b"https", b"tcp", 16443),)
    # the imported slice carries another label, and so belongs to no Service here
    assert len(slices) == len(listed("list-endpointslices.http", Kind.ENDPOINT_SLICE)) - 1


def test_namespaces_and_pods_as_recorded() -> None:
    assert Namespace(b"demo") in listed("list-namespaces.http", Kind.NAMESPACE)
    pods = [pod for pod in listed("list-pods-node-a.http", Kind.POD) if pod is not None]
    assert all(isinstance(pod, Pod) and pod.addresses for pod in pods)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("watch-services.http", Kind.SERVICE),
        ("watch-endpointslices.http", Kind.ENDPOINT_SLICE),
        ("watch-list-endpointslices.http", Kind.ENDPOINT_SLICE),
        ("watch-pods.http", Kind.POD),
        ("watch-namespaces.http", Kind.NAMESPACE),
    ],
)
def test_every_event_as_recorded_decodes(name: str, kind: Kind) -> None:
    seen = 0
    for line in body(name).splitlines():
        event = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        if msgspec.json.decode(event["type"]) in ("ADDED", "MODIFIED", "DELETED"):
            json = decode_json(kind, event["object"])
            Decoder().build(json)
            assert key_of(kind, json.metadata).name
            seen += 1
        else:  # a bookmark, whose other fields are null or empty
            assert msgspec.json.decode(event["object"], type=Head).metadata is not None
            decode_json(kind, event["object"])
    assert seen


def test_a_slice_whose_unready_publishing_the_controller_wrote() -> None:
    """``publishNotReadyAddresses`` gives ready true and serving false: ready is all that is looked at."""
    lines = [
        line
        for line in body("watch-endpointslices.http").splitlines()
        if b'"serving":false' in line and b'"ready":true' in line
    ]
    assert lines
    piece = Decoder().build(
        decode_json(Kind.ENDPOINT_SLICE, msgspec.json.decode(lines[0], type=dict[str, msgspec.Raw])["object"])
    )
    assert isinstance(piece, EndpointSlice)
    assert any(endpoint.is_ready for endpoint in piece.endpoints)


def convert(kind: Kind, **fields: Any) -> Any:
    return Decoder().convert(kind, {"metadata": {"name": "x"}, **fields})


@pytest.mark.parametrize(
    ("kind", "fields", "path"),
    [
        (Kind.SERVICE, {"metadata": {"name": "Web"}}, "metadata.name"),
        (Kind.SERVICE, {"metadata": {}}, "metadata.name"),
        (Kind.SERVICE, {"metadata": {"name": "a" * 64}}, "metadata.name"),
        (Kind.SERVICE, {"metadata": {"name": "a.b"}}, "metadata.name"),
        (Kind.SERVICE, {"metadata": {"name": "x", "namespace": "a_b"}}, "metadata.namespace"),
        (Kind.SERVICE, {"spec": {"clusterIP": "10.0.0.300"}}, "spec.clusterIPs[0]"),
        (Kind.SERVICE, {"spec": {"clusterIP": "010.0.0.1"}}, "spec.clusterIPs[0]"),
        (Kind.SERVICE, {"spec": {"clusterIP": 5}}, "spec.clusterIP"),
        (Kind.SERVICE, {"spec": {"ports": [{"port": 80}, {"port": 70000}]}}, "spec.ports[1].port"),
        (Kind.SERVICE, {"spec": {"ports": [{"port": "80"}]}}, "spec.ports[0].port"),
        (Kind.SERVICE, {"spec": {"ports": [{"port": 80, "name": "a b"}]}}, "spec.ports[0].name"),
        (Kind.SERVICE, {"spec": {"type": "ExternalName"}}, "spec.externalName"),
        (Kind.SERVICE, {"spec": {"type": "ExternalName", "externalName": "a..b"}}, "spec.externalName"),
        (
            Kind.ENDPOINT_SLICE,
            {"metadata": {"name": "x", "labels": {"kubernetes.io/service-name": "w"}}},
            "addressType",
        ),
        (Kind.POD, {"status": {"podIP": "here"}}, "status.podIPs[0].ip"),
    ],
)
def test_what_is_wrong_is_named(kind: Kind, fields: dict[str, Any], path: str) -> None:
    with pytest.raises(BadObject) as caught:
        convert(kind, **fields)
    assert caught.value.field == path


def test_the_longest_port_name_has_no_srv_and_costs_nothing_else() -> None:
    made = convert(Kind.SERVICE, spec={"ports": [{"port": 80, "name": "p" * 63}, {"port": 81, "name": "p" * 62}]})
    assert [port.name for port in made.ports] == [b"", b"p" * 62]


@pytest.mark.parametrize(
    "text", [b'{"metadata":{"name":"caf\xe9"}}', b'{"a":' * 100_000, b'{"metadata":', b"[]", b"\xff"]
)
def test_what_is_not_json_is_a_bad_object(text: bytes) -> None:
    with pytest.raises(BadObject):
        decode_json(Kind.SERVICE, text)


def a_slice(**fields: Any) -> Any:
    return Decoder().convert(
        Kind.ENDPOINT_SLICE,
        {"metadata": {"name": "x", "labels": {"kubernetes.io/service-name": "w"}}, "addressType": "IPv4", **fields},
    )


def test_readiness() -> None:
    conditions: list[Any] = [{"ready": True}, {"ready": None}, {}, None, {"ready": False, "serving": True}]
    piece = a_slice(endpoints=[{"addresses": ["10.0.0.1"], "conditions": condition} for condition in conditions])
    assert [endpoint.is_ready for endpoint in piece.endpoints] == [True, True, True, True, False]


def test_slices_that_have_no_records() -> None:
    assert a_slice(addressType="FQDN") is None
    assert convert(Kind.ENDPOINT_SLICE, addressType="IPv4") is None
    assert a_slice(endpoints=None, ports=None) == EndpointSlice(b"default", b"x", b"w")


def test_an_address_of_the_other_family_is_named() -> None:
    with pytest.raises(BadObject, match="an IPv4 address"):
        a_slice(endpoints=[{"addresses": ["fd00::1"]}])


def test_addresses_are_canonical() -> None:
    piece = a_slice(addressType="IPv6", endpoints=[{"addresses": ["FD00:0:0::0001"]}])
    assert piece.endpoints == (Endpoint(bytes.fromhex("fd00" + "0" * 27 + "1")),)


def test_endpoint_pod_names() -> None:
    endpoints = [
        {"addresses": ["10.0.0.1"], "hostname": "h", "targetRef": {"kind": "Pod", "name": "pod-a"}},
        {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "pod-b"}},
        {"addresses": ["10.0.0.3"], "targetRef": {"kind": "Pod", "name": "pod.with.dots"}},
        {"addresses": ["10.0.0.4"]},
    ]
    value = {
        "metadata": {"name": "x", "labels": {"kubernetes.io/service-name": "w"}},
        "addressType": "IPv4",
        "endpoints": endpoints,
    }
    piece = Decoder(endpoint_pod_names=True).convert(Kind.ENDPOINT_SLICE, value)
    assert isinstance(piece, EndpointSlice)
    assert [endpoint.label for endpoint in piece.endpoints] == [b"h", b"pod-b", b"10-0-0-3", b"10-0-0-4"]


@pytest.mark.parametrize("value", ["true", "True"])
def test_the_old_annotation(value: str) -> None:
    meta = {"name": "x", "annotations": {"service.alpha.kubernetes.io/tolerate-unready-endpoints": value}}
    assert convert(Kind.SERVICE, metadata=meta, spec={"clusterIP": "None"}).publish_not_ready


def test_pods() -> None:
    status = {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}
    assert [len(address) for address in convert(Kind.POD, status=status).addresses] == [4, 16]
    assert [len(address) for address in convert(Kind.POD, status={"podIP": "10.0.0.1"}).addresses] == [4]
    for phase in ("Succeeded", "Failed", "Unknown"):
        assert convert(Kind.POD, status={**status, "phase": phase}) is None


def test_scope() -> None:
    scope = Scope(namespaces=frozenset({"shop"}), labels=Selector.from_text("app=web"))
    decoder = Decoder(scope=scope)
    meta = {"name": "x", "namespace": "shop", "labels": {"app": "web"}}
    assert decoder.convert(Kind.SERVICE, {"metadata": meta}) is not None
    assert decoder.convert(Kind.SERVICE, {"metadata": {**meta, "labels": {}}}) is None
    assert decoder.convert(Kind.SERVICE, {"metadata": {**meta, "namespace": "other"}}) is None
    assert decoder.convert(Kind.NAMESPACE, {"metadata": {"name": "other"}}) is None


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ("", {}, True),
        ("app=web", {"app": "web"}, True),
        ("app==web", {"app": "api"}, False),
        ("app!=web", {}, True),
        ("app!=web", {"app": "web"}, False),
        ("app in (web, api)", {"app": "api"}, True),
        ("app notin (web,api)", {"app": "api"}, False),
        ("app notin (web,api)", {}, True),
        ("app", {"app": ""}, True),
        ("!app", {"app": ""}, False),
        ("app=web,tier!=db , !old", {"app": "web"}, True),
        ("example.com/app=web", {"example.com/app": "web"}, True),
        ("app=", {"app": ""}, True),
    ],
)
def test_selectors(selector: str, labels: dict[str, str], matches: bool) -> None:
    assert Selector.from_text(selector).matches(labels) is matches


@pytest.mark.parametrize("selector", ["app=a b", "=x", "app in web", "app in (a b)", "a,,b", "app~web", "!"])
def test_bad_selectors(selector: str) -> None:
    with pytest.raises(ValueError):
        Selector.from_text(selector)


@pytest.mark.parametrize(
    "text", ["10.0.0.1", "fd00::1", "5678:abcd::", "::1", "::", "::ffff:10.0.0.1", "1:2:3:4:5:6:7:8"]
)
def test_dashed_addresses_round_trip(text: str) -> None:
    address = address_from_text(text)
    assert address_from_dashed(dashed_address(address)) == address
    assert address_from_text(address_to_text(address)) == address


@pytest.mark.parametrize("name", ["list-serviceimports-v1alpha1.http", "list-serviceimports-v1beta1.http"])
def test_imports_as_recorded(name: str) -> None:
    imports = listed(name, Kind.SERVICE_IMPORT)
    assert imports[0] == ServiceImport(
        b"demo", b"imp-v1alpha1", (bytes((10, 112, 0, 9)),), (Port(b"http", b"tcp", 80),)
    )


def test_the_imported_slice_as_recorded() -> None:
    items = msgspec.json.decode(body("list-endpointslices.http"), type=dict[str, msgspec.Raw])["items"]
    decoder = Decoder(imports=True)
    pieces = [
        decoder.build(decode_json(Kind.ENDPOINT_SLICE, item))
        for item in msgspec.json.decode(items, type=list[msgspec.Raw])
    ]
    (imported,) = [piece for piece in pieces if isinstance(piece, ImportedSlice)]
    assert (imported.service, imported.cluster) == (b"imp-v1alpha1", (b"c2",))


def test_a_slice_of_the_slice_controller_is_no_import() -> None:
    json = {
        "metadata": {
            "name": "web-1",
            "namespace": "default",
            "labels": {
                "kubernetes.io/service-name": "web",
                "multicluster.kubernetes.io/service-name": "web",
                "multicluster.kubernetes.io/source-cluster": "c1",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}],
    }
    assert type(Decoder(imports=True).convert(Kind.ENDPOINT_SLICE, json)) is EndpointSlice
    del json["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"]  # type: ignore[index]
    assert type(Decoder(imports=True).convert(Kind.ENDPOINT_SLICE, json)) is ImportedSlice
    assert Decoder().convert(Kind.ENDPOINT_SLICE, json) is None
