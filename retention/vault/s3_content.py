"""Bytes on their way to an S3 store: what is known of them before the first is sent, and how they are sent.

Rules of this module:
- Content is read through once before it is sent: what is not its announced digest and size is never sent.
- Each request carries SHA-256 and MD5 of its body: AWS and SeaweedFS verify the first, Ceph RGW the second.
- Above SINGLE bytes content goes in parts of PART bytes, one in memory at a time; an upload that fails is
  aborted, so that its parts are not kept (and paid) for ever.
- A request whose answer was lost is sent again: the condition and the read-back of the caller decide what came
  of it.
"""

from __future__ import annotations

import hashlib
import io
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError

from retention.errors import Damaged, UsageError
from retention.vault.s3_requests import NO_UPLOAD, TAKEN, UNKNOWN_REQUEST, Place, attempt, attempt_unless, md5
from retention.vault.s3_wire import MOST, Wire

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 1024 * 1024
CHUNK = MIB
IN_MEMORY = 8 * MIB  # a file up to this size is sent from memory: boto3 asks leave (Expect: 100) for each file
SINGLE = 64 * MIB
PART = 32 * MIB
MOST_PARTS = 10_000
LARGEST = 5 * 1024 * 1024 * MIB  # S3: 5 TiB an object


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes whose digests were computed from themselves."""

    source: bytes | BinaryIO
    size: int
    sha256: str  # base64, as the headers want them
    md5: str

    @classmethod
    def verified(cls, key: str, content: bytes | BinaryIO, *, sha256: bytes, size: int) -> Content:
        """Read it through. Raises Damaged unless it has this digest and size."""
        if size > LARGEST:
            raise UsageError(f"{key} has {size} bytes; an S3 object holds at most 5 TiB. Keep it in a file:// vault")
        if not isinstance(content, bytes) and size <= IN_MEMORY:
            content.seek(0)
            content = content.read(size + 1)
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        source.seek(0)
        found, for_store, length = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        while chunk := source.read(CHUNK):
            found.update(chunk)
            for_store.update(chunk)
            length += len(chunk)
        if found.digest() != sha256 or length != size:
            raise Damaged(
                f"{key}: the bytes given are not the announced ones: expected {size} bytes of sha256 {sha256.hex()},"
                f" found {length} of {found.hexdigest()}; nothing was stored"
            )
        return cls(content, size, b64encode(found.digest()).decode(), b64encode(for_store.digest()).decode())

    def body(self) -> bytes | BinaryIO:
        """From the beginning, for each attempt."""
        if not isinstance(self.source, bytes):
            self.source.seek(0)
        return self.source


def upload(
    client: S3Client,
    place: Place,
    key: str,
    given: Content,
    target: dict[str, Any],
    condition: dict[str, Any],
    wire: Wire | None = None,
) -> str | None:
    """Send `given` to `target` (bucket, key, lock headers) on `condition` (If-None-Match, or nothing).

    The new version; "" if the store named none; None if the condition was not met and nothing was stored."""
    send = _put_parts if given.size > SINGLE else partial(_put, wire=wire)
    answer = send(client, place, key, given, target, condition)
    if isinstance(answer, str) and answer in UNKNOWN_REQUEST and condition:
        answer = send(client, place, key, given, target, {})  # a store that refuses what it does not know
    if isinstance(answer, str):
        # NoSuchUpload: an earlier attempt completed it, and its answer was lost.
        return "" if answer in NO_UPLOAD else None
    return str(answer.get("VersionId", ""))


def _put(
    client: S3Client,
    place: Place,
    key: str,
    given: Content,
    target: dict[str, Any],
    condition: dict[str, Any],
    wire: Wire | None,
) -> Any:
    shortly = [wire] if wire is not None and given.size <= MOST else []

    def send() -> Any:
        body = given.body()
        if shortly and isinstance(body, bytes):
            answer = shortly.pop().put(target["Key"], body, _headers(given, {**target, **condition}))
            if answer is not None:
                return answer
        return client.put_object(**target, **condition, Body=body, ContentMD5=given.md5, ChecksumSHA256=given.sha256)

    return attempt_unless(TAKEN | UNKNOWN_REQUEST, place, f"put {key}", send)


def _headers(given: Content, asked: dict[str, Any]) -> dict[str, str]:
    """The headers that boto3 makes of these arguments of put_object."""
    headers = {"content-md5": given.md5, "x-amz-checksum-sha256": given.sha256}
    if "IfNoneMatch" in asked:
        headers["if-none-match"] = asked["IfNoneMatch"]
    if "ObjectLockMode" in asked:
        headers["x-amz-object-lock-mode"] = asked["ObjectLockMode"]
        until = asked["ObjectLockRetainUntilDate"].astimezone(UTC)
        headers["x-amz-object-lock-retain-until-date"] = until.strftime("%Y-%m-%dT%H:%M:%SZ")
    return headers


def _put_parts(
    client: S3Client, place: Place, key: str, given: Content, target: dict[str, Any], condition: dict[str, Any]
) -> Any:
    begin = partial(client.create_multipart_upload, **target, ChecksumAlgorithm="SHA256")
    begun = attempt(place, f"begin the upload of {key}", begin)
    this: dict[str, Any] = {"Bucket": target["Bucket"], "Key": target["Key"], "UploadId": begun["UploadId"]}
    answer: Any = ""
    try:
        parts = _send_parts(client, place, key, given, this)
        complete = partial(client.complete_multipart_upload, **this, **condition, MultipartUpload={"Parts": parts})
        expected = TAKEN | UNKNOWN_REQUEST | NO_UPLOAD
        answer = attempt_unless(expected, place, f"complete the upload of {key}", complete)
        return answer
    finally:
        if isinstance(answer, str):
            # What cannot be aborted now is aborted by the next sweep; the first error is the one to report.
            with suppress(ClientError, BotoCoreError):
                client.abort_multipart_upload(**this)


def _send_parts(client: S3Client, place: Place, key: str, given: Content, this: dict[str, Any]) -> list[Any]:
    length = max(PART, -(-given.size // MOST_PARTS))
    source = io.BytesIO(given.source) if isinstance(given.source, bytes) else given.source
    source.seek(0)
    parts: list[Any] = []
    while chunk := source.read(length):
        number = len(parts) + 1
        digest = b64encode(hashlib.sha256(chunk).digest()).decode()
        part: dict[str, Any] = {**this, "PartNumber": number, "ContentMD5": md5(chunk), "ChecksumSHA256": digest}
        sent = attempt(place, f"put part {number} of {key}", partial(client.upload_part, **part, Body=chunk))
        parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": digest})
    return parts
