"""One request to an S3 store: where it goes, when it is tried again, what its failure means.

Rules of this module:
- The URL alone says where the store is: endpoints in the environment or in AWS configuration files are
  ignored, so that a variable cannot divert records to another store.
- Transient failures (no connection, time-outs, 5xx, throttling, a body cut off) are retried here, with full
  jitter and a bound, and nowhere else: boto3's own retries are off, because they know nothing of bodies that
  break while they are read. What was refused is never retried.
- Payloads are signed and checksums are sent by us (SHA-256 and MD5: AWS verifies the first, Ceph RGW the
  second); boto3's CRC trailers are off, which RGW 16 does not understand.
- HEAD answers 404 for a missing bucket too. So absence of an object is believed only from a listing.
"""

from __future__ import annotations

import base64
import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)
from botocore.loaders import Loader, create_loader

from retention.errors import Damaged, MunimentError, Refused, ServiceUnavailable, UsageError
from retention.vault.base import check_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

REGION = "us-east-1"  # of a store that was given an endpoint and no region

# 405: a version id that names a delete marker.
ABSENT = frozenset({"NoSuchKey", "NoSuchVersion", "404", "NotFound", "405", "MethodNotAllowed"})
TAKEN = frozenset({"PreconditionFailed", "412"})
NO_UPLOAD = frozenset({"NoSuchUpload"})
UNKNOWN_REQUEST = frozenset({"NotImplemented", "501"})
NO_LOCK = frozenset({"NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "NoSuchObjectLegalHold"})
# BadDigest: the bytes were right when they left (put checks), so they were damaged on their way.
_TRANSIENT_CODES = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "InternalError",
        "ServiceUnavailable",
        "OperationAborted",
        "ConditionalRequestConflict",
        "BadDigest",
        "XAmzContentSHA256Mismatch",
    }
)
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_DENIED = frozenset({"AccessDenied", "403", "Forbidden", "AllAccessDisabled"})
_BAD_CREDENTIALS = (UsageError, "the store does not accept these credentials; mend them")
_MEANINGS: dict[str, tuple[type[MunimentError], str]] = {
    "NoSuchBucket": (UsageError, "there is no such bucket; make it with Object Lock, or mend the URL"),
    "BucketAlreadyExists": (UsageError, "somebody else has a bucket of this name; choose another"),
    "InvalidAccessKeyId": _BAD_CREDENTIALS,
    "SignatureDoesNotMatch": _BAD_CREDENTIALS,
    "ExpiredToken": _BAD_CREDENTIALS,
    "InvalidToken": _BAD_CREDENTIALS,
    "RequestTimeTooSkewed": (UsageError, "the clocks of this computer and of the store differ; set them right"),
    "QuotaExceeded": (ServiceUnavailable, "the quota is used up; raise it and run again"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where an S3 vault is and how patiently it is asked. Times in seconds."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None  # None: AWS
    region: str | None = None
    connections: int = 16
    connect_timeout: float = 5.0
    read_timeout: float = 60.0
    attempts: int = 6
    first_wait: float = 0.2  # doubles with each attempt, at most 5 s; what is waited is random below that

    @property
    def url(self) -> str:
        """The place without credentials, as `place_of` reads it."""
        path = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        asked = {"endpoint": self.endpoint, "region": self.region}
        query = "&".join(f"{name}={quote(value, safe=':/')}" for name, value in asked.items() if value)
        return f"{path}?{query}" if query else path


def place_of(url: str) -> Place:
    """The place that `s3://bucket/prefix?endpoint=…&region=…&connections=…` names. Raises UsageError."""
    parts = urlsplit(url)
    asked = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    unknown = sorted(set(asked) - {"endpoint", "region", "connections"})
    if unknown:
        raise UsageError(
            f"a vault URL of s3://{parts.netloc} has no {', '.join(unknown)}: expected endpoint, region or connections;"
            " credentials are given as settings or in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not parts.netloc:
        raise UsageError("the vault URL names no bucket: expected s3://bucket/prefix?endpoint=…&region=…")
    endpoint = urlsplit(asked.get("endpoint", ""))
    if "@" in endpoint.netloc:
        raise UsageError(f"the endpoint of s3://{parts.netloc} carries credentials; URLs reach reports: take them out")
    if asked.get("endpoint") and (endpoint.scheme not in ("http", "https") or not endpoint.netloc):
        raise UsageError(f"the endpoint {asked['endpoint']!r} is none: expected http://host:port or https://host:port")
    connections = asked.get("connections", "16")
    if not connections.isdecimal() or not 1 <= int(connections) <= 1000:
        raise UsageError(f"connections={connections} in the vault URL: expected a number from 1 to 1000")
    prefix = parts.path.strip("/")
    return Place(
        bucket=parts.netloc,
        prefix=check_key(prefix) if prefix else "",
        endpoint=asked.get("endpoint") or None,
        region=asked.get("region") or None,
        connections=int(connections),
    )


# Options of botocore that its stubs do not have yet. The endpoint is that of the vault's URL, and no other.
_UNKNOWN_TO_THE_STUBS: dict[str, Any] = {"ignore_configured_endpoint_urls": True}


def connect(place: Place, access_key: str | None = None, secret_key: str | None = None) -> S3Client:
    """A client, safe for many threads. Touches no network. Raises UsageError."""
    if (access_key is None) != (secret_key is None):
        raise UsageError(f"{place.url}: an access key and its secret go together; one of them is missing")
    # A session of its own: the default one is shared by the process and not safe to use from threads.
    found = botocore.session.Session()
    found.register_component("data_loader", _loader())
    session = boto3.session.Session(access_key, secret_key, botocore_session=found)
    client = session.client(
        "s3",
        endpoint_url=place.endpoint,
        region_name=place.region or (REGION if place.endpoint else None),
        config=Config(
            max_pool_connections=place.connections,
            connect_timeout=place.connect_timeout,
            read_timeout=place.read_timeout,
            retries={"total_max_attempts": 1, "mode": "standard"},
            s3={"payload_signing_enabled": True, "addressing_style": "path" if place.endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            tcp_keepalive=True,
            **_UNKNOWN_TO_THE_STUBS,
        ),
    )
    client.meta.events.register("before-sign.s3.DeleteObjects", _add_md5)
    return client


@cache
def _loader() -> Loader:
    """What botocore knows of S3, parsed once a process: four fifths of the time of making a client."""
    return create_loader()


def _add_md5(request: Any, **_: Any) -> None:
    """boto3 sends DeleteObjects with a CRC; stores older than that demand the MD5 (MissingContentMD5)."""
    request.headers["Content-MD5"] = md5(request.body if isinstance(request.body, bytes) else request.body.encode())


def md5(content: bytes | memoryview) -> str:
    """As Content-MD5 wants it. It guards the way to the store; nothing about fixity rests on it."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def attempt(place: Place, doing: str, call: Callable[[], T], denied: type[MunimentError] = UsageError) -> T:
    """`call()`, tried again while it fails transiently. `denied` is what AccessDenied means for this request."""
    for attempt_number in range(1, place.attempts + 1):
        try:
            return call()
        except (ClientError, BotoCoreError) as error:
            if attempt_number == place.attempts or not _transient(error):
                raise meaning(place, doing, error, denied) from error
        # Full jitter: workers that failed together must not come back together.
        longest = min(place.first_wait * 2**attempt_number, 5.0)
        time.sleep(random.uniform(0, longest))  # noqa: S311 - a pause is no secret
    raise AssertionError("a place is asked at least once")


def attempt_unless(codes: frozenset[str], place: Place, doing: str, call: Callable[[], T]) -> T | str:
    """As `attempt`; an answer with one of these error codes is not a failure and is returned: its code."""

    def tolerant() -> T | str:
        try:
            return call()
        except ClientError as error:
            if code_of(error) in codes:
                return code_of(error)
            raise

    return attempt(place, doing, tolerant)


def code_of(error: ClientError) -> str:
    """The error code of S3 (`NoSuchKey`), or the HTTP status where HEAD leaves no room for one."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _transient(error: ClientError | BotoCoreError) -> bool:
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return code_of(error) in _TRANSIENT_CODES or (
            status in _TRANSIENT_STATUS and code_of(error) not in UNKNOWN_REQUEST
        )
    # botocore counts a connection that was never made (refused, no name, no route) among no HTTPClientError.
    return isinstance(
        error, HTTPClientError | EndpointConnectionError | ConnectTimeoutError | IncompleteReadError
    ) and not isinstance(error, SSLError)


def meaning(
    place: Place, doing: str, error: ClientError | BotoCoreError, denied: type[MunimentError] = UsageError
) -> MunimentError:
    """The error in the words of who must act."""
    what = f"{place.url}: cannot {doing}"
    if isinstance(error, BotoCoreError):
        return _no_answer(what, error)
    code = code_of(error)
    said = f"{code}: {error.response.get('Error', {}).get('Message') or 'no reason given'}"
    if code in _MEANINGS:
        kind, words = _MEANINGS[code]
        return kind(f"{what}: {words} ({said})")
    if code in _DENIED and denied is Refused:
        return Refused(f"refusing to {doing}: {place.url} denies it, for a lock, a hold or a missing right ({said})")
    if code in _DENIED:
        return denied(f"{what}: these credentials lack the permission ({said})")
    if _transient(error):
        return ServiceUnavailable(f"{what}: still failing after {place.attempts} attempts ({said}); run again later")
    return Damaged(f"{what}: the store answered what was not expected ({said})")


def _no_answer(what: str, error: BotoCoreError) -> MunimentError:
    if isinstance(error, IncompleteReadError):
        return Damaged(f"{what}: its bytes end early each time they are read ({error}); restore it from a replica")
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return UsageError(f"{what}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if isinstance(error, ParamValidationError):
        return UsageError(f"{what}: {error}")
    return ServiceUnavailable(f"{what}: the store does not answer ({error}); start it and run again")
