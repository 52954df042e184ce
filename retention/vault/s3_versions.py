"""What a bucket holds: listing objects, listing the versions of one key, removing versions.

Rules of this module:
- Objects are listed with ListObjectsV2, versions only of a single key: SeaweedFS 4.48 loses keys of
  ListObjectVersions where a page ends between `a/x` and `a-b` (it walks folders and sorts each page apart).
  Its ListObjectsV2 is complete, in the order of its folders; a window of WINDOW keys puts that in order of
  bytes. A listing that is more out of order than that is Damaged, never passed on.
- A page that says there is more and not where is Damaged, not an end.
- DeleteObjects answers 200 with an error for each key that it did not remove: all of them are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from heapq import heappush, heappushpop
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from retention.errors import Damaged, MunimentError, Refused
from retention.vault.s3_requests import ABSENT, Place, attempt, meaning

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DELETE_BATCH = 200  # RGW grows slow and times out on larger ones
PAGE = 1000
WINDOW = 2000  # keys held back to put them in order


@dataclass(frozen=True, slots=True, order=True)
class Listed:
    """One object of a listing; `key` includes the prefix of the vault."""

    key: str
    size: int
    modified: datetime


def each_object(client: S3Client, place: Place, prefix: str) -> Iterator[Listed]:
    """Every object whose key begins with `prefix` (a plain string), in order of key."""
    window: list[Listed] = []
    last = ""
    for found in _pages(client, place, prefix):
        if found.key < last:
            raise Damaged(
                f"{place.url}: the store lists {found.key} after {last}, more than {WINDOW} keys out of order;"
                " its listings cannot be compared. Name folders so that none begins with the name of another"
            )
        if len(window) < WINDOW:
            heappush(window, found)
            continue
        ready = heappushpop(window, found)
        last = ready.key
        yield ready
    yield from sorted(window)


def of_key(client: S3Client, place: Place, key: str) -> tuple[Sequence[str], Sequence[str]]:
    """The ids of the versions and of the delete markers of exactly `key`, newest first."""
    versions: list[str] = []
    markers: list[str] = []
    at: dict[str, Any] = {"Bucket": place.bucket, "Prefix": key}
    while True:
        page: Any = attempt(place, f"list the versions of {key}", partial(client.list_object_versions, **at))
        versions += [found["VersionId"] for found in page.get("Versions", []) if found["Key"] == key]
        markers += [found["VersionId"] for found in page.get("DeleteMarkers", []) if found["Key"] == key]
        if not page.get("IsTruncated"):
            return versions, markers
        following = {"KeyMarker": page.get("NextKeyMarker"), "VersionIdMarker": page.get("NextVersionIdMarker")}
        at |= _next(place, at, {name: value for name, value in following.items() if value})


def delete(client: S3Client, place: Place, key: str, versions: Sequence[str]) -> None:
    """Remove these versions of `key` for good. Refused if the store denies one."""
    doing = f"erase {key}"
    if list(versions) == [""]:
        attempt(place, doing, partial(client.delete_object, Bucket=place.bucket, Key=key), denied=Refused)
        return
    for start in range(0, len(versions), DELETE_BATCH):
        batch: Any = [{"Key": key, "VersionId": version} for version in versions[start : start + DELETE_BATCH]]
        attempt(place, doing, partial(_delete, client, place, batch), denied=Refused)


def delete_many(client: S3Client, place: Place, objects: Sequence[tuple[str, str]]) -> Sequence[MunimentError | None]:
    """Remove one version of each of many keys for good; for each, None, or what the store says against it.

    Raises what all of them failed of."""
    told: list[MunimentError | None] = []
    for start in range(0, len(objects), DELETE_BATCH):
        part = objects[start : start + DELETE_BATCH]
        batch: Any = [{"Key": key} | ({"VersionId": version} if version else {}) for key, version in part]
        request = partial(client.delete_objects, Bucket=place.bucket, Delete={"Objects": batch, "Quiet": True})
        answer: Any = attempt(place, f"erase {len(part)} objects", request, denied=Refused)
        failed = {error.get("Key"): error for error in answer.get("Errors", []) if error.get("Code") not in ABSENT}
        for key, _ in part:
            error = failed.get(key)
            if error is None:
                told.append(None)
                continue
            of_one = ClientError({"Error": error, "ResponseMetadata": answer["ResponseMetadata"]}, "DeleteObjects")
            told.append(meaning(place, f"erase {key}", of_one, Refused))
    return told


def _delete(client: S3Client, place: Place, batch: Any) -> None:
    answer: Any = client.delete_objects(Bucket=place.bucket, Delete={"Objects": batch, "Quiet": True})
    failed: list[Any] = [error for error in answer.get("Errors", []) if error.get("Code") not in ABSENT]
    if failed:
        # A denied one first: it will not get better by trying again, the others may.
        worst = min(failed, key=lambda error: error.get("Code") != "AccessDenied")
        raise ClientError({"Error": worst, "ResponseMetadata": answer["ResponseMetadata"]}, "DeleteObjects")


def _pages(client: S3Client, place: Place, prefix: str) -> Iterator[Listed]:
    at: dict[str, Any] = {"Bucket": place.bucket, "Prefix": prefix, "MaxKeys": PAGE}
    while True:
        page: Any = attempt(place, f"list {prefix}", partial(client.list_objects_v2, **at))
        for found in page.get("Contents", []):
            yield Listed(found["Key"], found["Size"], found["LastModified"])
        if not page.get("IsTruncated"):
            return
        token = page.get("NextContinuationToken")
        at |= _next(place, at, {"ContinuationToken": token} if token else {})


def _next(place: Place, at: dict[str, Any], following: dict[str, Any]) -> dict[str, Any]:
    if not following or following.items() <= at.items():
        raise Damaged(f"{place.url}: a listing of {at['Prefix']!r} says there is more, and not where; mend the store")
    return following
