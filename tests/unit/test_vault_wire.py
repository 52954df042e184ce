"""The short way to an S3 store: its signature is botocore's, and it keeps away from places that boto3 must ask."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from urllib.parse import quote

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from retention.vault.s3_requests import place_of
from retention.vault.s3_wire import connect_wire, signed, signing

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
HERE = "s3://records/vault?endpoint=http://127.0.0.1:8333"


@pytest.mark.parametrize("token", [None, "a/session+token="])
@pytest.mark.parametrize(
    ("method", "host", "version", "headers"),
    [
        ("GET", "store.example:8333", "", {}),
        ("GET", "store.example", "Ab3/+=~._-x y", {}),
        ("PUT", "127.0.0.1:8333", "", {"content-md5": "kq5sNclPz7QV2+lfQIuc6R==", "if-none-match": "*"}),
        ("PUT", "[::1]:8333", "", {"x-amz-object-lock-mode": "COMPLIANCE", "x-amz-checksum-sha256": "a+/="}),
    ],
)
def test_the_signature_is_that_of_botocore(
    monkeypatch: pytest.MonkeyPatch, token: str | None, method: str, host: str, version: str, headers: dict[str, str]
) -> None:
    path, query = "/records/vault/records/0199f0a2/5f2b", f"versionId={quote(version, safe='-_.~')}" if version else ""
    body = b"sealed" if method == "PUT" else b""
    credentials = Credentials("KEY", "secret", token)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: NOON)
    request = AWSRequest(method, f"http://{host}{path}" + (f"?{query}" if query else ""), dict(headers), data=body)
    request.context = {"payload_signing_enabled": True}
    botocore.auth.S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(request)

    key = signing(credentials.get_frozen_credentials(), "20300101", "eu-west-1")
    digest = hashlib.sha256(body).hexdigest()
    ours = signed(key, "20300101T120000Z", method, path, query, {**headers, "host": host}, digest)
    assert ours["authorization"] == request.headers["Authorization"]
    assert ours.get("x-amz-security-token") == token


@pytest.mark.parametrize(
    "url",
    [
        "s3://records/vault?region=eu-west-1",
        "s3://records?endpoint=http://store.example/a%20path",
        "s3://records?endpoint=http://store.example/?x=1",
    ],
)
def test_boto3_alone_asks_what_has_rules_of_its_own(url: str) -> None:
    assert connect_wire(place_of(HERE), "key", "secret") is not None
    assert connect_wire(place_of(url), "key", "secret") is None


def test_boto3_alone_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert connect_wire(place_of(HERE), "key", "secret") is not None
    assert connect_wire(place_of("s3://records?endpoint=http://store.example"), "key", "secret") is None
