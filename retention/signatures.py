"""What a person signs with: an Ed25519 SSH key of her own, and signatures in the form that `ssh-keygen -Y` makes.

Rules of this module:
- Pure but for reading a key file. The form is SSHSIG (openssh, PROTOCOL.sshsig): version 1, SHA-512, namespace
  `muniment`; so a statement can be signed on another machine, with a passphrase or an agent, and an auditor checks
  it with `ssh-keygen -Y verify`, without Muniment.
- Only `ssh-ed25519`: one kind of key, 32 bytes, no parameters that could be weak.
- A private key that others may read is refused, as ssh does. It is never stored, logged or sent anywhere.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable
from hashlib import sha256, sha512
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from retention.errors import Refused, UsageError

NAMESPACE = b"muniment"
_MAGIC, _VERSION, _HASH, _KIND = b"SSHSIG", 1, b"sha512", b"ssh-ed25519"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"


def public_key(line: str) -> bytes:
    """The 32 bytes of an OpenSSH public key line such as `ssh-ed25519 AAAA… name`. Raises UsageError."""
    parts = line.split()
    try:
        if len(parts) < 2 or parts[0] != _KIND.decode():
            raise ValueError
        kind, key = _fields(base64.b64decode(parts[1], validate=True), 2)
        if kind != _KIND or len(key) != 32:
            raise ValueError
    except (ValueError, binascii.Error):
        shown = parts[0] if parts else "nothing"
        raise UsageError(
            f"public key: expected one line `ssh-ed25519 AAAA… name`, found {shown!r}. Make a pair with "
            "`ssh-keygen -t ed25519` and give the file that ends in .pub."
        ) from None
    return key


def public_line(key: bytes) -> str:
    """The OpenSSH form of a public key, for an allowed_signers file."""
    return f"{_KIND.decode()} {base64.b64encode(_string(_KIND) + _string(key)).decode()}"


def fingerprint(key: bytes) -> str:
    """As `ssh-keygen -l` shows it."""
    digest = sha256(_string(_KIND) + _string(key)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def private_key(path: Path, passphrase: Callable[[], str]) -> Ed25519PrivateKey:
    """A private key from its file; `passphrase` is asked only where there is one. Raises UsageError."""
    try:
        content, mode = path.read_bytes(), path.stat().st_mode
    except OSError as error:
        raise UsageError(f"key {path}: cannot be read ({error.strerror}).") from None
    if mode & 0o077:
        raise UsageError(f"refusing to use {path}: others may read it. Expected mode 600; run `chmod 600 {path}`.")
    try:
        try:
            key = load_ssh_private_key(content, None)
        except TypeError:  # it has a passphrase
            key = load_ssh_private_key(content, passphrase().encode())
    except (ValueError, TypeError) as error:
        raise UsageError(f"key {path}: expected an OpenSSH private key, and its passphrase ({error}).") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"key {path}: expected ssh-ed25519, found another kind. `ssh-keygen -t ed25519` makes one.")
    return key


def public_of(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def sign(key: Ed25519PrivateKey, message: bytes) -> str:
    """An armored SSHSIG of `message`."""
    signature = _string(_KIND) + _string(key.sign(_signed(message)))
    public = _string(_KIND) + _string(public_of(key))
    blob = _MAGIC + struct.pack(">I", _VERSION) + b"".join(map(_string, (public, NAMESPACE, b"", _HASH, signature)))
    encoded = base64.b64encode(blob).decode()
    lines = [encoded[at : at + 70] for at in range(0, len(encoded), 70)]
    return "\n".join([_BEGIN, *lines, _END, ""])


def verify(armored: str, message: bytes) -> bytes:
    """The public key whose signature of exactly `message` this is. Raises UsageError, or Refused if it is not."""
    text = armored.strip()
    try:
        if not (text.startswith(_BEGIN) and text.endswith(_END)):
            raise ValueError("no SSH SIGNATURE block")
        blob = base64.b64decode("".join(text[len(_BEGIN) : -len(_END)].split()), validate=True)
        if blob[:6] != _MAGIC or struct.unpack_from(">I", blob, 6) != (_VERSION,):
            raise ValueError("not version 1 of SSHSIG")
        public, namespace, _, algorithm, signature = _fields(blob[10:], 5)
        kind, key = _fields(public, 2)
        signed_kind, value = _fields(signature, 2)
        if (kind, signed_kind) != (_KIND, _KIND):
            raise ValueError(f"a key of kind {kind.decode('ascii', 'replace')}, expected ssh-ed25519")
        if algorithm != _HASH:
            raise ValueError(f"hash {algorithm.decode('ascii', 'replace')}, expected sha512")
        if namespace != NAMESPACE:
            raise ValueError(f"namespace {namespace.decode('utf-8', 'replace')!r}, expected 'muniment'")
        verifier = Ed25519PublicKey.from_public_bytes(key)
    except (ValueError, struct.error, binascii.Error) as error:
        raise UsageError(
            f"signature: expected what `ssh-keygen -Y sign -n muniment -f KEY STATEMENT` writes, found {error}."
        ) from None
    try:
        verifier.verify(value, _signed(message))
    except InvalidSignature:
        raise Refused(
            "refusing the signature: it is not of this statement. Print the statement again, sign exactly that file."
        ) from None
    return key


def _signed(message: bytes) -> bytes:
    return _MAGIC + b"".join(map(_string, (NAMESPACE, b"", _HASH, sha512(message).digest())))


def _string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _fields(blob: bytes, count: int) -> list[bytes]:
    """Exactly `count` length-prefixed strings. Raises ValueError."""
    fields, at = [], 0
    for _ in range(count):
        if at + 4 > len(blob):
            raise ValueError("cut short")
        (length,) = struct.unpack_from(">I", blob, at)
        at += 4
        if at + length > len(blob):
            raise ValueError("cut short")
        fields.append(blob[at : at + length])
        at += length
    if at != len(blob):
        raise ValueError("longer than it says")
    return fields
