"""Cosignatures of published checkpoints, as witnesses gave them: kept beside the locked copies, for whoever asks later.

Rules of this module (c2sp.org/tlog-cosignature):
- `ledger/cosignatures/<size>/<key id>` is the note of one checkpoint with the log's signature and that of one witness:
  it proves itself, and clients that know only tiles and `checkpoint` never look there.
- Kept is what verifies with the witness's public key, which comes on another way, and is of a checkpoint that stands
  in the vault, with the same size and root. An older one is as good: it says that the tree was seen so early.
- The first one stands. A later one by the same witness of the same checkpoint says less, and changes nothing.
- Locked as the copies are, where the vault can lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from retention.archive import Archive
from retention.database import transaction
from retention.errors import Damaged, NotFound, Refused
from retention.history import keys
from retention.history.publishing import COPIES, COSIGNATURES, lock
from retention.tlog import checkpoint
from retention.tlog.checkpoint import Checkpoint, Opened
from retention.tlog.note import Note, Verifier
from retention.vault.base import Vault


@dataclass(frozen=True, slots=True)
class Kept:
    """The cosignature that stands: of what, by whom, when (Unix seconds), and whether it is kept only now."""

    checkpoint: Checkpoint
    witness: Verifier
    time: int
    key: str
    new: bool


def add(archive: Archive, data: bytes, witnesses: Sequence[Verifier], now: datetime, what: str) -> list[Kept]:
    """Keep the cosignatures by `witnesses` on a checkpoint of ours.

    Raises Damaged for a signature that does not verify, Refused for what we never published or nobody cosigned."""
    with transaction(archive.connections) as conn:
        known = keys.all_keys(conn)
    if not known:
        raise NotFound("this ledger has no key yet, so nothing of it was ever signed: `muniment ledger init`.")
    log, origin = [key.verifier for key in known], known[0].origin
    given = checkpoint.open_signed(data, origin, log, witnesses, what)
    if not given.cosigned:
        raise Refused(
            f"refusing to keep {what}: none of its signatures is by {' or '.join(map(str, witnesses))}. Ask the "
            "witness for the note that it cosigned, and for its public key."
        )
    ours = _published(archive.vault, given, origin, log, what)
    return [_keep(archive.vault, ours, given, witness, log, now) for witness, _ in given.cosigned]


def _published(vault: Vault, given: Opened, origin: str, log: Sequence[Verifier], what: str) -> Opened:
    """The locked copy of the same checkpoint."""
    head = given.checkpoint
    key = f"{COPIES}/{head.size:020}"
    try:
        ours = checkpoint.open_signed(_read(vault, key), origin, log, what=key)
    except NotFound:
        raise Refused(
            f"refusing to keep {what}: it is of {head.size:,} events, and no checkpoint of that size was published. "
            "The log's key signed it: keep the file, and look who used the key."
        ) from None
    if ours.note.text != given.note.text:
        raise Refused(
            f"refusing to keep {what}: it is of {head.size:,} events with the root {head.root.hex()}, published was "
            f"{ours.checkpoint.root.hex()}. Keep the file: with the copy it proves that the log said both."
        )
    return ours


def _keep(vault: Vault, ours: Opened, given: Opened, witness: Verifier, log: Sequence[Verifier], now: datetime) -> Kept:
    head = ours.checkpoint
    key = f"{COSIGNATURES}/{head.size:020}/{witness.key_id.hex()}"
    try:
        former = checkpoint.open_signed(_read(vault, key), head.origin, log, [witness], what=key)
    except NotFound:
        line = next(s for s in given.note.signatures if (s.name, s.key_id) == (witness.name, witness.key_id))
        content = Note(ours.note.text, (*ours.note.signatures, line)).encode()
        vault.put(key, content, sha256=sha256(content).digest(), size=len(content), lock=lock(vault, now))
        return Kept(head, witness, dict(given.cosigned)[witness], key, new=True)
    if former.note.text != ours.note.text or not former.cosigned:
        raise Damaged(f"{key}: expected the cosignature by {witness} of {head.size:,} events, found something else.")
    return Kept(head, witness, former.cosigned[0][1], key, new=False)


def _read(vault: Vault, key: str) -> bytes:
    with vault.open(key) as file:
        return file.read(1_000_000)
