"""Manifests followed as they change; what is broken is told, and costs nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import dns.rcode
import pytest
import yaml

from tests.support.client import addresses, lookup, wait_for_addresses
from tests.support.kube import endpoint_slice, namespace, service
from tests.support.process import kdns, run_kdns

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."
API = "api.default.svc.cluster.local."


def write(path: Path, *objects: Any) -> None:
    """Write as kubectl and editors do: a new file put in the old one's place."""
    text = json.dumps(objects[0]) if path.suffix == ".json" else yaml.safe_dump_all(objects)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)


def test_follows_files(tmp_path: Path) -> None:
    write(tmp_path / "web.yaml", service("web", "10.96.0.1"))
    with kdns("--manifests", tmp_path) as server:
        server.wait_for("synced")
        for _ in range(4):
            assert addresses(server.port, WEB) == {"10.96.0.1"}
            assert addresses(server.port, API) == set()
        write(tmp_path / "api.json", service("api", "10.96.0.2"))
        wait_for_addresses(server.port, API, {"10.96.0.2"})
        write(tmp_path / "web.yaml", service("web", "10.96.0.9"))
        wait_for_addresses(server.port, WEB, {"10.96.0.9"})
        (tmp_path / "api.json").rename(tmp_path / "api.txt")
        wait_for_addresses(server.port, API, set())
        folder = tmp_path / "more"
        folder.mkdir()
        write(folder / "api.yml", service("api", "10.96.0.3"))
        wait_for_addresses(server.port, API, {"10.96.0.3"})
        (folder / "api.yml").unlink()
        wait_for_addresses(server.port, API, set())


def test_a_single_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    write(path, service("web", "10.96.0.1"))
    with kdns("--manifests", path) as server:
        server.wait_for("synced")
        write(path, service("web", "10.96.0.2"))
        wait_for_addresses(server.port, WEB, {"10.96.0.2"})
        path.unlink()
        server.wait_until(lambda: "no such file" in server.page("/ready")[1])
        assert addresses(server.port, WEB) == {"10.96.0.2"}  # a source that is gone is a fault, not a wish
        write(path, service("web", "10.96.0.3"))
        wait_for_addresses(server.port, WEB, {"10.96.0.3"})
        server.wait_until(lambda: server.page("/ready") == (200, "OK"))


def test_a_mounted_config_map(tmp_path: Path) -> None:
    """The kubelet swaps a link named ..data between folders; the files are links through it."""
    for number in (1, 2):
        (tmp_path / f"..v{number}").mkdir()
        write(tmp_path / f"..v{number}" / "web.yaml", service("web", f"10.96.0.{number}"))
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "web.yaml").symlink_to("..data/web.yaml")
    with kdns("--manifests", tmp_path) as server:
        server.wait_for("synced")
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        (tmp_path / "..tmp").symlink_to("..v2")
        os.replace(tmp_path / "..tmp", tmp_path / "..data")
        wait_for_addresses(server.port, WEB, {"10.96.0.2"})


BROKEN = {
    "duplicate key": ("kind: Service\nkind: Pod\n", r"line 2: found duplicate key 'kind'"),
    "syntax": ("a: [1,\nb: 2\n", r"line [123]: found "),
    "no kind": ("apiVersion: v1\n", "kind: found None; expected the kind of an object"),
    "not an object": ("- 1\n", "expected an object of Kubernetes"),
    "wrong type": (
        yaml.safe_dump(service("web", ports="eighty")),
        r"Service default/web: spec.ports: found ",
    ),
    "name": (
        yaml.safe_dump(service("Web_1")),
        "Service default/Web_1: metadata.name: found 'Web_1'; expected a DNS label",
    ),
    "second document": (
        yaml.safe_dump_all([service("a"), service("b", "10.0.0.256")]),
        r"document 2: Service default/b: spec.clusterIPs\[0\]: found '10.0.0.256'; expected an IP address",
    ),
    "bomb of lists": (
        "kind: List\napiVersion: v1\nitems:\n- &b {kind: List, apiVersion: v1, items: []}\n"
        + "".join(
            f"- &{chr(c + 1)} {{kind: List, apiVersion: v1, items: [{','.join([f'*{chr(c)}'] * 9)}]}}\n"
            for c in range(ord("b"), ord("j"))
        ),
        "aliases that stand for more than",
    ),
    "endless": ("&a {kind: List, apiVersion: v1, items: [*a]}\n", "alias"),
    "deep": ("[" * 100_000, "nesting"),
    "odd tag": ("kind: !!bool x\n", "expected an object of Kubernetes"),
    "odd set": ("x: !!set [a]\n", "expected"),
    "bomb": (
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n",
        "found None",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_while_running_leaves_the_last_good_state(tmp_path: Path, name: str) -> None:
    text, told = BROKEN[name]
    write(tmp_path / "web.yaml", service("web", "10.96.0.1"))
    with kdns("--manifests", tmp_path) as server:
        server.wait_for("synced")
        (tmp_path / "web.yaml").write_text(text)
        write(tmp_path / "api.yaml", service("api", "10.96.0.2"))
        wait_for_addresses(server.port, API, {"10.96.0.2"})  # other files are followed all the same
        server.wait_for(f"web.yaml.*{told}")
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        status, body = server.page("/ready")
        assert status == 200
        assert "web.yaml" in body
        assert "kdns_source_troubles 1.0" in server.page("/metrics")[1]
        write(tmp_path / "web.yaml", service("web", "10.96.0.5"))
        wait_for_addresses(server.port, WEB, {"10.96.0.5"})
        assert server.page("/ready") == (200, "OK")


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_at_the_start_ends_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "web.yaml").write_text(BROKEN[name][0])
    (tmp_path / "also.json").write_text('{"kind":"Service","kind":"Service"}')
    for command in (["check"], ["serve", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0"], ["zone"]):
        done = run_kdns(*command, "--manifests", tmp_path)
        assert done.returncode == 2
        assert "also.json" in done.stderr
        assert "duplicate key 'kind'" in done.stderr
        assert "web.yaml" in done.stderr
        assert "Traceback" not in done.stderr


def test_deep_json_and_octets_that_are_no_text(tmp_path: Path) -> None:
    write(tmp_path / "web.yaml", service("web", "10.96.0.1"))
    with kdns("--manifests", tmp_path) as server:
        server.wait_for("synced")
        (tmp_path / "deep.json").write_text('{"a":' * 100_000)
        (tmp_path / "list.json").write_text("[" * 100_000)
        (tmp_path / "latin.json").write_bytes(b'{"kind":"Service","metadata":{"name":"caf\xe9"}}')
        (tmp_path / "latin.yaml").write_bytes(b"kind: caf\xe9\n")
        for name in ("deep.json", "list.json", "latin.json", "latin.yaml"):
            server.wait_for(name)
        assert addresses(server.port, WEB) == {"10.96.0.1"}


def test_a_folder_removed_and_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    write(folder / "web.yaml", service("web", "10.96.0.1"))
    with kdns("--manifests", folder) as server:
        server.wait_for("synced")
        (folder / "web.yaml").unlink()
        folder.rmdir()
        server.wait_until(lambda: "no such file or folder" in server.page("/ready")[1])
        folder.mkdir()
        for number in (2, 3):
            write(folder / "web.yaml", service("web", f"10.96.0.{number}"))
            wait_for_addresses(server.port, WEB, {f"10.96.0.{number}"})
        server.wait_until(lambda: server.page("/ready") == (200, "OK"))


def test_a_link_turned_to_another_folder(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"m{number}").mkdir()
        write(tmp_path / f"m{number}" / "web.yaml", service("web", f"10.96.0.{number}"))
    link = tmp_path / "link"
    link.symlink_to("m1")
    with kdns("--manifests", link) as server:
        server.wait_for("synced")
        assert addresses(server.port, WEB) == {"10.96.0.1"}
        (tmp_path / "new").symlink_to("m2")
        os.replace(tmp_path / "new", link)
        wait_for_addresses(server.port, WEB, {"10.96.0.2"})


def test_unknown_kinds_and_lists(tmp_path: Path) -> None:
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}
    write(
        tmp_path / "a.yaml",
        {"apiVersion": "v1", "kind": "List", "items": [deployment, service("web", "10.96.0.1")]},
        None,
    )
    typed = service("api", "10.96.0.2")
    del typed["kind"], typed["apiVersion"]
    write(tmp_path / "b.json", {"apiVersion": "v1", "kind": "ServiceList", "items": [typed]})
    done = run_kdns("check", "--manifests", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 Services" in done.stdout
    assert done.stderr.count("apps/v1, Deployment: of no use to DNS; skipped") == 1


@pytest.mark.parametrize(
    ("kind", "meant"),
    [("Servce", "Service"), ("EndpointSlices", "EndpointSlice"), ("ServiceExport", ""), ("TCPRoute", ""), ("Role", "")],
)
def test_a_kind_that_looks_misspelt_is_warned_of(kind: str, meant: str, tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", {"apiVersion": "v1", "kind": kind, "metadata": {"name": "web"}})
    done = run_kdns("check", "--manifests", tmp_path)
    assert done.returncode == 0, done.stderr
    told = f"a.yaml: v1, {kind}: of no use to DNS; skipped"
    assert told + (f"; is {meant} meant?" if meant else "\n") in done.stderr


def test_namespaces_that_are_only_named(tmp_path: Path) -> None:
    write(
        tmp_path / "a.yaml",
        service("web", "10.96.0.1", namespace="shop"),
        service("web", "10.96.0.2", namespace="hidden"),
        namespace("hidden", team="other"),
    )
    with kdns("--manifests", tmp_path, "--namespace-labels", "team!=other") as server:
        server.wait_for("synced")
        assert addresses(server.port, "web.shop.svc.cluster.local.") == {"10.96.0.1"}
        assert lookup(server.port, "web.hidden.svc.cluster.local.").rcode() == dns.rcode.NXDOMAIN
    with kdns("--manifests", tmp_path, "--namespace", "hidden") as server:
        server.wait_for("synced")
        assert addresses(server.port, "web.hidden.svc.cluster.local.") == {"10.96.0.2"}
        assert lookup(server.port, "web.shop.svc.cluster.local.").rcode() == dns.rcode.NXDOMAIN
        assert lookup(server.port, "1.0.96.10.in-addr.arpa.", "PTR").rcode() == dns.rcode.NXDOMAIN


def test_the_same_object_in_two_files(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", service("web", "10.96.0.1"))
    write(tmp_path / "b.yaml", service("web", "10.96.0.2"))
    with kdns("--manifests", tmp_path) as server:
        server.wait_for("synced")
        server.wait_for(r"b.yaml: Service default/web is also in \S+a.yaml; this one counts")
        assert addresses(server.port, WEB) == {"10.96.0.2"}
        (tmp_path / "b.yaml").unlink()
        wait_for_addresses(server.port, WEB, {"10.96.0.1"})


def test_endpoint_options(tmp_path: Path) -> None:
    piece = endpoint_slice("db", "10.1.0.1")
    piece["endpoints"][0]["targetRef"] = {"kind": "Pod", "name": "db-abc"}
    write(tmp_path / "a.yaml", service("db"), piece)
    with kdns("--manifests", tmp_path, "--endpoint-pod-names") as server:
        server.wait_for("synced")
        assert addresses(server.port, "db-abc.db.default.svc.cluster.local.") == {"10.1.0.1"}


@pytest.mark.parametrize("octets", [40 * 2**20])
def test_a_large_list(tmp_path: Path, octets: int) -> None:
    """Forty megabytes are read whole, duplicate keys looked for, in far less than the time a test may take."""
    slices = [
        endpoint_slice(f"s{number}", *(f"10.{number >> 8}.{number & 255}.{at}" for at in range(100)))
        for number in range(2600)
    ]
    for piece in slices:
        piece["metadata"]["managedFields"] = [
            {"manager": "kube-controller-manager", "fieldsV1": {f"f:k{n}": {} for n in range(1500)}}
        ]
    data = json.dumps(
        {"apiVersion": "v1", "kind": "List", "items": [*slices, *(service(f"s{n}") for n in range(2600))]}
    )
    assert len(data) > octets
    (tmp_path / "all.json").write_text(data)
    with kdns("--manifests", tmp_path) as server:
        server.wait_for("synced after .*2600 Services, 2600 EndpointSlices")
        assert len(addresses(server.port, "s7.default.svc.cluster.local.")) > 10


def test_a_namespace_named_like_a_public_tld_is_told_and_counted(tmp_path: Path) -> None:
    """CVE-2022-2835: a Service google in a namespace com takes google.com from search paths."""
    (tmp_path / "com.yaml").write_text(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: com}\n---\n"
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: backend}\n"
    )
    with kdns("--manifests", tmp_path) as server:
        server.wait_for("namespace com is named like a public top-level domain")
        assert "kdns_public_namespaces 1.0" in server.page("/metrics")[1]
        assert "namespace backend" not in server.output()
