"""The two requests that every document costs, PUT and GET of one object, without the layers of boto3.

boto3 spends 3 ms of CPU on a put and a get of 35 KB (endpoint rules, validation, events, parsing), and asks leave
before each body, which costs the store another 1.5 ms; this way takes 0.7 ms and one packet more each way.

Rules of this module:
- It says what boto3 would say: path-style URL, AWS Signature Version 4 with the payload signed, both checksums.
  Its failures are the exceptions of botocore, so that `s3_requests` decides alone what is tried again.
- Only for places with an endpoint of their own, reached without a proxy, and only for bodies up to MOST: AWS
  has rules of endpoints that boto3 knows, and a large body wants leave before it is sent.
- It is only ever the first attempt. What fails on its way is tried again by boto3; so is a redirection.
- A connection that the store has closed meanwhile is not used again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import socket
import ssl
import weakref
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import botocore.session
from botocore.credentials import Credentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)
from botocore.httpsession import get_cert_path
from botocore.parsers import create_parser
from botocore.utils import get_environ_proxies, parse_timestamp
from urllib3.util.wait import wait_for_read

from retention.vault.s3_requests import REGION, Place

T = TypeVar("T")

MOST = 1024 * 1024  # bytes of a body that is sent without asking leave
CHUNK = 1024 * 1024
_NOTHING = hashlib.sha256(b"").hexdigest()
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")  # no ARN, nothing that must be escaped
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?")


def connect_wire(place: Place, access_key: str | None = None, secret_key: str | None = None) -> Wire | None:
    """A wire to `place`, with the credentials and certificates that boto3 would use; None where boto3 must ask."""
    if place.endpoint is None:
        return None
    url = urlsplit(place.endpoint)
    plain = _BUCKET.fullmatch(place.bucket) and _PATH.fullmatch(url.path) and not url.query and url.hostname
    if not plain or get_environ_proxies(place.endpoint):
        return None
    session = botocore.session.get_session()
    credentials = Credentials(access_key, secret_key) if access_key and secret_key else session.get_credentials()
    context = None
    if url.scheme == "https":
        bundle = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
        context = ssl.create_default_context(cafile=bundle or get_cert_path(True))
    return Wire(place, credentials, context)


@dataclass(frozen=True, slots=True)
class Key:
    """What signs, ready for one day and region."""

    access_key: str
    token: str | None
    scope: str
    key: bytes


def signing(credentials: Any, day: str, region: str) -> Key:
    """The signing key of Signature Version 4; `credentials` are botocore's, `day` is YYYYMMDD."""
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return Key(credentials.access_key, credentials.token, f"{day}/{region}/s3/aws4_request", key)


def signed(
    key: Key, time: str, method: str, path: str, query: str, headers: Mapping[str, str], sha256: str
) -> dict[str, str]:
    """`headers` (names in lower case, `host` among them) with the signature over all of them.

    `time` is YYYYMMDDThhmmssZ, `sha256` the digest of the body in hex; `path` and `query` as they are sent."""
    every = {**headers, "x-amz-content-sha256": sha256, "x-amz-date": time}
    if key.token is not None:
        every["x-amz-security-token"] = key.token
    names = sorted(every)
    listed = ";".join(names)
    asked = "\n".join((method, path, query, *(f"{name}:{every[name]}" for name in names), "", listed, sha256))
    statement = f"AWS4-HMAC-SHA256\n{time}\n{key.scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
    signature = hmac.digest(key.key, statement.encode(), "sha256").hex()
    every["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key.access_key}/{key.scope}, SignedHeaders={listed}, Signature={signature}"
    )
    return every


class Wire:
    """Connections to one store, safe for many threads; at most `place.connections` of them rest."""

    def __init__(self, place: Place, credentials: Any, context: ssl.SSLContext | None) -> None:
        assert place.endpoint is not None
        url = urlsplit(place.endpoint)
        assert url.hostname is not None
        self._place = place
        self._credentials = credentials
        self._context = context
        self._name = url.hostname
        self._port = url.port or (80 if context is None else 443)
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        self._host = host if url.port in (None, 443 if context else 80) else f"{host}:{url.port}"
        self._base = f"{url.path.rstrip('/')}/{place.bucket}/"
        self._region = place.region or REGION
        self._key: tuple[str, Any, Key] | None = None
        self._resting: deque[HTTPConnection] = deque()
        weakref.finalize(self, _close, self._resting)

    def put(self, key: str, body: bytes, headers: Mapping[str, str]) -> dict[str, Any] | None:
        """Store `body`; its SHA-256 is among the headers. What boto3's put_object answers; None: ask boto3."""
        sha256 = b64decode(headers["x-amz-checksum-sha256"]).hex()

        def take(answer: HTTPResponse) -> dict[str, Any]:
            answer.read()
            version = answer.headers.get("x-amz-version-id")
            return {"VersionId": version} if version else {}

        return self._ask("PutObject", "PUT", key, "", headers, sha256, body, take)

    def get(self, key: str, version: str) -> tuple[dict[str, Any], int, bytes] | None:
        """Read an object through: what boto3's get_object answers, its size and SHA-256; None: ask boto3."""

        def take(answer: HTTPResponse) -> tuple[dict[str, Any], int, bytes]:
            digest, size = hashlib.sha256(), 0
            announced = answer.headers.get("content-length")
            while chunk := answer.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
            if announced is not None and size != int(announced):
                raise IncompleteReadError(actual_bytes=size, expected_bytes=int(announced))
            return _facts(answer), size, digest.digest()

        query = f"versionId={quote(version, safe='-_.~')}" if version else ""
        return self._ask("GetObject", "GET", key, query, {}, _NOTHING, None, take)

    def _ask(
        self,
        operation: str,
        method: str,
        key: str,
        query: str,
        headers: Mapping[str, str],
        sha256: str,
        body: bytes | None,
        take: Callable[[HTTPResponse], T],
    ) -> T | None:
        path = self._base + key
        time = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        sent = signed(self._signing(time[:8]), time, method, path, query, {**headers, "host": self._host}, sha256)
        connection = self._connection()
        kept = False
        try:
            connection.request(method, f"{path}?{query}" if query else path, body, sent)
            answer = connection.getresponse()
            if 300 <= answer.status < 400:
                return None
            if answer.status != 200:
                raise _refusal(operation, answer)
            taken = take(answer)
            kept = answer.isclosed() and not answer.will_close
        except (OSError, HTTPException) as error:
            raise self._failure(error) from error
        finally:
            if kept and len(self._resting) < self._place.connections:
                self._resting.append(connection)
            else:
                connection.close()
        return taken

    def _signing(self, day: str) -> Key:
        if self._credentials is None:
            raise NoCredentialsError
        frozen = self._credentials.get_frozen_credentials()  # which renews those that expire
        if self._key is None or self._key[:2] != (day, frozen):
            self._key = day, frozen, signing(frozen, day, self._region)
        return self._key[2]

    def _connection(self) -> HTTPConnection:
        while self._resting:
            try:
                resting = self._resting.pop()
            except IndexError:  # another thread took it
                break
            if not wait_for_read(resting.sock, timeout=0):
                return resting
            resting.close()  # what can be read before anything was asked is its end
        wait = self._place.connect_timeout
        made = (
            HTTPConnection(self._name, self._port, timeout=wait)
            if self._context is None
            else HTTPSConnection(self._name, self._port, timeout=wait, context=self._context)
        )
        try:
            made.connect()
        except OSError as error:
            made.close()
            raise self._failure(error, connecting=True) from error
        made.sock.settimeout(self._place.read_timeout)
        made.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return made

    def _failure(self, error: OSError | HTTPException, *, connecting: bool = False) -> BotoCoreError:
        """The exception that botocore has for it."""
        where = str(self._place.endpoint)
        match error:
            case ssl.SSLError():
                return SSLError(endpoint_url=where, error=error)
            case TimeoutError() if connecting:
                return ConnectTimeoutError(endpoint_url=where, error=error)
            case TimeoutError():
                return ReadTimeoutError(endpoint_url=where, error=error)
            case _ if connecting:
                return EndpointConnectionError(endpoint_url=where, error=error)
            case _:
                return ConnectionClosedError(endpoint_url=where, error=error)


def _facts(answer: HTTPResponse) -> dict[str, Any]:
    """The lock, hold and time of an object, under the names that boto3 gives them."""
    names = {
        "ObjectLockMode": "x-amz-object-lock-mode",
        "ObjectLockLegalHoldStatus": "x-amz-object-lock-legal-hold",
    }
    found: dict[str, Any] = {name: answer.headers[header] for name, header in names.items() if header in answer.headers}
    if until := answer.headers.get("x-amz-object-lock-retain-until-date"):
        found["ObjectLockRetainUntilDate"] = parse_timestamp(until)
    if modified := answer.headers.get("last-modified"):
        found["LastModified"] = parsedate_to_datetime(modified)
    return found


def _refusal(operation: str, answer: HTTPResponse) -> ClientError:
    """What the store said, read as boto3 reads it."""
    said = {"status_code": answer.status, "headers": dict(answer.headers.items()), "body": answer.read()}
    read: Any = create_parser("rest-xml")  # whose stub wants the shape of an answer, which a refusal has not
    return ClientError(read.parse(said, None), operation)


def _close(resting: deque[HTTPConnection]) -> None:
    while resting:
        resting.pop().close()
