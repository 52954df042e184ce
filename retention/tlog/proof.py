"""That one entry is in the ledger, in one file: c2sp.org/tlog-proof@v1. Pure.

Rules of this module:
- A proof is the leaf's index, the hashes from it to the root, and the signed checkpoint, verbatim. `extra` travels
  along for the reader and is not authenticated: what it says counts only as far as it leads to the leaf hash.
- Verifying needs the entry (from elsewhere), the origin and the keys, and nothing from the network. The size of the
  tree is bound by the checkpoint's signature, everything else by the way to its root.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from retention import merkle
from retention.errors import Damaged
from retention.tlog import checkpoint
from retention.tlog.canonical import MAX_NUMBER, decode_base64, decode_number, encode_base64
from retention.tlog.checkpoint import Opened
from retention.tlog.note import Verifier

HEADER = "c2sp.org/tlog-proof@v1"
SUFFIX = ".tlog-proof"  # of a file
MAX_HASHES = 63

_HEAD = re.compile(re.escape(HEADER.encode()) + rb"\n(?:extra ([!-~]+)\n)?index ([!-~]+)((?:\n[!-~]+)*)")


@dataclass(frozen=True, slots=True)
class Proof:
    """Raises ValueError for what the format cannot hold. No extra data is b""."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes  # a signed note
    extra: bytes = b""

    def __post_init__(self) -> None:
        if not 0 <= self.index <= MAX_NUMBER:
            raise ValueError(f"index {self.index}: expected 0 to 2^63 - 1")
        if len(self.hashes) > MAX_HASHES:
            raise ValueError(f"{len(self.hashes)} hashes: expected at most {MAX_HASHES}")
        if any(len(value) != merkle.HASH for value in self.hashes):
            raise ValueError(f"expected hashes of {merkle.HASH} bytes")

    def encode(self) -> bytes:
        lines = [HEADER, f"index {self.index}", *map(encode_base64, self.hashes), ""]
        if self.extra:
            lines.insert(1, f"extra {encode_base64(self.extra)}")
        return "".join(f"{line}\n" for line in lines).encode() + self.checkpoint


def parse(data: bytes, what: str = "proof") -> Proof:
    """A proof as it stands, not verified. Raises Damaged."""
    head, blank, signed = data.partition(b"\n\n")
    match = _HEAD.fullmatch(head)
    if match is None or not blank:
        raise Damaged(
            f"{what}: expected the lines `{HEADER}`, `extra BASE64` (or not), `index NUMBER`, hashes in base64, and a "
            f"blank line before the checkpoint, found {head[:80]!r}."
        )
    extra, index, hashes = (part.decode("ascii") for part in match.groups(b""))
    try:
        values = tuple(map(decode_base64, hashes.split("\n")[1:]))
        return Proof(decode_number(index), values, signed, decode_base64(extra))
    except ValueError as error:
        raise Damaged(f"{what}: expected an index and hashes in base64 ({error}).") from None


def verify(
    proof: Proof,
    leaf: bytes,
    origin: str,
    keys: Sequence[Verifier],
    witnesses: Sequence[Verifier] = (),
    what: str = "proof",
) -> Opened:
    """That the leaf hash stands at the proof's index in the log `origin`. Raises Damaged, or UsageError for wrong keys.

    Gives the checkpoint, with who signed and cosigned it when; how many cosignatures are enough, the caller decides."""
    opened = checkpoint.open_signed(proof.checkpoint, origin, keys, witnesses, f"{what}, its checkpoint")
    head = opened.checkpoint
    try:
        merkle.verify_inclusion(leaf, proof.index, head.size, proof.hashes, head.root)
    except Damaged as damaged:
        raise Damaged(f"{what}: {damaged} Either the entry is not the one that was logged, or the proof.") from None
    return opened
