"""The key that signs the ledger's checkpoints: made once, kept here, handed over.

Rules of this module:
- A log has one origin for ever, and at any time one key. `create` makes the first, `rotate` the next.
- A private key is a file of mode 600 in the workspace's `keys` folder, in the form of C2SP signed notes. It is
  durable before its public half is in the catalog: a key that is named there can sign.
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
from pathlib import Path
from typing import Any

from retention import ledger
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import Damaged, NotFound, Refused, UsageError
from retention.history.handover import INTRODUCED, handover
from retention.ledger import Event
from retention.seal import write_private
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


def create(archive: Archive, origin: str, now: datetime) -> LogKey:
    """The first key of the log `origin`. Raises Refused if there is one, UsageError for what is no origin."""
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
        return _introduce(conn, archive, origin, (), now)


def rotate(archive: Archive, now: datetime) -> LogKey:
    """The next key; the one before it hands over. Raises NotFound before `create` and without the present key."""
    with transaction(archive.connections) as conn:
        _lock(conn)
        present = current(conn)
        return _introduce(conn, archive, present.origin, (present,), now)


def signer(archive: Archive, key: LogKey) -> Signer:
    """The private half. Raises NotFound if its file is gone, Damaged if it is another."""
    path = _path(archive.settings.keys, key.kept_in)
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


def _introduce(conn: Connection, archive: Archive, origin: str, before: Sequence[LogKey], now: datetime) -> LogKey:
    seed = secrets.token_bytes(32)
    private = note.skey(origin, ED25519, seed)
    verifier = note.parse_skey(private).verifier
    name = f"ledger-{verifier.key_id.hex()}.key"
    write_private(archive.settings.keys / name, f"{private}\n".encode())
    detail: dict[str, Any] = {"what": INTRODUCED, "vkey": verifier.vkey}
    for old in before:
        signed = note.sign(handover(origin, old.verifier, verifier), signer(archive, old))
        detail |= {"before": old.verifier.vkey, "signed": b64encode(signed.value).decode()}
    key = LogKey(before[-1].number + 1 if before else 1, origin, verifier, f"file:{name}")
    conn.execute(
        "INSERT INTO ledger_keys (number, origin, vkey, kept_in, recorded_at) VALUES (%s, %s, %s, %s, %s)",
        (key.number, origin, verifier.vkey, key.kept_in, now),
    )
    ledger.append(conn, [Event("dsg", now, archive.agent, (), detail=detail)], now)
    return key


def _path(folder: Path, kept_in: str) -> Path:
    kind, _, name = kept_in.partition(":")
    if kind != "file" or os.sep in name:
        raise UsageError(f"the ledger's key is kept in {kept_in!r}; expected a file in {folder}.")
    return folder / name


def _lock(conn: Connection) -> None:
    """One of those who make keys at a time."""
    conn.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKING,))
