"""A key for each record, so that destroying the key destroys the record everywhere (docs/design.md).

Rules of this module:
- Three levels. *Root*: an age identity in a file of mode 600, made on first use. *Bucket key*: one for each
  scope (a class) and month, 32 random bytes, kept in the *key safe*, a small file outside PostgreSQL, sealed
  to the root. *Record key*: a 32-byte X25519 secret, wrapped under its bucket key (AES key wrap, RFC 3394;
  40 bytes, the only form that ever reaches the database).
- What is sealed is in the age format (age-encryption.org/v1) to the record's own X25519 recipient: given the
  record key, any age tool opens it.
- The safe is durable before anything that needs it: a bucket key is on disk (temp file, fsync, rename, fsync
  of the folder) before a record is wrapped under it. A process may die anywhere and leaves a safe that opens.
- One safe, many processes: changes happen under flock, and start from what is on disk. A bucket key that another
  process dropped is remembered by those that had read it, until they end: a row that they read before is still opened.
- No secret is in a message, a log or `repr`.
- `commitment` and `place` are HMAC-SHA-256: a digest or a path that can be guessed is personal data.

The safe's term of old copies, escrow, AWS KMS and rotation are in requirements' *Sealing*.
"""

from __future__ import annotations

import base64
import fcntl
import hmac
import json
import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

import bech32
import pyrage
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from retention.errors import Damaged, NotFound, UsageError

_SECRET_PREFIX = "age-secret-key-"  # noqa: S105 - bech32's human-readable part, not a secret


@dataclass(frozen=True)
class RecordKey:
    """The X25519 secret of one record, quarantined document or pseudonym; opens and seals what is its own."""

    secret: bytes = field(repr=False)

    @cached_property  # a record is sealed twice, content and descriptor, and bech32 is slow
    def identity(self) -> pyrage.x25519.Identity:
        words = bech32.convertbits(self.secret, 8, 5, True) or []
        return pyrage.x25519.Identity.from_str(bech32.bech32_encode(_SECRET_PREFIX, words).upper())

    @cached_property
    def _recipient(self) -> pyrage.x25519.Recipient:
        return self.identity.to_public()

    def seal(self, content: bytes) -> bytes:
        """`content` as an age file of its own; random, so sealing twice gives different bytes."""
        return bytes(pyrage.encrypt(content, [self._recipient]))

    def seal_file(self, source: BinaryIO, target: BinaryIO) -> None:
        """The same, streamed: memory does not grow with the document."""
        pyrage.encrypt_io(source, target, [self._recipient])

    def open(self, sealed: bytes) -> bytes:
        """Raises Damaged if the bytes were changed or are not sealed with this key."""
        try:
            return bytes(pyrage.decrypt(sealed, [self.identity]))
        except pyrage.DecryptError as error:
            raise Damaged(f"sealed bytes do not open with their record's key: {error}") from None

    def open_file(self, source: BinaryIO, target: BinaryIO) -> None:
        """The same, streamed. What was written to `target` before Damaged is raised must be thrown away."""
        try:
            pyrage.decrypt_io(source, target, [self.identity])
        except (pyrage.DecryptError, OSError) as error:
            raise Damaged(f"sealed bytes do not open with their record's key: {error}") from None

    def commitment(self, digest: bytes) -> bytes:
        """HMAC of a document's digest under a salt derived from this key, and gone with it."""
        salt = hmac.digest(self.secret, b"muniment commitment v1", "sha256")
        return hmac.digest(salt, digest, "sha256")


def new_record_key() -> RecordKey:
    return RecordKey(secrets.token_bytes(32))


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket key: wraps the record keys of one scope and month."""

    id: UUID
    scope: str
    month: date
    generation: int
    key: bytes = field(repr=False)

    def wrap(self, key: RecordKey) -> bytes:
        return aes_key_wrap(self.key, key.secret)

    def unwrap(self, wrapped: bytes) -> RecordKey:
        """Raises Damaged if the row was not wrapped under this bucket key."""
        try:
            return RecordKey(aes_key_unwrap(self.key, wrapped))
        except InvalidUnwrap:
            raise Damaged(f"a record key of bucket {self.id} does not unwrap: the row or the safe is damaged") from None


@dataclass(slots=True)
class Safe:
    """The key safe of one workspace. `open_safe` makes it; a bucket that another process made is found."""

    folder: Path
    root: pyrage.x25519.Identity = field(repr=False)
    index_key: bytes = field(repr=False)
    _buckets: dict[UUID, Bucket] = field(repr=False, default_factory=dict)
    _dropped: dict[UUID, Bucket] = field(repr=False, default_factory=dict)  # by another process

    def current(self, scope: str, month: date, now: datetime, replaced: Collection[UUID] = ()) -> Bucket:
        """The bucket that new keys of this scope and month are wrapped under, none of `replaced`; made, durably, when
        missing."""
        month = month.replace(day=1)
        if found := self._newest(scope, month, replaced):
            return found
        with _locked(self.folder):
            self._read()
            if found := self._newest(scope, month, replaced):
                return found
            before = self._newest(scope, month)
            made = Bucket(uuid4(), scope, month, before.generation + 1 if before else 1, secrets.token_bytes(32))
            self._buckets[made.id] = made
            _write(self.folder, self.root, self.index_key, self._buckets, now)
            return made

    def drop(self, bucket_ids: Collection[UUID], now: datetime) -> None:
        """Forget bucket keys for good, durably; one that is gone already is fine. What they wrapped is closed from now
        on: the caller has wrapped anew what is to be read."""
        with _locked(self.folder):
            self._read()
            for bucket_id in bucket_ids:
                self._dropped.pop(bucket_id, None)
            kept = {bucket_id: b for bucket_id, b in self._buckets.items() if bucket_id not in bucket_ids}
            if len(kept) < len(self._buckets):
                _write(self.folder, self.root, self.index_key, kept, now)
            self._buckets = kept

    def bucket(self, bucket_id: UUID) -> Bucket:
        """Raises NotFound when the key is gone: what it wrapped was destroyed, or this is another safe."""
        if bucket_id not in self._buckets:
            self._read()
        if bucket_id not in self._buckets:
            if bucket_id in self._dropped:
                return self._dropped[bucket_id]
            raise NotFound(
                f"key safe {self.folder}: no bucket {bucket_id}. What was wrapped under it was destroyed, "
                "or this safe belongs to another catalog; restore the safe that belongs to it."
            )
        return self._buckets[bucket_id]

    def buckets(self) -> list[Bucket]:
        """All that there are, in the order of their ids."""
        self._read()
        return [self._buckets[one] for one in sorted(self._buckets)]

    def buckets_of(self, copy: bytes, what: str) -> dict[UUID, Bucket]:
        """What a copy of the safe had when it was made. Raises Damaged for that of another root."""
        return _opened(copy, self.root, what)[1]

    def place(self, source: str, place: str) -> bytes:
        """The pseudonym of a place in a source, for "already known"."""
        return self._hmac(b"place", source, place)

    def content(self, digest: bytes) -> bytes:
        """The pseudonym of a document's bytes, for "already known"."""
        return hmac.digest(self.index_key, b"content\0" + digest, "sha256")

    def day(self, purpose: str, *of: UUID | date) -> bytes:
        """A code of 8 bytes for a day that an event may not say, with whatever else it is bound to."""
        return self._hmac(b"day", purpose, *map(str, of))[:8]

    @property
    def tag(self) -> bytes:
        """What a catalog remembers of the safe it belongs to."""
        return hmac.digest(self.index_key, b"catalog", "sha256")

    def revision(self, revision: str) -> bytes:
        return self._hmac(b"revision", revision)

    def pseudonym(self, kind: str, name: str) -> UUID:
        """The same name has the same pseudonym in this workspace, and nobody else can compute it."""
        return UUID(bytes=self._hmac(b"pseudonym", kind, name)[:16], version=4)

    def _hmac(self, purpose: bytes, *parts: str) -> bytes:
        encoded = [part.encode("utf-8", "surrogateescape") for part in parts]
        framed = b"".join(len(part).to_bytes(8, "big") + part for part in encoded)
        return hmac.digest(self.index_key, purpose + b"\0" + framed, "sha256")

    def _newest(self, scope: str, month: date, replaced: Collection[UUID] = ()) -> Bucket | None:
        known = self._buckets.values()
        found = [b for b in known if b.scope == scope and b.month == month and b.id not in replaced]
        return max(found, key=lambda b: b.generation, default=None)

    def _read(self) -> None:
        before = self._buckets
        self.index_key, self._buckets = _read_safe(self.folder, self.root)
        self._dropped |= {bucket_id: b for bucket_id, b in before.items() if bucket_id not in self._buckets}


def open_safe(folder: Path, now: datetime, *, may_create: bool = True) -> Safe:
    """The key safe in `folder`, with its root key; both made on first use.

    A root without a safe is what a crash of the first use leaves, and gets one. `may_create` False when the
    catalog already has keys: then a missing root or safe is UsageError, never a new one, because a new root
    would make everything unreadable look merely absent."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(folder):
        root_file, safe_file = folder / "root.key", folder / "safe.age"
        missing = [p.name for p in (root_file, safe_file) if not p.exists()]
        if missing and (not may_create or missing == ["root.key"]):
            raise UsageError(
                f"key safe {folder}: {' and '.join(missing)} missing. Expected root.key and safe.age, which belong "
                "together and to this catalog. Restore them from their backup; nothing can be read without them."
            )
        if missing:
            if "root.key" in missing:
                write_private(root_file, f"{pyrage.x25519.Identity.generate()}\n".encode())
            root = _read_root(root_file)
            _write(folder, root, secrets.token_bytes(32), {}, now)
        root = _read_root(root_file)
        index_key, buckets = _read_safe(folder, root)
        return Safe(folder, root, index_key, buckets)


def signing_key(folder: Path) -> Ed25519PrivateKey:
    """The Ed25519 key that signs reconciliations; made on first use, mode 600."""
    path = folder / "signing.key"
    with _locked(folder):
        if not path.exists():
            made = Ed25519PrivateKey.generate()
            write_private(path, made.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())


def digest_of(stream: BinaryIO, chunk: int = 1 << 20) -> tuple[bytes, int]:
    """SHA-256 and size of what is left of a stream, read in chunks of `chunk` bytes."""
    digest, size = sha256(), 0
    while block := stream.read(chunk):
        digest.update(block)
        size += len(block)
    return digest.digest(), size


# ---------------------------------------------------------------- files


def _read_root(path: Path) -> pyrage.x25519.Identity:
    if path.stat().st_mode & 0o077:
        raise UsageError(f"refusing to use {path}: others may read it. Expected mode 600; run `chmod 600 {path}`.")
    try:
        return pyrage.x25519.Identity.from_str(path.read_text("ascii").strip())
    except (ValueError, pyrage.IdentityError):
        raise UsageError(f"{path}: expected one line AGE-SECRET-KEY-1…, found something else.") from None


def _read_safe(folder: Path, root: pyrage.x25519.Identity) -> tuple[bytes, dict[UUID, Bucket]]:
    path = folder / "safe.age"
    return _opened(path.read_bytes(), root, str(path))


def _opened(content: bytes, root: pyrage.x25519.Identity, what: str) -> tuple[bytes, dict[UUID, Bucket]]:
    try:
        opened = json.loads(pyrage.decrypt(content, [root]))
    except (pyrage.DecryptError, ValueError) as error:
        raise Damaged(
            f"key safe {what} does not open with the root key, root.key ({error}). "
            "They do not belong together, or one is damaged: restore both from the same backup."
        ) from None
    if opened["format"] != 1:
        raise UsageError(f"key safe {what}: expected format 1, found {opened['format']}. Install that version.")
    buckets = {
        UUID(b["id"]): Bucket(
            UUID(b["id"]),
            b["scope"],
            date.fromisoformat(b["month"]),
            b["generation"],
            base64.b64decode(b["key"]),
        )
        for b in opened["buckets"]
    }
    return base64.b64decode(opened["index_key"]), buckets


def _write(
    folder: Path, root: pyrage.x25519.Identity, index_key: bytes, buckets: dict[UUID, Bucket], now: datetime
) -> None:
    content = {
        "format": 1,
        "written": now.isoformat(),
        "index_key": base64.b64encode(index_key).decode(),
        "buckets": [
            {
                "id": str(b.id),
                "scope": b.scope,
                "month": b.month.isoformat(),
                "generation": b.generation,
                "key": base64.b64encode(b.key).decode(),
            }
            for b in buckets.values()
        ],
    }
    write_private(folder / "safe.age", pyrage.encrypt(json.dumps(content).encode(), [root.to_public()]))


def write_private(path: Path, content: bytes) -> None:
    """Atomic and durable, mode 600: temp file in the same folder, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
