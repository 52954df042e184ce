"""The root key: the one age identity that the key safe is sealed to, and where it is kept.

Rules of this module (requirements: storage, *Sealing*):
- `root.key` is a file of mode 600 in one of two forms: one line AGE-SECRET-KEY-1…, as age itself writes it; or a JSON
  object with the ARN of a key in AWS KMS, the public half, and the identity as KMS sealed it. In the second form the
  identity is never on disk in clear, and KMS is asked once by each process that opens the safe.
- What KMS seals is bound to the public half (its *encryption context*): one root cannot be passed off for another.
- A root has an id, reckoned from its public half: it tells roots apart in events and messages, and opens nothing.
- No secret is in a message, a log or `repr`.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pyrage

from retention import kms
from retention.age_text import age_secret, age_text
from retention.errors import Damaged, UsageError

FILE = "root.key"


def identity_of(secret: bytes) -> pyrage.x25519.Identity:
    """The age identity with this X25519 secret of 32 bytes."""
    return pyrage.x25519.Identity.from_str(age_text(secret))


@dataclass(frozen=True)
class Root:
    """A root key; `file` is what `root.key` holds of it, `kms` the ARN of the key that it is sealed with, if any."""

    identity: pyrage.x25519.Identity = field(repr=False)
    file: bytes = field(repr=False)
    kms: str | None = None

    @cached_property
    def recipient(self) -> pyrage.x25519.Recipient:
        return self.identity.to_public()

    @cached_property
    def id(self) -> UUID:
        return UUID(bytes=sha256(f"muniment root {self.recipient}".encode()).digest()[:16], version=4)

    @property
    def secret(self) -> bytes:
        """Its 32 bytes."""
        return age_secret(str(self.identity))


def new_root(kms_key: str | None = None) -> Root:
    """A new root, in a file; with `kms_key` (id, ARN or alias) sealed by that key of AWS KMS, which was asked to open
    it again. Raises what `kms.wrapping_key` and `kms.decrypt` raise."""
    identity = pyrage.x25519.Identity.generate()
    if kms_key is None:
        return in_file(identity)
    recipient = str(identity.to_public())
    arn = kms.wrapping_key(kms_key)
    sealed = kms.encrypt(arn, str(identity).encode(), _context(recipient))
    kept = {"format": 1, "kms": arn, "recipient": recipient, "sealed": base64.b64encode(sealed).decode()}
    return _parse(json.dumps(kept, indent=1).encode() + b"\n", f"the root that KMS key {arn} has sealed just now")


def in_file(identity: pyrage.x25519.Identity) -> Root:
    return Root(identity, f"{identity}\n".encode())


def read_root(path: Path, known: Root | None = None) -> Root:
    """The root in this file; `known` where it is that one, so that KMS is not asked again.

    Raises UsageError for a file that others may read or that is no root key, Damaged, and what `kms.decrypt` raises."""
    if path.stat().st_mode & 0o077:
        raise UsageError(f"refusing to use {path}: others may read it. Expected mode 600; run `chmod 600 {path}`.")
    content = path.read_bytes()
    return known if known is not None and content == known.file else _parse(content, str(path))


def _parse(content: bytes, what: str) -> Root:
    if not content.startswith(b"{"):
        return Root(_identity(content, what), content)
    try:
        kept = json.loads(content)
        known, arn, recipient = kept["format"] == 1, str(kept["kms"]), str(kept["recipient"])
        sealed = base64.b64decode(kept["sealed"], validate=True)
    except (ValueError, KeyError, TypeError):
        raise _no_root(what) from None
    if not known:
        raise UsageError(f"{what}: expected format 1, found {kept['format']}. Install the version that wrote it.")
    root = Root(_identity(kms.decrypt(arn, sealed, _context(recipient)), what), content, arn)
    if str(root.recipient) != recipient:
        raise Damaged(f"{what}: expected the root of {recipient}, KMS key {arn} opened that of {root.recipient}.")
    return root


def _identity(content: bytes, what: str) -> pyrage.x25519.Identity:
    try:
        return pyrage.x25519.Identity.from_str(content.decode("ascii").strip())
    except (ValueError, pyrage.IdentityError):
        raise _no_root(what) from None


def _no_root(what: str) -> UsageError:
    return UsageError(
        f"{what}: expected one line AGE-SECRET-KEY-1…, or the JSON of a root in KMS; found something else."
    )


def _context(recipient: str) -> dict[str, str]:
    return {"muniment": "root key", "recipient": recipient}
