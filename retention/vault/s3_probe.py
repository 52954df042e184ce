"""Whether an S3 store keeps what it is told to lock: what a lock must withstand is tried on objects to throw away.

Rules of this module:
- The store's answer to an attempt counts for nothing: a store may refuse and do it, or say yes and not do it. What
  counts is what is read afterwards: the bytes of the object, by its version and without, and its lock.
- Each attempt has an object of its own, locked for TERM: one that succeeds takes nothing from the others. Those of
  former probes are erased first, once their locks have ended.
- A store that does not answer was not probed: that is raised, and says nothing for the store or against it.
- Governance locks are made to be lifted by who has the right to (`bypass`): that attempt is told like the others, and
  whoever judges knows which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from retention.errors import Damaged, NotFound, Refused
from retention.vault.base import PROBES, Lock, LockMode, Vault, covers
from retention.vault.s3_requests import Place, attempt, md5

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

TERM = timedelta(minutes=15)
_CONTENT = b"An object that a lock keeps."
_OTHER = b"An object that came later."


@dataclass(frozen=True, slots=True)
class Target:
    """The object of an attempt: where it is, which version, and until when it is locked (or held)."""

    client: S3Client
    place: Place
    key: str  # of the vault
    at: dict[str, Any]  # bucket and key, as requests name them
    version: str
    until: datetime

    def ask(self, doing: str, call: Callable[..., Any], **asked: Any) -> Any:
        """Only what is no answer of the store is raised."""
        with suppress(Refused, Damaged):
            return attempt(self.place, doing, partial(call, **self.at, **asked), denied=Refused)


def _delete(target: Target, **how: Any) -> None:
    target.ask("probe delete", target.client.delete_object, VersionId=target.version, **how)


def _delete_many(target: Target) -> None:
    at: Any = {"Objects": [{"Key": target.at["Key"], "VersionId": target.version}]}
    request = partial(target.client.delete_objects, Bucket=target.at["Bucket"], Delete=at)
    with suppress(Refused, Damaged):
        attempt(target.place, "probe delete", request, denied=Refused)


def _bypass(target: Target) -> None:
    _delete(target, BypassGovernanceRetention=True)


def _shorten(target: Target, mode: LockMode = LockMode.GOVERNANCE, **how: Any) -> None:
    retention = {"Mode": mode.name, "RetainUntilDate": target.until - TERM / 2}
    put = target.client.put_object_retention
    target.ask("probe shorten", put, VersionId=target.version, Retention=retention, **how)


def _shorten_compliance(target: Target) -> None:
    for mode in LockMode:
        _shorten(target, mode, BypassGovernanceRetention=True)


def _overwrite(target: Target) -> None:
    target.ask("probe overwrite", target.client.put_object, Body=_OTHER, ContentMD5=md5(_OTHER))


def _overwrite_in_parts(target: Target) -> None:
    _in_parts(target, _OTHER)


def _in_parts(target: Target, content: bytes, **headers: Any) -> str:
    """The version that was uploaded, if the store says one."""
    begun = target.ask("probe upload in parts", target.client.create_multipart_upload, **headers)
    if begun is None:
        return ""
    part = {"UploadId": begun["UploadId"], "PartNumber": 1, "Body": content, "ContentMD5": md5(content)}
    sent = target.ask("probe upload in parts", target.client.upload_part, **part)
    if sent is None:
        target.ask("probe upload in parts", target.client.abort_multipart_upload, UploadId=begun["UploadId"])
        return ""
    parts = {"Parts": [{"PartNumber": 1, "ETag": sent["ETag"]}]}
    complete = target.client.complete_multipart_upload
    done = target.ask("probe upload in parts", complete, UploadId=begun["UploadId"], MultipartUpload=parts)
    return str(done.get("VersionId", "")) if done else ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is tried, on an object with a lock of this mode; without one, on an object under a hold."""

    mode: LockMode | None
    act: Callable[[Target], None]
    parts: bool = False  # the object itself is uploaded in parts


ATTEMPTS: Mapping[str, Attempt] = {
    "delete": Attempt(LockMode.GOVERNANCE, _delete),
    "delete-many": Attempt(LockMode.GOVERNANCE, _delete_many),
    "shorten": Attempt(LockMode.GOVERNANCE, _shorten),
    "overwrite": Attempt(LockMode.GOVERNANCE, _overwrite),
    "overwrite-in-parts": Attempt(LockMode.GOVERNANCE, _overwrite_in_parts),
    "delete-uploaded-in-parts": Attempt(LockMode.GOVERNANCE, _delete, parts=True),
    "delete-compliance": Attempt(LockMode.COMPLIANCE, _bypass),
    "shorten-compliance": Attempt(LockMode.COMPLIANCE, _shorten_compliance),
    "delete-held": Attempt(None, _bypass),
    "bypass": Attempt(LockMode.GOVERNANCE, _bypass),
}


def probe(vault: Vault, client: S3Client, place: Place, base: str, now: datetime) -> dict[str, str | None]:
    """Each attempt, with what became of the object where the lock did not hold. `base` stands before each key.

    Raises ServiceUnavailable or UsageError if the store cannot be asked."""
    for former in list(vault.list(PROBES)):
        with suppress(Refused):
            vault.erase(former.key)
    found: dict[str, str | None] = {}
    for name, one in ATTEMPTS.items():
        key = f"{PROBES}/{name}/{uuid4()}"
        target = Target(client, place, key, {"Bucket": place.bucket, "Key": base + key}, "", now + TERM)
        try:
            found[name] = _try(vault, one, target)
        except (Damaged, Refused, NotFound) as error:
            found[name] = str(error)
    return found


def _try(vault: Vault, one: Attempt, target: Target) -> str | None:
    lock = Lock(one.mode, target.until.replace(microsecond=0)) if one.mode else None
    if one.parts and lock is not None:
        headers = {"ObjectLockMode": lock.mode.name, "ObjectLockRetainUntilDate": lock.until}
        # RGW drops these headers; a put of the vault sets the lock apart then, and so does this.
        version = vault.lock(target.key, _in_parts(target, _CONTENT, **headers), lock).version
    else:
        digest = sha256(_CONTENT).digest()
        version = vault.put(target.key, _CONTENT, sha256=digest, size=len(_CONTENT), lock=lock).version
    if lock is None:
        vault.hold(target.key, version, True)
    one.act(Target(target.client, target.place, target.key, target.at, version, target.until))
    try:
        said = _what_became(vault, target.key, version, lock)
        if lock is None and said is None:
            vault.hold(target.key, version, False)
            with suppress(Refused):  # the next probe does it
                vault.erase(target.key)
    except NotFound:
        return "it is gone"
    return said


def _what_became(vault: Vault, key: str, version: str, lock: Lock | None) -> str | None:
    for asked in (version, ""):
        with vault.open(key, asked) as stream:
            if stream.read() != _CONTENT:
                return "other bytes stand in its place"
    seen = vault.stat(key, version)
    if lock is not None and not covers(seen.lock, lock):
        return f"its lock was until {lock.until.isoformat()} and reads as {seen.lock}"
    if lock is None and not seen.hold:
        return "its hold is off"
    return None
