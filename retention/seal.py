"""A key for each record, so that destroying the key destroys the record everywhere (docs/design.md).

Rules of this module:
- Three levels. *Root*: an age identity, in a file or sealed by AWS KMS (retention.roots), made on first use. *Bucket
  key*: one for each scope (a class) and month, 32 random bytes, kept in the *key safe*, a small file outside
  PostgreSQL, sealed to the root. *Record key*: a 32-byte X25519 secret, wrapped under its bucket key (AES key wrap,
  RFC 3394; 40 bytes, the only form that ever reaches the database).
- What is sealed is in the age format (age-encryption.org/v1) to the record's own X25519 recipient: given the
  record key, any age tool opens it.
- The root can be replaced, and nothing but the safe is written anew. The roots before it stay in the safe for as long
  as something needs them: each copy of the safe has them, and the present root is all that has to be kept. Between the
  two files that a replacement writes the safe is sealed to both roots, so that `root.key` opens it at every moment.
- The safe is durable before anything that needs it: a bucket key is on disk (temp file, fsync, rename, fsync
  of the folder) before a record is wrapped under it. A process may die anywhere and leaves a safe that opens.
- One safe, many processes: changes happen under flock, and start from what is on disk. A bucket key that another
  process dropped is remembered by those that had read it, until they end: a row that they read before is still opened.
- No secret is in a message, a log or `repr`.
- `commitment` and `place` are HMAC-SHA-256: a digest or a path that can be guessed is personal data.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

import pyrage
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from retention import roots
from retention.errors import Damaged, NotFound, UsageError
from retention.private_files import locked, write_private
from retention.roots import Root, identity_of, new_root, read_root

SAFE = "safe.age"


@dataclass(frozen=True)
class RecordKey:
    """The X25519 secret of one record, quarantined document or pseudonym; opens and seals what is its own."""

    secret: bytes = field(repr=False)

    @cached_property  # a record is sealed twice, content and descriptor
    def identity(self) -> pyrage.x25519.Identity:
        return identity_of(self.secret)

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


@dataclass(frozen=True, slots=True)
class FormerRoot:
    """A root that was replaced; it opens what was sealed to it until `retired_at`."""

    id: UUID
    retired_at: datetime
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Contents:
    """What a file of the safe holds."""

    index_key: bytes = field(repr=False)
    buckets: dict[UUID, Bucket] = field(repr=False, default_factory=dict)
    former: tuple[FormerRoot, ...] = ()


@dataclass(slots=True)
class Safe:
    """The key safe of one workspace. `open_safe` makes it; a bucket that another process made is found."""

    folder: Path
    root: Root
    index_key: bytes = field(repr=False)
    _buckets: dict[UUID, Bucket] = field(repr=False, default_factory=dict)
    _former: tuple[FormerRoot, ...] = ()
    _dropped: dict[UUID, Bucket] = field(repr=False, default_factory=dict)  # by another process

    def current(self, scope: str, month: date, now: datetime, replaced: Collection[UUID] = ()) -> Bucket:
        """The bucket that new keys of this scope and month are wrapped under, none of `replaced`; made, durably, when
        missing."""
        month = month.replace(day=1)
        if found := self._newest(scope, month, replaced):
            return found
        with locked(self.folder):
            self._read()
            if found := self._newest(scope, month, replaced):
                return found
            before = self._newest(scope, month)
            made = Bucket(uuid4(), scope, month, before.generation + 1 if before else 1, secrets.token_bytes(32))
            self._buckets[made.id] = made
            self._write(now)
            return made

    def drop(self, bucket_ids: Collection[UUID], now: datetime) -> None:
        """Forget bucket keys for good, durably; one that is gone already is fine. What they wrapped is closed from now
        on: the caller has wrapped anew what is to be read."""
        with locked(self.folder):
            self._read()
            for bucket_id in bucket_ids:
                self._dropped.pop(bucket_id, None)
            before = len(self._buckets)
            self._buckets = {bucket_id: b for bucket_id, b in self._buckets.items() if bucket_id not in bucket_ids}
            if len(self._buckets) < before:
                self._write(now)

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
        return _opened(copy, self._identities(), what).buckets

    @property
    def former(self) -> Sequence[FormerRoot]:
        """The roots before the present one that are still there, first to last."""
        self._read()
        return self._former

    def replace_root(self, new: Root, now: datetime) -> None:
        """Seal the safe to another root, durably; the one before it is kept in the safe, as a former one."""
        with locked(self.folder):
            self._read()
            self._former = (*self._former, FormerRoot(self.root.id, now, self.root.secret))
            self._write(now, also=new)
            write_private(self.folder / roots.FILE, new.file)
            self.root = new
            self._write(now)

    def drop_roots(self, ids: Collection[UUID], now: datetime) -> None:
        """Forget former roots, durably, and write the safe for its present root alone (which a replacement that was cut
        off may have left undone)."""
        with locked(self.folder):
            self._read()
            self._former = tuple(one for one in self._former if one.id not in ids)
            self._write(now)

    def seal(self, content: bytes) -> bytes:
        """`content` as an age file that the root opens."""
        self.root = read_root(self.folder / roots.FILE, self.root)  # another process may have replaced it
        return bytes(pyrage.encrypt(content, [self.root.recipient]))

    def open(self, sealed: bytes, what: str) -> bytes:
        """What the root has sealed, or one before it. Raises Damaged."""
        for again in (True, False):
            try:
                return bytes(pyrage.decrypt(sealed, self._identities()))
            except pyrage.DecryptError as error:
                if not again:
                    raise Damaged(f"{what}: neither the root key nor one before it opens it: {error}") from None
                self._read()
        raise AssertionError("unreachable")

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
        self.root, found = _read_safe(self.folder, self.root)
        self.index_key, self._buckets = found.index_key, found.buckets
        self._former = tuple(one for one in found.former if one.id != self.root.id)  # of one that was cut off
        self._dropped |= {bucket_id: b for bucket_id, b in before.items() if bucket_id not in self._buckets}

    def _write(self, now: datetime, also: Root | None = None) -> None:
        content = _Contents(self.index_key, self._buckets, self._former)
        _write(self.folder, [self.root] if also is None else [self.root, also], content, now)

    def _identities(self) -> list[pyrage.x25519.Identity]:
        return [self.root.identity, *(identity_of(one.secret) for one in self._former)]


def open_safe(folder: Path, now: datetime, *, may_create: bool = True) -> Safe:
    """The key safe in `folder`, with its root key; both made on first use.

    A root without a safe is what a crash of the first use leaves, and gets one. `may_create` False when the
    catalog already has keys: then a missing root or safe is UsageError, never a new one, because a new root
    would make everything unreadable look merely absent."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(folder):
        root_file, safe_file = folder / roots.FILE, folder / SAFE
        missing = [p.name for p in (root_file, safe_file) if not p.exists()]
        if missing and (not may_create or missing == ["root.key"]):
            raise UsageError(
                f"key safe {folder}: {' and '.join(missing)} missing. Expected root.key and safe.age, which belong "
                "together and to this catalog. Restore them from their backup; nothing can be read without them."
            )
        if missing:
            if "root.key" in missing:
                write_private(root_file, new_root().file)
            _write(folder, [read_root(root_file)], _Contents(secrets.token_bytes(32)), now)
        root, found = _read_safe(folder)
        former = tuple(one for one in found.former if one.id != root.id)
        return Safe(folder, root, found.index_key, found.buckets, former)


def opens(secret: bytes, sealed: bytes) -> bool:
    """Whether the root with this secret is one of those to which `sealed` is."""
    try:
        pyrage.decrypt(sealed, [identity_of(secret)])
    except pyrage.DecryptError:
        return False
    return True


def signing_key(folder: Path) -> Ed25519PrivateKey:
    """The Ed25519 key that signs reconciliations; made on first use, mode 600."""
    path = folder / "signing.key"
    with locked(folder):
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


def _read_safe(folder: Path, known: Root | None = None) -> tuple[Root, _Contents]:
    """The root and what it opens; both are read again where they were replaced between the two."""
    path = folder / SAFE
    for again in (True, False):
        root = read_root(folder / roots.FILE, known)
        try:
            return root, _opened(path.read_bytes(), [root.identity], str(path))
        except Damaged:
            if not again:
                raise
    raise AssertionError("unreachable")


def _opened(content: bytes, identities: Sequence[pyrage.x25519.Identity], what: str) -> _Contents:
    try:
        opened = json.loads(pyrage.decrypt(content, identities))
    except (pyrage.DecryptError, ValueError) as error:
        raise Damaged(
            f"key safe {what} does not open with the root key, {roots.FILE} ({error}). "
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
    former = tuple(
        FormerRoot(UUID(one["id"]), datetime.fromisoformat(one["retired"]), base64.b64decode(one["secret"]))
        for one in opened.get("former_roots", ())
    )
    return _Contents(base64.b64decode(opened["index_key"]), buckets, former)


def _write(folder: Path, to: Iterable[Root], safe: _Contents, now: datetime) -> None:
    content = {
        "format": 1,
        "written": now.isoformat(),
        "index_key": base64.b64encode(safe.index_key).decode(),
        "buckets": [
            {
                "id": str(b.id),
                "scope": b.scope,
                "month": b.month.isoformat(),
                "generation": b.generation,
                "key": base64.b64encode(b.key).decode(),
            }
            for b in safe.buckets.values()
        ],
        "former_roots": [
            {"id": str(one.id), "retired": one.retired_at.isoformat(), "secret": base64.b64encode(one.secret).decode()}
            for one in safe.former
        ],
    }
    sealed = pyrage.encrypt(json.dumps(content).encode(), [root.recipient for root in to])
    write_private(folder / SAFE, sealed)
