"""What a vault is: the place of the bytes, which keeps what it was given and gives up nothing early.

Rules of every vault (tests/conformance/ holds each of them over every backend):
- `put` is once: the same bytes under the same key again is fine and changes nothing; other bytes under a
  taken key are refused, and what stood there stands.
- `put` returns only after the stored object was read back and its bytes, digest and (where a lock was
  asked) lock were seen to be right. What was not read back is not stored.
- An object is visible whole or not at all; a crash leaves nothing under its key.
- A lock only grows. `erase` removes every version and marker, lists again to prove it, and refuses while
  a lock or a legal hold is in force.
- An answer that means "I could not" is never read as "it is not there".
- Keys are ASCII paths such as `records/<uuid>/<sha256>`: parts of [A-Za-z0-9._-], no empty part, no dot parts.

Errors: `Refused` (lock, hold, other bytes), `NotFound`, `Damaged` (bytes are not what they should be),
`ServiceUnavailable` (after bounded retries with jitter), all from retention.errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import BinaryIO, Protocol


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


class Vault(Protocol):
    """A backend. Instances are safe for use by many threads. `now` in lock checks is the vault's own clock."""

    url: str  # without credentials, for messages and reports

    def put(self, key: str, content: bytes | BinaryIO, *, sha256: bytes, size: int, lock: Lock | None = None) -> Stored:
        """Store `content` (seekable if a file), whose digest and size are known, and read it back."""
        ...

    def open(self, key: str, version: str = "") -> BinaryIO:
        """The bytes, streamed. Raises NotFound."""
        ...

    def stat(self, key: str, version: str = "") -> Stored:
        """Size, version, lock and hold, without reading the bytes. Raises NotFound."""
        ...

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """Every current object below `prefix`, in order of key (bytewise), streamed."""
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

    def check(self) -> None:
        """Reach the store and find it usable. Raises ServiceUnavailable or UsageError with the next step."""
        ...

    def locks(self) -> bool:
        """True if the store can lock versions against deletion (S3 Object Lock is on)."""
        ...
