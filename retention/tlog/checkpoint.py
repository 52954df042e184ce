"""The head of the ledger, signed: c2sp.org/tlog-checkpoint, its cosignatures, and what a witness cosigns. Pure.

Rules of this module:
- A checkpoint is a note whose text is the origin (which log), the size, the root in base64, and extension lines,
  which we never write: nobody could audit them.
- It is open only once a key of the log has signed it and its origin is the one expected. A witness's key never
  stands in for the log's: logs sign with kind 0x01, witnesses with kind 0x04.
- A witness remembers one checkpoint of a log and cosigns what extends it. What it must do in this order is the
  caller's: judge, remember the new one for good, only then hand out the cosignature (c2sp.org/tlog-witness).
- A cosignature says: at that time this was the largest tree of this log that I saw, and it extends all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from retention import merkle
from retention.errors import Damaged, UsageError
from retention.tlog import note
from retention.tlog.canonical import MAX_NUMBER, decode_base64, decode_number, encode_base64
from retention.tlog.note import COSIGNATURE, ED25519, Note, Signature, Signer, Verifier

MAX_ORIGIN = 255  # bytes: later kinds of cosignature hold no more


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Origin, number of leaves, and root hash. Raises ValueError for what no checkpoint can hold."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.origin.encode()) <= MAX_ORIGIN:
            raise ValueError(f"origin {self.origin!r}: expected 1 to {MAX_ORIGIN} bytes")
        if not 0 <= self.size <= MAX_NUMBER:
            raise ValueError(f"size {self.size}: expected 0 to 2^63 - 1")
        if len(self.root) != merkle.HASH:
            raise ValueError(f"root of {len(self.root)} bytes: expected {merkle.HASH}")
        if self.size == 0 and self.root != merkle.EMPTY:
            raise ValueError(f"root {self.root.hex()} of size 0: expected {merkle.EMPTY.hex()}")
        if any("\n" in line or not line for line in (self.origin, *self.extensions)):
            raise ValueError("origin and extensions: expected a line each, not empty")

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in (self.origin, self.size, encode_base64(self.root), *self.extensions))


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint that a key of its log signed, who signed, and which known witnesses cosigned it when (Unix)."""

    checkpoint: Checkpoint
    note: Note
    signed_by: tuple[Verifier, ...]
    cosigned: tuple[tuple[Verifier, int], ...]


def parse(text: str, what: str = "checkpoint") -> Checkpoint:
    """The text of a checkpoint, of which nothing is known yet. Raises Damaged."""
    try:
        if not text.endswith("\n"):
            raise ValueError("the last line does not end")
        origin, size, root, *extensions = text[:-1].split("\n")
        return Checkpoint(origin, decode_number(size), decode_base64(root), tuple(extensions))
    except ValueError as error:
        raise Damaged(f"{what}: expected lines with origin, size and base64 of the root ({error}).") from None


def sign(checkpoint: Checkpoint, signer: Signer) -> Note:
    """The log's own signature. Raises Refused if the key is not the one that it is said to be."""
    _check_kind(ED25519, [signer.verifier])
    return Note(checkpoint.text, ()).signed(note.sign(checkpoint.text, signer))


def cosign(opened: Opened, signer: Signer, time: int) -> Signature:
    """A witness's signature, at `time` (Unix seconds), of a checkpoint that it judged. Raises as `sign` does."""
    _check_kind(COSIGNATURE, [signer.verifier])
    return note.sign(opened.note.text, signer, time)


def open_signed(
    data: bytes, origin: str, keys: Sequence[Verifier], witnesses: Sequence[Verifier] = (), what: str = "checkpoint"
) -> Opened:
    """The checkpoint of the log `origin`, signed by one of its keys. Raises Damaged, or UsageError for wrong keys.

    Cosignatures of `witnesses` are verified where there are any; how many are enough, the caller decides."""
    _check_kind(ED25519, keys)
    _check_kind(COSIGNATURE, witnesses)
    parsed = note.parse(data, what)
    verified = note.verify(parsed, [*keys, *witnesses], what)
    signed_by = tuple(verifier for verifier, _ in verified if verifier in keys)
    if not signed_by:
        raise Damaged(f"{what}: cosigned, but not signed by {' or '.join(map(str, keys))}, the log itself.")
    checkpoint = parse(parsed.text, what)
    if checkpoint.origin != origin:
        raise Damaged(f"{what}: expected the log {origin!r}, found {checkpoint.origin!r}.")
    times = tuple((v, int.from_bytes(s.value[:8], "big")) for v, s in verified if v in witnesses)
    return Opened(checkpoint, parsed, signed_by, times)


def _check_kind(kind: int, keys: Sequence[Verifier]) -> None:
    for key in keys:
        if key.kind != kind:
            whose = {ED25519: "a log signs with kind 0x01", COSIGNATURE: "a witness signs with kind 0x04"}[kind]
            raise UsageError(f"key {key}: {whose}, found 0x{key.kind:02x}.")


class Finding(StrEnum):
    """How a checkpoint stands to the one that a witness remembers."""

    FIRST = "first"  # nothing is remembered: taken as it is
    EXTENDS = "extends"
    UNCHANGED = "unchanged"  # seen again: cosigning it again only renews the time
    FOREIGN = "foreign"  # another log
    ROLLED_BACK = "rolled back"  # smaller: the log lost leaves, or an old checkpoint is replayed
    FORKED = "forked"  # two roots of one size
    INCONSISTENT = "inconsistent"  # no proof that it extends


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a witness may cosign; the reason is for people."""

    finding: Finding
    reason: str

    @property
    def accepted(self) -> bool:
        return self.finding in (Finding.FIRST, Finding.EXTENDS, Finding.UNCHANGED)


def judge(remembered: Checkpoint | None, new: Checkpoint, proof: Sequence[bytes]) -> Verdict:
    """Whether `new`, opened, extends the checkpoint that the witness remembers, by a proof from that one's size."""
    size, root = (remembered.size, remembered.root) if remembered else (0, merkle.EMPTY)
    if remembered and new.origin != remembered.origin:
        finding = Finding.FOREIGN
        reason = f"refusing another log: expected {remembered.origin!r}, found {new.origin!r}."
    elif new.size < size:
        finding = Finding.ROLLED_BACK
        reason = (
            f"refusing size {new.size} after size {size}: an old checkpoint is replayed, or the log lost leaves. "
            "Ask for the present one."
        )
    elif new.size == size and new.root != root:
        finding = Finding.FORKED
        reason = (
            f"refusing a fork: size {size} had root {root.hex()}, now {new.root.hex()}. Keep both checkpoints: "
            "their signatures prove that the log said both."
        )
    elif damage := _inconsistency(size, root, new, proof):
        finding, reason = Finding.INCONSISTENT, f"refusing what is not shown to extend size {size}: {damage}"
    elif remembered is None:
        finding, reason = Finding.FIRST, f"the first checkpoint seen of {new.origin!r}, size {new.size}."
    elif new.size == size:
        finding, reason = Finding.UNCHANGED, f"the checkpoint that is remembered, size {size}."
    else:
        finding, reason = Finding.EXTENDS, f"size {new.size} extends size {size}."
    return Verdict(finding, reason)


def _inconsistency(size: int, root: bytes, new: Checkpoint, proof: Sequence[bytes]) -> str | None:
    try:
        merkle.verify_consistency(size, new.size, proof, root, new.root)
    except Damaged as damaged:
        return str(damaged)
    return None
