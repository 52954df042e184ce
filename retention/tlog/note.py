"""Text signed by one or more keys: c2sp.org/signed-note, with the two kinds of Ed25519 signature. Pure.

Rules of this module:
- A note is a text that ends in a newline, a blank line, and signature lines `— NAME BASE64(key id || signature)`. It
  is UTF-8 without control characters but the newline, at most 1 MB with at most 100 signatures.
- A key is its name, its kind and 32 bytes; the key id, 4 bytes of SHA-256 over these, only says which one. Kind 0x01
  signs the text; kind 0x04 signs the time and the text (c2sp.org/tlog-cosignature, `cosignature/v1`).
- Signatures of unknown keys are ignored, also under the name or the id (not both) of a known one. One signature of
  a known key that does not verify condemns the note; one that verifies is the least.
- A private key is text too (as in golang.org/x/mod/sumdb/note), and never stands in a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from retention.errors import Damaged, Refused, UsageError
from retention.tlog.canonical import MAX_NUMBER, decode_base64, encode_base64

ED25519, COSIGNATURE = 0x01, 0x04
MAX_BYTES = 1_000_000
MAX_SIGNATURES = 100

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_PRIVATE = "PRIVATE+KEY+"


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key. Raises ValueError for a name with spaces or pluses, another kind or length."""

    name: str
    kind: int
    public: bytes

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise ValueError(f"name {self.name!r}: expected characters, none of them a space or a plus")
        if self.kind not in (ED25519, COSIGNATURE):
            raise ValueError(f"kind 0x{self.kind:02x}: expected 0x01 (Ed25519) or 0x04 (cosignature)")
        if len(self.public) != 32:
            raise ValueError(f"a key of {len(self.public)} bytes, expected 32")

    @property
    def key_id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]

    @property
    def vkey(self) -> str:
        """As people hand it on: NAME+ID+BASE64."""
        return f"{self}+{encode_base64(bytes([self.kind]) + self.public)}"

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}"

    def verifies(self, text: str, value: bytes) -> bool:
        message = text.encode()
        if self.kind == COSIGNATURE:
            time, value = int.from_bytes(value[:8], "big"), value[8:]
            if time > MAX_NUMBER:
                return False
            message = cosigned_message(text, time)
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(value, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key, here or in a key management service: `sign` makes 64 bytes of Ed25519 over a message."""

    verifier: Verifier
    sign: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Signature:
    """One line: the name and id of a key, and what it made."""

    name: str
    key_id: bytes
    value: bytes

    def __str__(self) -> str:
        return f"— {self.name} {encode_base64(self.key_id + self.value)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signatures, none of them verified."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        return f"{self.text}\n{''.join(map(str, self.signatures))}".encode()

    def signed(self, signature: Signature) -> Note:
        """With this signature, in place of an older one by the same key."""
        others = (s for s in self.signatures if (s.name, s.key_id) != (signature.name, signature.key_id))
        return Note(self.text, (*others, signature))


def parse_vkey(vkey: str) -> Verifier:
    """A public key as people hand it on. Raises UsageError."""
    if vkey.startswith(_PRIVATE):
        raise UsageError("verifier key: found a private key, which must stay where it is. Give NAME+ID+BASE64.")
    try:
        name, key_id, encoded = vkey.split("+", 2)
        key = decode_base64(encoded)
        verifier = Verifier(name, key[0], key[1:])
        _check_id(key_id, verifier)
    except (ValueError, IndexError) as error:
        raise UsageError(f"verifier key {vkey!r}: expected NAME+ID+BASE64 of an Ed25519 key ({error}).") from None
    return verifier


def parse_skey(skey: str) -> Signer:
    """A private key as `skey` writes it. Raises UsageError, in words that hold nothing of the text."""
    try:
        private, _, rest = skey.partition(_PRIVATE)
        name, key_id, encoded = rest.split("+", 2)
        key = decode_base64(encoded)
        signer = _signer(name, key[0], key[1:])
        if private:
            raise ValueError
        _check_id(key_id, signer.verifier)
    except (ValueError, IndexError):
        raise UsageError(
            f"signer key: expected one line {_PRIVATE}NAME+ID+BASE64 of an Ed25519 key, found something else. "
            "It was cut or changed, or is another kind of key."
        ) from None
    return signer


def skey(name: str, kind: int, seed: bytes) -> str:
    """The text of the private key of 32 random bytes. Raises ValueError as Verifier does."""
    return f"{_PRIVATE}{_signer(name, kind, seed).verifier}+{encode_base64(bytes([kind]) + seed)}"


def _signer(name: str, kind: int, seed: bytes) -> Signer:
    if len(seed) != 32:
        raise ValueError(f"a key of {len(seed)} bytes, expected 32")
    private = Ed25519PrivateKey.from_private_bytes(seed)
    return Signer(Verifier(name, kind, private.public_key().public_bytes_raw()), private.sign)


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() for c in name) and not _CONTROL.search(name)


def _check_id(key_id: str, verifier: Verifier) -> None:
    if key_id != verifier.key_id.hex():
        raise ValueError(f"its id is {verifier.key_id.hex()}, found {key_id!r}")


def cosigned_message(text: str, time: int) -> bytes:
    """What a key of kind 0x04 signs; time in Unix seconds."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def sign(text: str, signer: Signer, time: int | None = None) -> Signature:
    """A signature of the text; the time, in Unix seconds, is for a key of kind 0x04 and for no other.

    Raises ValueError for a text that no note can have, Refused if the key is not the one that it is said to be."""
    if not text.endswith("\n") or _CONTROL.search(text):
        raise ValueError("the text of a note ends in a newline and has no other control character")
    verifier = signer.verifier
    if verifier.kind == COSIGNATURE:
        if time is None or not 0 <= time <= MAX_NUMBER:
            raise ValueError(f"a cosignature needs its time in Unix seconds, found {time}")
        value = time.to_bytes(8, "big") + signer.sign(cosigned_message(text, time))
    elif time is not None:
        raise ValueError(f"{verifier} signs no time")
    else:
        value = signer.sign(text.encode())
    if not verifier.verifies(text, value):
        raise Refused(
            f"refusing to use the signature by {verifier}: the private key is not the one of {verifier.vkey}."
        )
    return Signature(verifier.name, verifier.key_id, value)


def parse(data: bytes, what: str = "note") -> Note:
    """A note as it stands, not verified: its text must not be used before `verify`. Raises Damaged."""
    if len(data) > MAX_BYTES:
        raise Damaged(f"{what}: {len(data)} bytes, a note has at most {MAX_BYTES}.")
    try:
        content = data.decode()
    except UnicodeDecodeError as error:
        raise Damaged(f"{what}: expected UTF-8, found another byte at {error.start}.") from None
    if control := _CONTROL.search(content):
        raise Damaged(f"{what}: expected no control characters, found {control[0]!r} at character {control.start()}.")
    text, blank, lines = content.rpartition("\n\n")
    if not blank or not lines.endswith("\n"):
        raise Damaged(f"{what}: expected a text, a blank line and signature lines, each ended by a newline.")
    text += "\n"
    signatures = lines[:-1].split("\n")
    if len(signatures) > MAX_SIGNATURES:
        raise Damaged(f"{what}: {len(signatures)} signatures, a note has at most {MAX_SIGNATURES}.")
    first = text.count("\n") + 2
    return Note(text, tuple(_parse_line(line, f"{what}, line {first + n}") for n, line in enumerate(signatures)))


def _parse_line(line: str, what: str) -> Signature:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    try:
        value = decode_base64(encoded)
    except ValueError:
        value = b""
    if dash != "—" or not _is_name(name) or len(value) <= 4:
        raise Damaged(f"{what}: expected `— NAME BASE64` of a key id and a signature, found {line[:80]!r}.")
    return Signature(name, value[:4], value[4:])


def verify(note: Note, known: Sequence[Verifier], what: str = "note") -> list[tuple[Verifier, Signature]]:
    """The signatures of known keys, all verified, the first of each key. Raises Damaged if there is none, or a bad one.

    Raises UsageError for two known keys with one name and id: no signature could tell which is meant."""
    keys = {(verifier.name, verifier.key_id): verifier for verifier in known}
    if len(keys) != len(set(known)):
        raise UsageError(f"{what}: two of the keys {', '.join(map(str, known))} have one name and id. Leave one out.")
    found: dict[Verifier, Signature] = {}
    for signature in note.signatures:
        verifier = keys.get((signature.name, signature.key_id))
        if verifier is None:
            continue
        if not verifier.verifies(note.text, signature.value):
            raise Damaged(
                f"{what}: the signature by {verifier} is not of this text. The text or the signature was changed."
            )
        found.setdefault(verifier, signature)
    if not found:
        by = ", ".join(f"{s.name}+{s.key_id.hex()}" for s in note.signatures)
        raise Damaged(f"{what}: expected a signature by {' or '.join(map(str, known)) or 'a known key'}, found {by}.")
    return list(found.items())
