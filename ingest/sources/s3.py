"""An S3 prefix: `s3://bucket/prefix?endpoint=https://host:port&region=name`.

Rules of this module:
- A place is the whole key. A prefix means the object of that key and what is below it as a folder:
  `inbox` takes `inbox` and `inbox/a`, never `inbox2/a`.
- The revision is the ETag and the time of the last change: an ETag alone may be an MD5, and two documents
  can be made to share one.
- An object is visible whole or not at all, so nothing is left to settle.
- A message that ends a batch names source, bucket and prefix; a key is a person's name often enough, and
  such messages stand in the logs of schedulers. What is said of one object ends in its own finding.
- Credentials come from where boto3 looks for them (the environment first), the endpoint from the URL or
  AWS_ENDPOINT_URL. A broken stream is ServiceUnavailable, never a short document.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, cast
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlencode, urlsplit

from ingest.model import Json, SourceFile
from ingest.sources import LeftOut, SourceConfig, Unreadable, Why, excluded
from retention.errors import MunimentError, NotFound, ServiceUnavailable, UsageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef

PARAMETERS = ("endpoint", "region")
GONE = frozenset({"NoSuchKey", "NoSuchVersion", "404"})
# The object itself is withheld: no right to it, or it lies in an archive tier.
WITHHELD = frozenset({"AccessDenied", "403", "InvalidObjectState"})
# Whoever wrote the source file, or set the environment, must change something.
MISNAMED = frozenset(
    {"NoSuchBucket", "InvalidBucketName", "PermanentRedirect", "AuthorizationHeaderMalformed"}
    | {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
)
BUFFER = 256 * 1024  # bytes read from the connection at a time


def address(url: str, base: Path) -> str:
    """`s3://bucket/prefix?endpoint=…&region=…`, parameters in that order. Raises ValueError."""
    del base
    parts = urlsplit(url)
    given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    unknown = [key for key, value in given if key not in PARAMETERS or not value]
    if not parts.netloc or ":" in parts.netloc or parts.fragment or unknown or len(dict(given)) != len(given):
        raise ValueError("expected s3://bucket/prefix, with ?endpoint=URL and &region=NAME where needed")
    endpoint = urlsplit(dict(given).get("endpoint", "https://host"))
    if endpoint.scheme not in ("http", "https") or not endpoint.netloc:
        raise ValueError("endpoint: expected http://host:port or https://host:port")
    if "@" in endpoint.netloc:
        raise ValueError("endpoint: refusing to use a URL that holds a user or password")
    query = urlencode([(key, dict(given)[key]) for key in PARAMETERS if key in dict(given)], safe=":/")
    key = quote(unquote(parts.path.removeprefix("/")))
    return f"s3://{parts.netloc}/{key}" + (f"?{query}" if query else "")


def discover(
    config: SourceConfig,
    after: Json,
    now: datetime,
    left_out: Callable[[LeftOut], None],
    never: Path | None = None,
) -> Iterator[SourceFile]:
    """Every object below the prefix. `after` and `now` are unused: revisions tell what is known.

    Nor is `never`: a workspace is a folder."""
    from botocore.exceptions import BotoCoreError, ClientError

    del after, now, never
    bucket, prefix = _bucket_and_prefix(config.url)
    try:
        paginator = _client(config.url).get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=bucket, Prefix=prefix))
        first = next(pages)  # a wrong name is said before the run begins
    except (BotoCoreError, ClientError) as error:
        _raise(error, config, f"the listing of bucket {bucket!r}")

    def walk() -> Iterator[SourceFile]:
        try:
            for page in chain((first,), pages):
                for item in page.get("Contents", ()):
                    yield from _listed(config, prefix, item, left_out)
        except (BotoCoreError, ClientError) as error:
            _raise(error, config, f"the listing of bucket {bucket!r}")

    return walk()


def open(config: SourceConfig, file: SourceFile) -> BinaryIO:
    """The bytes of the object, streamed; reading may raise ServiceUnavailable."""
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _ = _bucket_and_prefix(config.url)
    try:
        body = _client(config.url).get_object(Bucket=bucket, Key=file.place)["Body"]
    except (BotoCoreError, ClientError) as error:
        _raise(error, config, f"object {file.place!r}")
    return cast(BinaryIO, io.BufferedReader(_Stream(body, config, file.place), BUFFER))


class _Stream(io.RawIOBase):
    """The body of an answer as a file. boto3 counts the bytes and raises if the connection ends early."""

    def __init__(self, body: Any, config: SourceConfig, place: str) -> None:
        self._body, self._config, self._place = body, config, place

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        from botocore.exceptions import BotoCoreError

        try:
            data = self._body.read(len(buffer))
        except (BotoCoreError, OSError) as error:
            _raise(error, self._config, f"object {self._place!r}")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._body.close()
        super().close()


def _listed(
    config: SourceConfig, prefix: str, item: ObjectTypeDef, left_out: Callable[[LeftOut], None]
) -> Iterator[SourceFile]:
    key, size = item["Key"], item["Size"]
    folder = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
    if key != prefix and not key.startswith(folder):
        return  # a neighbour whose name begins alike: not of this source
    below = key.removeprefix(folder) if key != prefix else key.rpartition("/")[2]
    if key.endswith("/") and size == 0:
        left_out(LeftOut(config.name, key, Why.MARKER))
        return
    parts = below.split("/")
    folders = ("/".join(parts[:depth]) + "/" for depth in range(1, len(parts)))
    if excluded(config, below) or any(excluded(config, each, folder=True) for each in folders):
        left_out(LeftOut(config.name, key, Why.EXCLUDED))
        return
    modified = item["LastModified"].astimezone(UTC)
    yield SourceFile(config.name, key, size, modified, f"{item['ETag']} {modified.isoformat()}")


def _bucket_and_prefix(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.netloc, unquote(parts.path.removeprefix("/"))


def _client(url: str) -> S3Client:
    query = parse_qs(urlsplit(url).query)
    return _connected(query.get("endpoint", [None])[0], query.get("region", [None])[0])


@lru_cache(maxsize=16)
def _connected(endpoint: str | None, region: str | None) -> S3Client:
    import boto3
    from botocore.config import Config

    settings = Config(
        retries={"mode": "standard", "total_max_attempts": 4},
        connect_timeout=5,
        read_timeout=60,
        # Servers other than Amazon's seldom have a host name for each bucket.
        s3={"addressing_style": "path"} if endpoint else {},
    )
    # Without a region boto3 does not sign at all; servers with one endpoint do not look at it.
    # A session of its own: the default one would keep the first credentials for the life of the process.
    session = boto3.session.Session()
    fallback = "us-east-1" if endpoint and not session.region_name else None
    return session.client("s3", endpoint_url=endpoint, region_name=region or fallback, config=settings)


def _raise(error: Exception, config: SourceConfig, what: str) -> NoReturn:
    """Say who must act. The text of boto3 holds no credential, but often a URL, and in it the object's key."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    where = f"source {config.name!r}: {what} of {config.url}"
    listing = what.startswith("the listing")
    whole = where if listing else f"source {config.name!r}: an object of {config.url}"
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "?")
        if code in GONE and not listing:
            raise NotFound(f"{where} is gone since it was listed. Run again.") from None
        if code in WITHHELD and not listing:
            said = f"the store withholds it ({code})"
            raise Unreadable(f"{where} cannot be read: {said}. Its owner must grant it; run again.", said) from None
        if code in MISNAMED or code in WITHHELD or code in GONE:
            raise UsageError(f"{whole} is refused ({code}). Correct the URL or the credentials.") from None
    group: type[MunimentError] = ServiceUnavailable
    if isinstance(error, BotoCoreError) and not isinstance(error, HTTPClientError) and _misset(error):
        group = UsageError
    said = " ".join(str(error).split())
    if not listing or "url:" in said.lower():
        said = error.response.get("Error", {}).get("Code", "?") if isinstance(error, ClientError) else _kind(error)
    advice = (
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or correct the URL."
        if group is UsageError
        else "Running again is safe."
    )
    raise group(f"{whole} does not answer as expected: {said}. {advice}") from None


def _kind(error: Exception) -> str:
    """EndpointConnectionError -> endpoint connection error"""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()


def _misset(error: Exception) -> bool:
    from botocore import exceptions

    return isinstance(
        error,
        (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.NoRegionError,
            exceptions.ParamValidationError,
            exceptions.ProfileNotFound,
        ),
    )
