"""What a vault is: the place of the bytes, which keeps what it was given and gives up nothing early.

Rules of every vault (tests/conformance/ holds each of them over every backend):
- `put` is once: the same bytes under the same key again is fine and changes nothing; other bytes under a
  taken key are refused, and what stood there stands.
- `put_many` is `put` of many objects, made durable together: when it returns, each is there whole or is not there.
  What it does not do in a folder is reading back: the digest is that of the bytes that were handed to the disk.
- `replace` is for the one object that is not for ever, the newest checkpoint of the ledger. Whoever reads meanwhile
  gets the former object or the new one, whole.
- `mend` gives an object whose bytes were damaged the right ones, with the lock and the hold that it had.
- `put` returns only after the stored object was read back and its bytes, digest and (where a lock was
  asked) lock were seen to be right. What was not read back is not stored.
- An object is visible whole or not at all; a crash leaves nothing under its key.
- A lock only grows. `erase` removes every version and marker, lists again to prove it, and refuses while
  a lock or a legal hold is in force.
- An answer that means "I could not" is never read as "it is not there".
- Keys are ASCII paths such as `records/<uuid>/<sha256>`: parts of [A-Za-z0-9._-], no empty part, no part
  that begins with a dot (`check_key`).
- Times of locks are whole seconds of UTC, rounded up, and end before 2106-02-07 (`storable`): Ceph RGW keeps
  32-bit seconds and wraps a later date to 1973. A longer term is reached by extending it yearly.

Errors: `Refused` (lock, hold, other bytes), `NotFound`, `Damaged` (bytes are not what they should be),
`ServiceUnavailable` (after bounded retries with jitter), all from retention.errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import BinaryIO, Protocol

from retention.errors import MunimentError, Refused, UsageError

LAST_LOCK = datetime(2106, 2, 6, tzinfo=UTC)  # 2**32 seconds end on 2106-02-07
PROBES = "probe"  # the folder of objects that a probe throws away
MAX_KEY = 800  # S3 allows 1,024 bytes, of which a prefix of the URL takes some
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class LockMode(StrEnum):
    """SEC 17a-4 words as S3 Object Lock has them; compliance cannot be shortened by anyone."""

    GOVERNANCE = "governance"
    COMPLIANCE = "compliance"


@dataclass(frozen=True, slots=True)
class Lock:
    """Retention of one object version. `until` is UTC; the store may keep seconds only."""

    mode: LockMode
    until: datetime


@dataclass(frozen=True, slots=True)
class Stored:
    """One object as the store has it. `sha256` is of the stored bytes, computed over what was read back."""

    key: str
    size: int
    version: str  # version id; "" on a store without versions
    sha256: bytes | None  # None in listings, where the bytes were not read
    lock: Lock | None
    hold: bool
    modified: datetime | None = None


def check_key(key: str) -> str:
    """`key` itself. Raises UsageError if it is not a key (see the rules of this module)."""
    if len(key) <= MAX_KEY and all(_PART.fullmatch(part) for part in key.split("/")):
        return key
    raise UsageError(
        f"{key[:120]!r} is no vault key: expected parts of A-Z a-z 0-9 . _ - divided by single slashes, none empty,"
        f" none beginning with a dot, parts of at most 200 and in all at most {MAX_KEY} characters"
    )


def folder(prefix: str) -> str:
    """What keys below `prefix` begin with: `records/a` and `records/a/` list `records/a/…`, never `records/ab`."""
    return f"{check_key(prefix.removesuffix('/'))}/" if prefix else ""


def storable(lock: Lock) -> Lock:
    """`lock` as every store can keep it: UTC, whole seconds rounded up, at most LAST_LOCK.

    Raises UsageError if the time has no zone."""
    if lock.until.tzinfo is None:
        raise UsageError(f"a lock until {lock.until.isoformat()} names no time zone; expected UTC")
    until = lock.until.astimezone(UTC)
    if until.microsecond:
        until = until.replace(microsecond=0) + timedelta(seconds=1)
    return Lock(lock.mode, min(until, LAST_LOCK))


def covers(current: Lock | None, asked: Lock) -> bool:
    """True if `current` keeps at least as long and as strictly as `asked`."""
    return (
        current is not None
        and current.until >= asked.until
        and (current.mode is LockMode.COMPLIANCE or asked.mode is LockMode.GOVERNANCE)
    )


def extension(key: str, current: Lock | None, asked: Lock) -> Lock | None:
    """The lock to set so that `asked` holds and nothing of `current` is lost; None if nothing is to be done.

    Raises Refused if `asked` ends before `current`. A compliance lock stays one when it is extended."""
    if current is None:
        return asked
    if asked.until < current.until:
        raise Refused(
            f"refusing to shorten the lock of {key}: it is locked ({current.mode}) until {current.until.isoformat()},"
            f" asked was {asked.until.isoformat()}; a lock only grows"
        )
    if covers(current, asked):
        return None
    return Lock(max(current.mode, asked.mode, key=list(LockMode).index), asked.until)


def refuse_if_kept(seen: Stored, now: datetime) -> None:
    """Raises Refused if a hold or a lock in force at `now` keeps `seen`."""
    if seen.hold:
        raise Refused(f"refusing to erase {seen.key}: a legal hold is on it; lift the hold first")
    if seen.lock is not None and seen.lock.until > now:
        raise Refused(
            f"refusing to erase {seen.key}: locked ({seen.lock.mode}) until {seen.lock.until.isoformat()};"
            " try after that"
        )


@dataclass(frozen=True, slots=True)
class Given:
    """An object to be put: `open` gives its bytes, which are read once."""

    key: str
    open: Callable[[], BinaryIO]
    sha256: bytes
    size: int


class Vault(Protocol):
    """A backend, safe for use by many threads. `now` in checks of locks is the vault's own clock."""

    url: str  # without credentials, for messages and reports
    threads: int  # the most that it is worth to use at a time: a store is waited for, a disk is kept busy by a few

    def put(self, key: str, content: bytes | BinaryIO, *, sha256: bytes, size: int, lock: Lock | None = None) -> Stored:
        """Store `content` (a file is read from its beginning), whose digest and size are known, and read it back.

        Raises Damaged, with nothing stored, if the content is not what `sha256` and `size` say. Give the lock the
        mode that policy will want later: stores refuse to turn a governance lock into a compliance lock."""
        ...

    def put_many(self, objects: Sequence[Given], threads: int) -> Sequence[Stored | MunimentError]:
        """Put each; for each what stands there, or why it does not: Damaged, NotFound of its source, Refused.

        Raises what concerns all of them, a disk that is full or a store that is away; what was put stays."""
        ...

    def replace(self, key: str, content: bytes) -> Stored:
        """Put `content` in the place of whatever stands there, and read it back; then the former versions go.

        Raises Refused if one of them is locked or held. One at a time: the caller sees to it."""
        ...

    def mend(self, key: str, version: str, content: bytes | BinaryIO, *, sha256: bytes, size: int) -> Stored:
        """Put the right bytes in the place of damaged or missing ones, and read them back: the version to open now.

        Lock and hold of the damaged version are on the new one before it goes; where it is locked it stays beside.
        Raises Damaged, with nothing changed, if the content is not what `sha256` and `size` say."""
        ...

    def open(self, key: str, version: str = "") -> BinaryIO:
        """The bytes, streamed; close it after use. Without `version`: the first version. Raises NotFound."""
        ...

    def stat(self, key: str, version: str = "") -> Stored:
        """Size, version, lock and hold, without reading the bytes. Raises NotFound."""
        ...

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """Every object below the folder `prefix` ("" is all), in order of key (bytewise), streamed.

        Only key, size and time: version, lock and hold are not looked up ("", None, False)."""
        ...

    def lock(self, key: str, version: str, lock: Lock) -> Stored:
        """Extend the lock (never shorten: Refused), read it back. A lock that was not read back is not a lock."""
        ...

    def hold(self, key: str, version: str, on: bool) -> Stored:
        """Set or lift the legal-hold flag, read it back."""
        ...

    def erase(self, key: str) -> int:
        """Remove every version and marker, list again; returns how many versions went. Refused while locked.

        Erasing what is not there returns 0: running it twice changes nothing the second time."""
        ...

    def erase_many(self, objects: Sequence[tuple[str, str]]) -> Sequence[MunimentError | None]:
        """Erase objects (key, version) that were never locked or held; for each, None, or why it is still there.

        In as few requests as the store allows. No lock is looked for, but what the store itself refuses is told as
        Refused. Each key is listed again, and what other versions it has are erased as `erase` does."""
        ...

    def check(self) -> None:
        """Reach the store and find it usable. Raises ServiceUnavailable or UsageError with the next step."""
        ...

    def time(self) -> datetime | None:
        """What the store's own clock says, if it has one: evidence from outside against a clock that is wrong."""
        ...

    def locks(self) -> bool:
        """True if the store can lock versions against deletion (S3 Object Lock is on)."""
        ...

    def probe(self) -> Mapping[str, str | None]:
        """Try what a lock must withstand, on objects to throw away: for each attempt None, or what became of it.

        Empty where `locks()` is False. Raises ServiceUnavailable if the store cannot be asked: then it says nothing."""
        ...

    def sweep(self, before: datetime) -> int:
        """Remove what puts interrupted before that time left behind (never an object); returns how many."""
        ...
