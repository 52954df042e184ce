"""The key that signs the ledger's checkpoints: made once, kept here, handed over.

Rules of this module:
- A log has one origin for ever, and at any time one key. `create` makes the first, `rotate` the next.
- A private key is a file of mode 600 in the workspace's `keys` folder, in the form of C2SP signed notes, or is in AWS
  KMS and never here. It is durable, and has signed once, before its public half is in the catalog: a key that is named
  there can sign.
- A key is introduced by an event (PREMIS dsg). The event of every further key holds the signature of the key before
  it over a hand-over (`handover`), so that whoever trusts the first key can trust the last, by the ledger alone.
- The private key is in no message, event, log or `repr`.
"""

from __future__ import annotations

import os
import re
import secrets
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from retention import kms, ledger
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import Damaged, NotFound, Refused, UsageError
from retention.history.handover import INTRODUCED, handover
from retention.ledger import Event
from retention.private_files import write_private
from retention.tlog import note
from retention.tlog.note import ED25519, Signer, Verifier

_MAKING = 0x6C6B6579  # an advisory lock of our own, "lkey": who may not update a table may not lock it
_ORIGIN = re.compile(r"[a-z0-9][a-z0-9.-]*(/[A-Za-z0-9._-]+)*")


@dataclass(frozen=True, slots=True)
class LogKey:
    """A key of the log as the catalog knows it."""

    number: int
    origin: str
    verifier: Verifier
    kept_in: str


def all_keys(conn: Connection) -> list[LogKey]:
    """The keys of the log, first to last; none before `create`."""
    rows = conn.execute("SELECT number, origin, vkey, kept_in FROM ledger_keys ORDER BY number")
    return [LogKey(number, origin, note.parse_vkey(vkey), kept_in) for number, origin, vkey, kept_in in rows]


def current(conn: Connection) -> LogKey:
    """The key that signs now. Raises NotFound before `create`."""
    keys = all_keys(conn)
    if not keys:
        raise NotFound("the ledger has no key yet, so nothing can be published. Make one: `muniment ledger init`.")
    return keys[-1]


def create(archive: Archive, origin: str, now: datetime, kms_key: str | None = None) -> LogKey:
    """The first key of the log `origin`; `kms_key`: that of this id in AWS KMS, not a new file.

    Raises Refused if there is one, UsageError for what is no origin, and what `kms.signing_key` raises."""
    if not _ORIGIN.fullmatch(origin) or len(origin) > 255:
        raise UsageError(
            f"origin {origin[:80]!r}: expected a name of your own like a host with a path, records.example.org/ledger, "
            "without scheme, spaces or pluses. It stands in every checkpoint and can never change."
        )
    with transaction(archive.connections) as conn:
        _lock(conn)
        if keys := all_keys(conn):
            raise Refused(
                f"refusing to make a first key: the ledger {keys[0].origin} has one, {keys[-1].verifier}. "
                "To take another: `muniment ledger rotate`."
            )
        return _introduce(conn, archive, origin, (), now, kms_key)


def rotate(archive: Archive, now: datetime, kms_key: str | None = None) -> LogKey:
    """The next key; the one before it hands over. Raises NotFound before `create` and without the present key."""
    with transaction(archive.connections) as conn:
        _lock(conn)
        keys = all_keys(conn)
        present = current(conn)
        return _introduce(conn, archive, present.origin, keys, now, kms_key)


def signer(archive: Archive, key: LogKey) -> Signer:
    """The private half. Raises NotFound if its file is gone, Damaged if it is another; KMS is asked when it signs."""
    kind, _, where = key.kept_in.partition(":")
    if kind == "kms":
        return Signer(key.verifier, partial(kms.sign, where))
    path = archive.settings.keys / where
    if kind != "file" or os.sep in where:
        raise UsageError(
            f"the ledger's key is kept in {key.kept_in!r}; expected a file in {path.parent}, or kms: and its ARN."
        )
    try:
        text = path.read_text("ascii").strip()
    except FileNotFoundError:
        raise NotFound(
            f"{path}: the key {key.verifier} that signs the ledger is not there. Restore the folder of keys; only if "
            "it is lost for good, say so to the auditors and begin a new ledger."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(f"{path}: expected the private key of {key.verifier}, cannot read it: {error}") from None
    found = note.parse_skey(text)
    if found.verifier != key.verifier:
        raise Damaged(f"{path}: expected the private key of {key.verifier}, found that of {found.verifier}.")
    return found


def _introduce(
    conn: Connection, archive: Archive, origin: str, before: Sequence[LogKey], now: datetime, kms_key: str | None
) -> LogKey:
    """The key after those before it, of which the last hands over."""
    verifier, kept_in = _in_kms(origin, kms_key) if kms_key else _in_file(archive, origin)
    key = LogKey(before[-1].number + 1 if before else 1, origin, verifier, kept_in)
    if used := [old for old in before if old.verifier == verifier]:
        raise Refused(f"refusing to take {kept_in} again: it is key {used[0].number} of this log. Make another.")
    note.sign(f"{origin}\nnew key {verifier}\n", signer(archive, key))  # no checkpoint: it has two lines
    detail: dict[str, Any] = {"what": INTRODUCED, "vkey": verifier.vkey}
    for old in before[-1:]:
        signed = note.sign(handover(origin, old.verifier, verifier), signer(archive, old))
        detail |= {"before": old.verifier.vkey, "signed": b64encode(signed.value).decode()}
    conn.execute(
        "INSERT INTO ledger_keys (number, origin, vkey, kept_in, recorded_at) VALUES (%s, %s, %s, %s, %s)",
        (key.number, origin, verifier.vkey, key.kept_in, now),
    )
    ledger.append(conn, [Event("dsg", now, archive.agent, (), detail=detail)], now)
    return key


def _in_file(archive: Archive, origin: str) -> tuple[Verifier, str]:
    private = note.skey(origin, ED25519, secrets.token_bytes(32))
    verifier = note.parse_skey(private).verifier
    name = f"ledger-{verifier.key_id.hex()}.key"
    write_private(archive.settings.keys / name, f"{private}\n".encode())
    return verifier, f"file:{name}"


def _in_kms(origin: str, kms_key: str) -> tuple[Verifier, str]:
    found = kms.signing_key(kms_key)
    return Verifier(origin, ED25519, found.public), f"kms:{found.arn}"


def _lock(conn: Connection) -> None:
    """One of those who make keys at a time."""
    conn.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKING,))
