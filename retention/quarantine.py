"""Quarantine: documents that failed validation, kept with every finding until an officer decides.

Rules of this module:
- The bytes are sealed under a key of their own and stand in the vault at `quarantine/<id>`; nothing is dropped.
- An officer *releases* (the document becomes a record: the pipeline captures it again without its quarantine),
  or *rejects* with a reason, a code. Who, when and why is an event. A decision is made once.
- Rejected bytes stay for thirty days, and then until two people have them destroyed (retention.disposition.rejected);
  those of a released document until the record is destroyed that it became (retention.disposition.erasure).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from retention import ledger
from retention.archive import Archive, load_key
from retention.database import Connection, transaction
from retention.errors import Damaged, NotFound, Refused, UsageError
from retention.ledger import Event
from retention.seal import digest_of

SCOPE = "quarantine"  # its keys' scope in the key safe
REASON = re.compile(r"[a-z][a-z-]{1,39}")


@dataclass(frozen=True, slots=True)
class Kept:
    """One quarantined document in the vault."""

    quarantine_id: UUID
    size: int
    sealed_sha256: bytes
    sealed_bytes: int
    version: str
    commitment: bytes
    supersedes: UUID | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """One quarantined document, with what is known of it by name (None while descriptions are being rebuilt)."""

    quarantine_id: UUID
    state: str
    recorded_at: datetime
    size: int
    name: str | None
    source: str | None
    place: str | None
    findings: list[dict[str, Any]]
    reason: str | None
    record_id: UUID | None


def object_key(quarantine_id: UUID) -> str:
    return f"quarantine/{quarantine_id}"


def insert(conn: Connection, run_id: UUID, kept: Sequence[Kept], now: datetime) -> None:
    """Rows of quarantined documents, inside the capture transaction."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO quarantine (quarantine_id, run_id, bytes, sealed_sha256, sealed_bytes, version, commitment, "
            "supersedes, verified_at, recorded_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    *(k.quarantine_id, run_id, k.size, k.sealed_sha256, k.sealed_bytes, k.version, k.commitment),
                    *(k.supersedes, now, now),
                )
                for k in kept
            ],
        )


def listed(conn: Connection, state: str | None = "held", quarantine_id: UUID | None = None) -> list[Listed]:
    """Quarantined documents, oldest first: of one state, of all (None), or one."""
    rows = conn.execute(
        """SELECT q.quarantine_id, q.state, q.recorded_at, q.bytes, d.name, d.source, d.place,
                  coalesce(d.messages, (SELECT jsonb_agg(jsonb_build_object('code', f.code, 'severity', f.severity,
                      'message', '') ORDER BY f.code) FROM findings f WHERE f.subject_id = q.quarantine_id), '[]'),
                  q.reason, q.record_id
             FROM quarantine q LEFT JOIN descriptions d ON d.subject_id = q.quarantine_id
            WHERE (%(state)s::text IS NULL OR q.state = %(state)s)
              AND (%(id)s::uuid IS NULL OR q.quarantine_id = %(id)s)
            ORDER BY q.recorded_at, q.quarantine_id""",
        {"state": state, "id": quarantine_id},
    )
    return [Listed(*row) for row in rows]


def show(conn: Connection, quarantine_id: UUID) -> Listed:
    """One quarantined document. Raises NotFound."""
    found = listed(conn, None, quarantine_id)
    if not found:
        raise NotFound(f"no quarantined document {quarantine_id}. `muniment quarantine list` shows them.")
    return found[0]


def open_bytes(archive: Archive, quarantine_id: UUID, target: Path) -> None:
    """Write the document as it came to `target`. Raises Damaged if the vault's bytes are not what was kept."""
    with transaction(archive.connections) as conn:
        row = conn.execute(
            "SELECT sealed_sha256, version, commitment FROM quarantine WHERE quarantine_id = %s",
            (quarantine_id,),
        ).fetchone()
        if row is None:
            raise NotFound(f"no quarantined document {quarantine_id}. `muniment quarantine list` shows them.")
        key = load_key(conn, archive.safe, quarantine_id)
    name = object_key(quarantine_id)
    sealed = target.with_name(f"{target.name}.sealed")  # on disk: a document may be larger than memory
    try:
        with archive.vault.open(name, row[1]) as stream, sealed.open("w+b") as copy:
            shutil.copyfileobj(stream, copy)
            copy.seek(0)
            if digest_of(copy)[0] != bytes(row[0]):
                raise Damaged(f"{name}: the vault's bytes are not what was stored. Heal from a replica.")
            copy.seek(0)
            with target.open("w+b") as opened:
                key.open_file(copy, opened)
                opened.seek(0)
                if key.commitment(digest_of(opened)[0]) != bytes(row[2]):
                    raise Damaged(f"{name}: opens to other bytes than were quarantined.")
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        sealed.unlink(missing_ok=True)


def reject(archive: Archive, quarantine_id: UUID, reason: str, now: datetime) -> None:
    """Decide against it. `reason` is a code such as `not-a-record` or `duplicate`; free text could name people."""
    if not REASON.fullmatch(reason):
        raise UsageError(
            f"--reason: expected a code of lower-case letters and hyphens such as not-a-record, found {reason!r}."
        )
    with transaction(archive.connections) as conn:
        _decide(conn, archive, quarantine_id, "rejected", reason, None, now)
        detail = {"decision": "reject", "reason": reason}
        ledger.append(conn, [Event("qua", now, archive.agent, (quarantine_id,), detail=detail)], now)


def destroy_keys(conn: Connection, ids: Sequence[UUID], cause: UUID, now: datetime) -> list[tuple[str, UUID]]:
    """The keys of documents, and every row that describes them; `cause` is the proposal that says so. Returns what
    remains for a while, as plan_remains has it from now on: kind and id."""
    asked = {"ids": list(ids), "cause": cause, "now": now}
    remains = conn.execute(
        """WITH gone AS (DELETE FROM subject_keys WHERE subject_id = ANY(%(ids)s) RETURNING bucket_id)
           INSERT INTO plan_remains (plan_id, kind, remains_id)
           SELECT DISTINCT %(cause)s::uuid, 'bucket', bucket_id FROM gone ON CONFLICT DO NOTHING
        RETURNING kind, remains_id""",
        asked,
    ).fetchall()
    remains += conn.execute(
        """WITH gone AS (DELETE FROM descriptor_lines WHERE subject_id = ANY(%(ids)s) RETURNING descriptor_id)
           INSERT INTO plan_remains (plan_id, kind, remains_id)
           SELECT DISTINCT %(cause)s::uuid, 'descriptor', descriptor_id FROM gone ON CONFLICT DO NOTHING
        RETURNING kind, remains_id""",
        asked,
    ).fetchall()
    conn.execute("DELETE FROM descriptions WHERE subject_id = ANY(%(ids)s)", asked)
    conn.execute("DELETE FROM findings WHERE subject_id = ANY(%(ids)s)", asked)
    conn.execute(
        "UPDATE quarantine SET key_destroyed_at = coalesce(key_destroyed_at, %(now)s) "
        "WHERE quarantine_id = ANY(%(ids)s)",
        asked,
    )
    return remains


def destroyed(conn: Connection, ids: Sequence[UUID], now: datetime) -> None:
    """Nothing of these documents is left in the vault."""
    conn.execute(
        """UPDATE quarantine SET destroyed_at = %(now)s, key_destroyed_at = coalesce(key_destroyed_at, %(now)s)
            WHERE quarantine_id = ANY(%(ids)s)""",
        {"ids": list(ids), "now": now},
    )


def take(conn: Connection, quarantine_id: UUID) -> UUID | None:
    """Hold its place in its source until this transaction ends; returns the record that it supersedes, if any.

    First in the transaction that releases it: places are locked before anything else, everywhere."""
    conn.execute("SELECT 1 FROM sightings WHERE subject_id = %s ORDER BY place FOR UPDATE", (quarantine_id,))
    row = conn.execute("SELECT supersedes FROM quarantine WHERE quarantine_id = %s", (quarantine_id,)).fetchone()
    return row[0] if row else None


def release(conn: Connection, archive: Archive, quarantine_id: UUID, record_id: UUID, now: datetime) -> Event:
    """Mark as released into a record, inside the transaction that captures it; the caller appends the event."""
    _decide(conn, archive, quarantine_id, "released", None, record_id, now)
    conn.execute("UPDATE sightings SET subject_id = %s WHERE subject_id = %s", (record_id, quarantine_id))
    return Event("unq", now, archive.agent, (quarantine_id, record_id), detail={"decision": "release"})


def _decide(
    conn: Connection,
    archive: Archive,
    quarantine_id: UUID,
    state: str,
    reason: str | None,
    record_id: UUID | None,
    now: datetime,
) -> None:
    decided = conn.execute(
        "UPDATE quarantine SET state = %s, reason = %s, record_id = %s, decided_at = %s, decided_by = %s "
        "WHERE quarantine_id = %s AND state = 'held' RETURNING 1",
        (state, reason, record_id, now, archive.agent.on_behalf_of, quarantine_id),
    ).fetchone()
    if decided is None:
        found = show(conn, quarantine_id)
        raise Refused(f"refusing to decide {quarantine_id} again: it was {found.state} before.")
