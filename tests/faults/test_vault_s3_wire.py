"""The short way to an S3 store, when the connection or the store behind it misbehaves.

A listener answers what a test says, and counts connections and requests; nothing is stored.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, IncompleteReadError, SSLError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from retention.vault.s3_requests import place_of
from retention.vault.s3_wire import Wire, connect_wire

BODY = b"sealed"
HEADERS = {"x-amz-checksum-sha256": b64encode(hashlib.sha256(BODY).digest()).decode()}


@dataclass
class Listener:
    """`answer` gives status, headers and body, or None to close without a word."""

    port: int = 0
    connections: int = 0
    requests: list[dict[str, str]] = field(default_factory=list)
    answer: Callable[[], tuple[int, dict[str, str], bytes] | None] = lambda: (200, {}, b"")
    idle: float = 20.0  # seconds after which it closes a connection that says nothing


@pytest.fixture
def listener() -> Iterator[Listener]:
    with running(None) as rules:
        yield rules


class running:
    def __init__(self, context: ssl.SSLContext | None) -> None:
        rules = self.rules = Listener()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                rules.connections += 1
                self.request.settimeout(rules.idle)
                super().setup()

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                rules.requests.append(dict(self.headers.items()))
                told = rules.answer()
                if told is None:
                    self.close_connection = True
                    return
                status, headers, body = told
                self.send_response_only(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = int(headers.get("Content-Length", len(body))) > len(body)

            do_GET = do_PUT

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        rules.port = self.server.server_port

    def __enter__(self) -> Listener:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self.rules

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def wire_to(listener: Listener, scheme: str = "http") -> Wire:
    place = place_of(f"s3://records?endpoint={scheme}://127.0.0.1:{listener.port}&region=us-east-1")
    made = connect_wire(place, "key", "secret")
    assert made is not None
    return made


def test_a_connection_is_used_again_and_a_closed_one_is_not(listener: Listener) -> None:
    wire = wire_to(listener)
    for _ in range(3):
        assert wire.put("a", BODY, HEADERS) == {}
        assert wire.get("a", "") is not None
    assert (listener.connections, len(listener.requests)) == (1, 6)
    listener.idle = 0.05
    other = wire_to(listener)
    assert other.put("a", BODY, HEADERS) == {}
    threading.Event().wait(0.3)  # the store closes it meanwhile
    assert other.put("a", BODY, HEADERS) == {}
    assert listener.connections == 3


def test_no_leave_is_asked_before_a_body(listener: Listener) -> None:
    wire_to(listener).put("a", BODY, HEADERS)
    assert "Expect" not in listener.requests[0]
    assert listener.requests[0]["x-amz-content-sha256"] == hashlib.sha256(BODY).hexdigest()


def test_what_is_told_of_a_lock_is_read(listener: Listener) -> None:
    until = datetime(2040, 5, 1, tzinfo=UTC)
    headers = {
        "x-amz-object-lock-mode": "COMPLIANCE",
        "x-amz-object-lock-retain-until-date": "2040-05-01T00:00:00.000Z",
        "x-amz-object-lock-legal-hold": "ON",
        "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
    }
    listener.answer = lambda: (200, headers, BODY)
    assert wire_to(listener).get("a", "v/1") == (
        {
            "ObjectLockMode": "COMPLIANCE",
            "ObjectLockRetainUntilDate": until,
            "ObjectLockLegalHoldStatus": "ON",
            "LastModified": datetime(2026, 1, 1, tzinfo=UTC),
        },
        len(BODY),
        hashlib.sha256(BODY).digest(),
    )


def test_a_redirection_is_left_to_boto3(listener: Listener) -> None:
    listener.answer = lambda: (307, {"Location": "http://elsewhere.example/"}, b"")
    assert wire_to(listener).put("a", BODY, HEADERS) is None
    assert wire_to(listener).get("a", "") is None


def test_a_refusal_is_said_as_boto3_says_it(listener: Listener) -> None:
    listener.answer = lambda: (412, {}, b"<Error><Code>PreconditionFailed</Code><Message>there</Message></Error>")
    with pytest.raises(ClientError) as refusal:
        wire_to(listener).put("a", BODY, HEADERS)
    assert refusal.value.response["Error"] == {"Code": "PreconditionFailed", "Message": "there"}
    listener.answer = lambda: (503, {}, b"<html>busy</html>")
    with pytest.raises(ClientError) as refusal:
        wire_to(listener).get("a", "")
    assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503


def test_an_answer_cut_off_is_no_answer(listener: Listener) -> None:
    wire = wire_to(listener)
    listener.answer = lambda: (200, {"Content-Length": "100"}, BODY)
    with pytest.raises(IncompleteReadError):
        wire.get("a", "")
    listener.answer = lambda: None
    with pytest.raises(ConnectionClosedError):
        wire.put("a", BODY, HEADERS)
    listener.answer = lambda: (200, {}, b"")
    assert wire.put("a", BODY, HEADERS) == {}  # what broke was not kept
    assert listener.connections == 3


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = certified(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with running(context) as listener:
        with pytest.raises(SSLError):
            wire_to(listener, "https").put("a", BODY, HEADERS)
        assert listener.requests == []
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        assert wire_to(listener, "https").put("a", BODY, HEADERS) == {}


def certified(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return certificate, secret
