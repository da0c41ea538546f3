"""TLS to the API server: its certificate is checked, ours is shown, and a wrong one is told and outlived."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import dns.rcode
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.api_server import ApiServer
from tests.support.client import addresses, lookup
from tests.support.kube import namespace, service
from tests.support.process import kdns

pytestmark = pytest.mark.system

WEB = "web.default.svc.cluster.local."


class Authority:
    """A certificate authority of the test's own; its files lie in *folder*."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.cert = folder / f"{name}.pem"
        made = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.cert.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return the files of a certificate for 127.0.0.1 and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        alternatives = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        made = self._builder(subject, key).add_extension(alternatives, critical=False).sign(self._key, hashes.SHA256())
        cert_file, key_file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return cert_file, key_file

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[ApiServer, Authority]]:
    """A server that asks for a client certificate of its authority."""
    authority = Authority(tmp_path, "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))
    context.load_verify_locations(authority.cert)
    context.verify_mode = ssl.CERT_REQUIRED
    api = ApiServer()
    api.tls = context
    with api:
        api.put(namespace(), service("web", "10.96.0.1"))
        yield api, authority


def kubeconfig(folder: Path, api: ApiServer, ca: Path, user: dict[str, Any]) -> Path:
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": api.url, "certificate-authority": str(ca)}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "test",
            }
        )
    )
    return path


def test_client_certificates(api: tuple[ApiServer, Authority], tmp_path: Path) -> None:
    server_side, authority = api
    cert, key = authority.issue("client")
    user = {"client-certificate": str(cert), "client-key": str(key)}
    with kdns("--kubeconfig", kubeconfig(tmp_path, server_side, authority.cert, user)) as server:
        server.wait_for("synced after")
        assert addresses(server.port, WEB) == {"10.96.0.1"}


@pytest.mark.parametrize("whose", ["server", "client"])
def test_a_wrong_certificate_is_told_and_outlived(api: tuple[ApiServer, Authority], tmp_path: Path, whose: str) -> None:
    server_side, authority = api
    other = Authority(tmp_path, "other")
    ca = other.cert if whose == "server" else authority.cert
    cert, key = (authority if whose == "server" else other).issue("client")
    user = {"client-certificate": str(cert), "client-key": str(key)}
    with kdns("--kubeconfig", kubeconfig(tmp_path, server_side, ca, user)) as server:
        server.wait_until(lambda: "Services: " in server.page("/ready")[1])
        status, body = server.page("/ready")
        assert status == 503
        assert "certificate" in body.lower() or "ssl" in body.lower() or "alert" in body.lower(), body
        assert dns.rcode.to_text(lookup(server.port, WEB).rcode()) == "SERVFAIL"
        assert "Traceback" not in server.output()
