"""A vault in an S3 bucket, on every store that speaks S3 Object Lock (requirements: *S3 portability*).

Rules of this module:
- The object of a key is its *oldest* version; later ones and delete markers hide nothing and count for
  nothing. So put-once also holds on stores that ignore `If-None-Match` (Ceph RGW on versioned buckets).
- A put is two requests: PUT with `If-None-Match: *`, lock headers and both checksums, and one GET by version
  which reads bytes, digest and lock together. Only where that answer lacks the lock (RGW drops it from
  multipart uploads) is it set apart, and read back. Whether the store honours the condition is seen from its
  answers; until it is known, and where it is ignored, a listing of the versions follows the PUT.
- Locks belong to versions. A DELETE without a version id removes nothing, so it is never sent to a bucket
  with versions. HEAD may leave lock fields out: absence is asked for by name before it means "unlocked".
- A store has been known not to enforce a lock: `erase` and `lock` look themselves before they ask.
- Only object and version requests are sent, and three bucket ones (versioning, object lock, create): DELETEs
  of sub-resources that a store does not know have removed whole buckets.
- A bucket without versions works too, with version "" and without locks.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError

from retention.errors import Damaged, MunimentError, NotFound, Refused, ServiceUnavailable, UsageError
from retention.vault.base import (
    Given,
    Lock,
    LockMode,
    Stored,
    check_key,
    covers,
    extension,
    folder,
    refuse_if_kept,
    storable,
)
from retention.vault.s3_content import CHUNK, SINGLE, Content, upload
from retention.vault.s3_probe import probe
from retention.vault.s3_requests import (
    ABSENT,
    NO_LOCK,
    NO_UPLOAD,
    UNKNOWN_REQUEST,
    Place,
    attempt,
    attempt_unless,
    connect,
    meaning,
    place_of,
)
from retention.vault.s3_versions import delete, delete_many, each_object, of_key
from retention.vault.s3_wire import Wire

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LEARN_UP_TO = 1024 * 1024  # bytes sent a second time, once a process, to see whether the store honours conditions
_LOOKS = 5  # for the version of an object that others replace: the one that was listed may go before it is read


def ensure_bucket(url: str, *, lock: bool = True, access_key: str | None = None, secret_key: str | None = None) -> None:
    """Make the bucket of `url`, with versions and (with `lock`) Object Lock, unless it is there.

    Raises UsageError if it is there without the Object Lock asked for, or belongs to somebody else."""
    place = place_of(url)
    client = connect(place, access_key, secret_key)
    wanted: dict[str, Any] = {"ObjectLockEnabledForBucket": True} if lock else {}
    if place.endpoint is None and client.meta.region_name != "us-east-1":
        wanted["CreateBucketConfiguration"] = {"LocationConstraint": client.meta.region_name}
    doing = f"make the bucket {place.bucket}"
    attempt_unless(
        frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}),
        place,
        doing,
        lambda: client.create_bucket(Bucket=place.bucket, **wanted),
    )
    vault = S3Vault(place, client)
    vault.check()  # SeaweedFS says "exists" of our own bucket too; somebody else's denies this
    if lock and not vault.locks():
        raise UsageError(
            f"{place.url}: the bucket {place.bucket} is there without Object Lock, which can be switched on only when"
            " a bucket is made; choose another name, or ask for a vault without locks"
        )


class S3Vault:
    """`retention.vault.base.Vault` in a bucket, or below a prefix of one."""

    threads = 1_000  # as many as the settings want

    def __init__(self, place: Place, client: S3Client, wire: Wire | None = None) -> None:
        """`wire` is the short way to the same store, for the first attempt of a put and its read-back."""
        self.url = place.url
        self._place = place
        self._client = client
        self._wire = wire
        self._base = f"{place.prefix}/" if place.prefix else ""
        # Facts of the bucket, each None until it was seen. Assignments are atomic and any thread sees the same.
        self._versioned: bool | None = None
        self._lockable: bool | None = None
        self._conditional: bool | None = None  # it honours If-None-Match
        self._learning = threading.Lock()

    # The verbs

    def put(self, key: str, content: bytes | BinaryIO, *, sha256: bytes, size: int, lock: Lock | None = None) -> Stored:
        target = self._at(key)
        asked = storable(lock) if lock else None
        if asked is not None:
            self._refuse_unless_lockable(f"put {key}")
        given = Content.verified(key, content, sha256=sha256, size=size)
        # A late version that is locked could not be removed again, and without versions a late one overwrites:
        # where the condition may be ignored, look before. Nor is much sent only to be told that it is there.
        unsure = self._conditional is not True or size > SINGLE
        if size > SINGLE or (unsure and (asked is not None or not self._has_versions())):
            there = self._first(key)
            if there is not None:
                return self._found(key, there, sha256, asked)
        condition = {} if self._conditional is False else {"IfNoneMatch": "*"}
        wanted = {**target, **_lock_headers(asked)}
        version = upload(self._client, self._place, key, given, wanted, condition, self._wire)
        if version is None:
            self._conditional = True
        elif self._has_versions() and (unsure or not version):
            version = self._oldest_of(key, version)
        if version is None:
            there = self._first(key)
            if there is None:
                raise ServiceUnavailable(f"{self.url}: {key} was erased while it was put; run again")
            return self._found(key, there, sha256, asked)
        seen = self._read_back(key, version, sha256, asked)
        if self._conditional is None and size <= LEARN_UP_TO and self._has_versions():
            self._learn(key, given)
        return seen

    def put_many(self, objects: Sequence[Given], threads: int) -> Sequence[Stored | MunimentError]:
        def put(one: Given) -> Stored | MunimentError:
            try:
                with closing(one.open()) as source:
                    if one.size <= SINGLE:
                        return self.put(one.key, source.read(), sha256=one.sha256, size=one.size)
                    with TemporaryFile() as file:  # it is read more than once
                        shutil.copyfileobj(source, file, CHUNK)
                        return self.put(one.key, file, sha256=one.sha256, size=one.size)
            except (Damaged, NotFound, Refused) as error:
                return error

        with ThreadPoolExecutor(threads, "vault") as pool:
            return list(pool.map(put, objects))

    def replace(self, key: str, content: bytes) -> Stored:
        target, digest = self._at(key), hashlib.sha256(content).digest()
        former = [version for version in self._all_of(key)[0] if version]
        if self.locks():
            for version in former:
                with suppress(NotFound):
                    refuse_if_kept(*self._stat(key, version))
        given = Content.verified(key, content, sha256=digest, size=len(content))
        version = upload(self._client, self._place, key, given, target, {}, self._wire) or ""
        if self._has_versions() and not version:
            version = next(iter(self._all_of(key)[0]), "")
        seen = self._read_back(key, version, digest, None)
        self._delete(key, [one for one in former if one != seen.version])
        return seen

    def mend(self, key: str, version: str, content: bytes | BinaryIO, *, sha256: bytes, size: int) -> Stored:
        target = self._at(key)
        given = Content.verified(key, content, sha256=sha256, size=size)
        try:
            former, at = self._stat(key, version or self._first_or_absent(key))
        except NotFound:  # that version is gone: another one may stand there
            if (there := self._first(key)) is None:
                return self.put(key, content, sha256=sha256, size=size)
            former, at = self._stat(key, there)
        lock = former.lock if former.lock is not None and former.lock.until > at else None
        fresh = upload(self._client, self._place, key, given, {**target, **_lock_headers(lock)}, {}, self._wire) or ""
        if self._has_versions() and not fresh:
            fresh = next(iter(self._all_of(key)[0]), "")
        seen = self._read_back(key, fresh, sha256, lock)
        if former.hold:
            seen = replace(self.hold(key, seen.version, True), sha256=sha256)
        if former.version != seen.version and not former.hold and lock is None:
            self._delete(key, [former.version])
        return seen

    def open(self, key: str, version: str = "") -> BinaryIO:
        for _ in range(1 if version else _LOOKS):
            at = self._at(key, version or self._first_or_absent(key))
            answer = attempt_unless(ABSENT, self._place, f"open {key}", partial(self._client.get_object, **at))
            if not isinstance(answer, str):
                return io.BufferedReader(_Body(self._place, key, answer["Body"]), CHUNK)
        raise self._absent(key, version)

    def stat(self, key: str, version: str = "") -> Stored:
        return self._stat(key, version or self._first_or_absent(key))[0]

    def list(self, prefix: str = "") -> Iterator[Stored]:
        for found in each_object(self._client, self._place, self._base + folder(prefix)):
            key = found.key.removeprefix(self._base)
            yield Stored(key, found.size, "", None, None, False, found.modified)

    def lock(self, key: str, version: str, lock: Lock) -> Stored:
        self._refuse_unless_lockable(f"lock {key}")
        seen = self.stat(key, version)
        setting = extension(key, seen.lock, storable(lock))
        return seen if setting is None else self._set_lock(key, seen.version, setting)

    def hold(self, key: str, version: str, on: bool) -> Stored:
        self._refuse_unless_lockable(f"put a hold on {key}")
        version = version or self._first_or_absent(key)
        at = self._at(key, version)
        attempt_unless(
            ABSENT,
            self._place,
            f"set the hold of {key}",
            lambda: self._client.put_object_legal_hold(**at, LegalHold={"Status": "ON" if on else "OFF"}),
        )
        seen = self.stat(key, version)
        if seen.hold is not on:
            raise Damaged(f"{self.url}: the hold of {key} was set {'on' if on else 'off'} and reads otherwise")
        return seen

    def erase(self, key: str) -> int:
        gone = 0
        for _ in range(3):
            versions, markers = self._all_of(key)
            if not versions and not markers:
                return gone
            if self.locks():
                for version in versions:
                    with suppress(NotFound):
                        refuse_if_kept(*self._stat(key, version))
            # Markers last: without its marker a version that could not be removed would come to light again.
            self._delete(key, versions)
            self._delete(key, markers)
            gone += len(versions)
        raise ServiceUnavailable(f"{self.url}: {key} has versions again after it was erased: who writes it? Run again")

    def erase_many(self, objects: Sequence[tuple[str, str]]) -> Sequence[MunimentError | None]:
        versioned = self._has_versions()
        named = [(key, version) for key, version in objects if bool(version) is versioned]
        try:
            at = [(self._base + check_key(key), version) for key, version in named]
            told = dict(zip((key for key, _ in named), delete_many(self._client, self._place, at), strict=True))
        except MunimentError as error:
            return [error] * len(objects)

        def rest(key: str) -> MunimentError | None:
            try:
                if told.get(key) is None and any(self._all_of(key)):
                    self.erase(key)
            except MunimentError as error:
                return error
            return told.get(key)

        return [rest(key) for key, _ in objects]

    def check(self) -> None:
        self._versioned = None
        self._has_versions()
        self.locks()
        attempt(
            self._place,
            "list the bucket",
            lambda: self._client.list_objects_v2(Bucket=self._place.bucket, Prefix=self._base, MaxKeys=1),
        )

    def time(self) -> datetime | None:
        answer = attempt(self._place, "ask for its time", lambda: self._client.head_bucket(Bucket=self._place.bucket))
        said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        try:
            return parsedate_to_datetime(said) if said else None
        except ValueError:
            return None

    def locks(self) -> bool:
        if self._lockable is None:
            answer = attempt_unless(
                NO_LOCK | UNKNOWN_REQUEST | {"MethodNotAllowed"},
                self._place,
                "read the Object Lock configuration",
                lambda: self._client.get_object_lock_configuration(Bucket=self._place.bucket),
            )
            self._lockable = (
                not isinstance(answer, str)
                and answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled"
                and self._has_versions()
            )
        return self._lockable

    def probe(self) -> Mapping[str, str | None]:
        if not self.locks():
            return {}
        return probe(self, self._client, self._place, self._base, self.time() or datetime.now(UTC))

    def sweep(self, before: datetime) -> int:
        """Abort uploads in parts that were begun before then."""
        swept = 0
        at: dict[str, Any] = {"Bucket": self._place.bucket, "Prefix": self._base}
        while True:
            page = attempt(self._place, "list uploads", partial(self._client.list_multipart_uploads, **at))
            for begun in page.get("Uploads", []):
                if begun["Initiated"] < before:
                    this: dict[str, Any] = {
                        "Bucket": self._place.bucket,
                        "Key": begun["Key"],
                        "UploadId": begun["UploadId"],
                    }
                    attempt_unless(
                        NO_UPLOAD,
                        self._place,
                        f"abort the upload of {begun['Key']}",
                        partial(self._client.abort_multipart_upload, **this),
                    )
                    swept += 1
            if not page.get("IsTruncated"):
                return swept
            at |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    # Put: what follows the PUT

    def _found(self, key: str, version: str, sha256: bytes, asked: Lock | None) -> Stored:
        """The key was taken: the same bytes are fine, and get the lock that was asked; others are refused."""
        seen = self._read(key, version)
        if seen.sha256 != sha256:
            raise Refused(
                f"refusing to put {key}: other bytes stand there (sha256 {(seen.sha256 or b'').hex()},"
                f" given {sha256.hex()}) in {self.url}"
            )
        if asked is None:
            return seen
        longest = max(asked.until, seen.lock.until) if seen.lock else asked.until
        setting = extension(key, seen.lock, Lock(asked.mode, longest))
        return seen if setting is None else self._set_lock(key, version, setting, sha256)

    def _read_back(self, key: str, version: str, sha256: bytes, asked: Lock | None) -> Stored:
        seen = self._read(key, version)
        if seen.sha256 != sha256:
            left = "it was removed; put it again"
            try:
                self._delete(key, [version])
            except Refused as refused:
                left = f"it could not be removed ({refused})"
            raise Damaged(
                f"{self.url}: {key} was stored as sha256 {sha256.hex()} and reads"
                f" as {(seen.sha256 or b'').hex()}; {left}"
            )
        if asked is None or covers(seen.lock, asked):
            return seen
        return self._set_lock(key, version, asked, sha256)

    def _oldest_of(self, key: str, version: str) -> str | None:
        """`version`, if it is the object of `key`. Else it came too late: it is removed, and None.

        One that was locked when it was put cannot be removed. It does no harm: it is not the object, and goes
        with it."""
        if not version:
            return None
        versions, _ = self._all_of(key)
        if versions and versions[-1] == version:
            return version
        if version in versions:
            self._conditional = False
            with suppress(Refused):
                self._delete(key, [version])
        return None

    def _learn(self, key: str, given: Content) -> None:
        """See whether If-None-Match is honoured: put once more what was just put. One thread tries."""
        if not self._learning.acquire(blocking=False):
            return
        try:
            again = upload(self._client, self._place, key, given, self._at(key), {"IfNoneMatch": "*"})
            self._conditional = again is None
            if again:
                with suppress(Refused):
                    self._delete(key, [again])
        finally:
            self._learning.release()

    def _set_lock(self, key: str, version: str, lock: Lock, sha256: bytes | None = None) -> Stored:
        at = self._at(key, version)
        retention: Any = {"Mode": lock.mode.name, "RetainUntilDate": lock.until}
        attempt(
            self._place,
            f"lock {key} ({lock.mode} until {lock.until.isoformat()})",
            lambda: self._client.put_object_retention(**at, Retention=retention),
            denied=Refused,
        )
        seen = self.stat(key, version)
        if not covers(seen.lock, lock):
            raise Damaged(f"{self.url}: {key} was locked until {lock.until.isoformat()} and reads as {seen.lock}")
        return Stored(seen.key, seen.size, seen.version, sha256, seen.lock, seen.hold, seen.modified)

    # Single requests

    def _at(self, key: str, version: str = "") -> dict[str, Any]:
        at = {"Bucket": self._place.bucket, "Key": self._base + check_key(key)}
        if version and not self._has_versions():
            # SeaweedFS answers with the object whatever version is asked for.
            raise NotFound(f"{self.url} has no {key} of version {version}: its bucket keeps no versions")
        return {**at, "VersionId": version} if version else at

    def _read(self, key: str, version: str) -> Stored:
        at = self._at(key, version)

        shortly = [] if self._wire is None else [self._wire]

        def read() -> Stored:
            if shortly and (read := shortly.pop().get(at["Key"], version)):
                return _stored(key, version, read[1], read[0], read[2])
            answer = self._client.get_object(**at)
            digest = hashlib.sha256()
            size = 0
            with closing(answer["Body"]) as body:
                while chunk := body.read(CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
            return _stored(key, version, size, answer, digest.digest())

        seen = attempt_unless(ABSENT, self._place, f"read back {key}", read)
        if isinstance(seen, str):
            raise self._absent(key, version)
        return seen

    def _stat(self, key: str, version: str) -> tuple[Stored, datetime]:
        """The version, and the time by the store's own clock."""
        at = self._at(key, version)
        answer: Any = attempt_unless(ABSENT, self._place, f"stat {key}", partial(self._client.head_object, **at))
        if isinstance(answer, str):
            raise self._absent(key, version)
        if self.locks():
            if "ObjectLockMode" not in answer or "ObjectLockRetainUntilDate" not in answer:
                found: Any = self._ask(
                    f"read the lock of {key}", lambda: self._client.get_object_retention(**at)["Retention"]
                )
                if found:
                    answer |= {
                        "ObjectLockMode": found["Mode"],
                        "ObjectLockRetainUntilDate": found["RetainUntilDate"],
                    }
            if "ObjectLockLegalHoldStatus" not in answer:
                found = self._ask(
                    f"read the hold of {key}", lambda: self._client.get_object_legal_hold(**at)["LegalHold"]
                )
                answer |= {"ObjectLockLegalHoldStatus": found["Status"]} if found else {}
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
        return _stored(key, version, answer["ContentLength"], answer, None), now

    def _ask(self, doing: str, call: Callable[[], Any]) -> Any:
        answer = attempt_unless(NO_LOCK, self._place, doing, call)
        return None if isinstance(answer, str) else answer

    def _has_versions(self) -> bool:
        if self._versioned is None:
            answer = attempt_unless(
                UNKNOWN_REQUEST,
                self._place,
                "read the versioning of the bucket",
                lambda: self._client.get_bucket_versioning(Bucket=self._place.bucket),
            )
            status = None if isinstance(answer, str) else answer.get("Status")
            if status == "Suspended":
                raise UsageError(
                    f"{self.url}: versioning of {self._place.bucket} is suspended, so that a put would overwrite;"
                    " enable it, or choose another bucket"
                )
            self._versioned = status == "Enabled"
        return self._versioned

    def _refuse_unless_lockable(self, doing: str) -> None:
        if not self.locks():
            raise Refused(
                f"refusing to {doing}: the bucket {self._place.bucket} has no Object Lock; choose a vault that can lock"
            )

    def _absent(self, key: str, version: str) -> NotFound:
        self._first(key)  # a bucket that is not there answers HEAD and GET alike: the listing tells
        return NotFound(f"{self.url} has no {key}" + (f" of version {version}" if version else ""))

    def _first_or_absent(self, key: str) -> str:
        version = self._first(key)
        if version is None:
            raise NotFound(f"{self.url} has no {key}")
        return version

    def _first(self, key: str) -> str | None:
        """The version that is the object; None if there is none."""
        versions, _ = self._all_of(key)
        return versions[-1] if versions else None

    def _all_of(self, key: str) -> tuple[Sequence[str], Sequence[str]]:
        """Versions and delete markers of exactly this key, newest first."""
        name: str = self._at(key)["Key"]
        if self._has_versions():
            return of_key(self._client, self._place, name)
        there = partial(self._client.list_objects_v2, Bucket=self._place.bucket, Prefix=name, MaxKeys=1)
        found = attempt(self._place, f"look for {key}", there).get("Contents", [])
        return [""] if found and found[0].get("Key") == name else [], []

    def _delete(self, key: str, versions: Sequence[str]) -> None:
        delete(self._client, self._place, self._at(key)["Key"], versions)


class _Body(io.RawIOBase):
    """A body as a file, whose errors are ours."""

    def __init__(self, place: Place, key: str, body: Any) -> None:
        self._place = place
        self._key = key
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            chunk = self._body.read(len(buffer))
        except (BotoCoreError, ClientError) as error:
            raise meaning(self._place, f"read {self._key}", error) from error
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        if not self.closed:
            self._body.close()
        super().close()


def _lock_headers(lock: Lock | None) -> dict[str, Any]:
    return {"ObjectLockMode": lock.mode.name, "ObjectLockRetainUntilDate": lock.until} if lock else {}


def _stored(key: str, version: str, size: int, answer: Any, sha256: bytes | None) -> Stored:
    """From the answer to GET or HEAD, whose lock fields boto3 names alike."""
    mode, until = answer.get("ObjectLockMode"), answer.get("ObjectLockRetainUntilDate")
    lock = Lock(LockMode[mode], until.astimezone(UTC)) if mode and until else None
    hold = answer.get("ObjectLockLegalHoldStatus") == "ON"
    return Stored(key, size, version, sha256, lock, hold, answer.get("LastModified"))
